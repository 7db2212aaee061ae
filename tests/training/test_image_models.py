"""Models of images are trained as a loop written by hand trains them, resumed to the bit, and merged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import saft
from saft import config, tasks
from saft.experiment.scaled_trunk import ScaledTrunk
from saft.models import ModelConfig
from saft.stored_names import stored_names
from saft.tasks import Limits
from saft.train import TrainConfig, TrainResult, train
from saft.training.callbacks import SaveEvery
from tests.tasks.tiny_vision import model, task
from tests.training.hugging_face import losses_of, train_by_trainer

pytestmark = pytest.mark.slow  # trainings

HEADS = {"vit": "linear", "clip": "zero_shot", "dinov2": "prototype", "convnext": "linear"}


def settings(kind: str, folder: Path, dropout: float = 0.0, **training: Any) -> TrainConfig:
    options = {"steps": 4, "learning_rate": 1e-3, "batch_size": 6, "schedule": "constant"}
    mapping = {
        "model": {"path": str(model(kind, folder / "model", dropout))},
        "task": task(folder, head=HEADS[kind], flip=True),
        "name": "shade",
        "out": str(folder / "out"),
        "training": options | training,
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
    }
    return config.parse(TrainConfig, mapping, "test")


def changed(settings: TrainConfig, out: str, **training: Any) -> TrainConfig:
    folder = str(Path(settings.out).parent / out)
    options = dataclasses.replace(settings.training, **training)
    return dataclasses.replace(settings, out=folder, training=options)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: TrainResult, second: TrainResult) -> bool:
    one, other = weights(first.folder), weights(second.folder)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", HEADS)
def test_the_training_is_a_loop_of_torch(kind: str, tmp_path: Path) -> None:
    given = settings(kind, tmp_path)
    options = given.training
    made = tasks.build("shade", given.task, "tasks").bind("shade", given.model, "t")
    examples = made.examples(Limits(test=0)).train
    classifier = made.model(made.load_trunk()).train()
    matrices = [p for p in classifier.parameters() if p.ndim > 1]
    vectors = [p for p in classifier.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
    )
    for step, indices in enumerate(examples.training_order(options.batch_size, options.steps, 0)):
        batch = examples.training_batch(indices, step, 0)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(batch.inputs), batch.labels).backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), options.gradient_clip)
        optimizer.step()
    result, names = train(given), stored_names(classifier.trunk)
    trained, base = weights(result.folder), weights(Path(given.model.path))
    for name, value in classifier.trunk.state_dict().items():
        if not name.endswith("k_proj.bias"):  # whose gradient is round-off: a softmax does not see it
            torch.testing.assert_close(trained[names[name]], value, rtol=1e-4, atol=1e-6, msg=name)
    assert trained.keys() <= base.keys()  # under the names that the model was published with
    assert any(not torch.equal(trained[name], base[name]) for name in trained)
    figures = saft.evaluate(saft.EvaluateConfig([str(result.folder)], split="validation")).figures
    assert figures[str(result.folder)]["shade"] == result.validation.value


def test_the_hugging_face_trainer_gives_the_same_losses_and_weights(tmp_path: Path) -> None:
    given = settings("vit", tmp_path, schedule="linear")
    ours = train(given)
    model = transformers.ViTForImageClassification.from_pretrained(given.model.path, num_labels=3)
    torch.nn.init.zeros_(model.classifier.weight)  # as our linear heads begin
    torch.nn.init.zeros_(model.classifier.bias)
    losses = train_by_trainer(
        model, given, lambda batch: batch.inputs | {"labels": batch.labels}, tmp_path / "theirs"
    )
    assert losses_of(ours) == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0]
    trained, names = weights(ours.folder), stored_names(model.vit)
    for name, value in model.vit.state_dict().items():
        if not name.endswith("k_proj.bias"):  # see above
            torch.testing.assert_close(trained[names[name]], value, rtol=1e-4, atol=1e-6, msg=name)
    head = load_file(ours.folder / "heads" / "shade.safetensors")
    for name, value in model.classifier.state_dict().items():
        torch.testing.assert_close(head[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_rho_zero_is_plain_adamw_to_the_bit_under_dropout(kind: str, tmp_path: Path) -> None:
    given = settings(kind, tmp_path, dropout=0.3)
    plain = train(changed(given, "plain"))
    zero = train(changed(given, "zero", perturbation={"name": "sam", "rho": 0.0}))
    sharp = train(changed(given, "sharp", perturbation={"name": "sam", "rho": 0.1}))
    assert equal(plain, zero)
    assert not equal(plain, sharp)


class Killed(Exception):
    pass


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, flips and random crops go on where they were."""
    given = settings("vit", tmp_path, 0.2, perturbation={"name": "sam", "rho": 0.05})
    given = dataclasses.replace(given, task=given.task | {"crop": 0.6}, checkpoint_every=2)
    uninterrupted = train(changed(given, "whole"))
    save = SaveEvery.on_train_batch_end

    def save_then_die(self: SaveEvery, trainer: Any, *rest: Any) -> None:
        save(self, trainer, *rest)
        if trainer.global_step == 3:
            raise Killed

    monkeypatch.setattr(SaveEvery, "on_train_batch_end", save_then_die)
    with pytest.raises(Killed):
        train(changed(given, "resumed"))
    monkeypatch.undo()
    assert equal(uninterrupted, train(changed(given, "resumed")))


def test_a_penalty_reads_images(tmp_path: Path) -> None:
    penalty = {"name": "drift", "every": 2, "strength": 5.0, "examples": 4}
    given = settings("dinov2", tmp_path)
    reading = dataclasses.replace(
        given,
        out=str(tmp_path / "still"),
        training=dataclasses.replace(given.training, penalty=penalty),
        reference={"other": given.task},
    )
    still, moving = train(reading), train(changed(given, "moving"))
    base = weights(Path(given.model.path))

    def moved(result: TrainResult) -> float:
        own = weights(result.folder)
        return sum(float((own[name] - base[name]).square().sum()) for name in own) ** 0.5

    assert 0 < moved(still) < moved(moving) * 1.001
    assert not equal(still, moving)


def test_a_tower_of_clip_merges_with_whatever_is_published_of_it(tmp_path: Path) -> None:
    """Base: the whole CLIP, or its tower; experts: ours, and towers as FusionBench has them."""
    given = settings("clip", tmp_path)
    clip = Path(given.model.path)
    ours = train(given).folder
    assert json.loads((ours / "config.json").read_text())["architectures"] == ["CLIPVisionModel"]
    theirs, tower = tmp_path / "theirs", tmp_path / "tower"
    published = transformers.CLIPVisionModel.from_pretrained(clip)
    published.save_pretrained(tower)
    with torch.no_grad():
        for parameter in published.parameters():
            parameter.add_(0.01)
    published.save_pretrained(theirs)
    for base in (clip, tower):
        out = tmp_path / f"merged-{base.name}"
        models = {"ours": str(ours), "theirs": str(theirs)}
        saft.merge(saft.MergeConfig(method="average", base=str(base), models=models), out)
        merged = weights(out)
        assert merged.keys() == weights(base).keys()
        for name, value in weights(ours).items():
            torch.testing.assert_close(merged[name], (value + weights(theirs)[name]) / 2)
        texts = [name for name in merged if not name.startswith("vision_model")]
        assert all(torch.equal(merged[name], weights(base)[name]) for name in texts)
        kind = transformers.CLIPModel if base == clip else transformers.CLIPVisionModel
        _, info = kind.from_pretrained(out, output_loading_info=True)
        assert not info["missing_keys"]
    shutil.rmtree(ours / "heads")
    merged_clip = str(tmp_path / f"merged-{clip.name}")
    scores = saft.evaluate(saft.EvaluateConfig([merged_clip], tasks={"shade": given.task})).figures
    assert 0 <= scores[merged_clip]["shade"] <= 1


def test_a_run_on_clip_starts_every_expert_with_the_head_of_the_text_tower(tmp_path: Path) -> None:
    """Its base is the tower; a trunk that is set to a coefficient is the merged folder, name by name."""
    given = settings("clip", tmp_path)
    options = {
        "out": str(tmp_path / "run"),
        "model": {"path": given.model.path},
        "tasks": {"shade": given.task, "again": given.task | {"flip": False}},
        "regimes": {"limited": 12},
        "validation_examples": 6,
        "test_examples": 6,
        "training": {"steps": 2, "batch_size": 6, "learning_rate": 3e-3},
        "arms": {"adamw": {}, "drift": {"penalty": {"name": "drift", "every": 1}}},
        "merges": {"task_arithmetic": {"scaling": [0.5]}},
    }
    result = saft.run(config.parse(saft.RunConfig, options, "t"))
    base = result.folder / "base"
    assert json.loads((base / "config.json").read_text())["architectures"] == ["CLIPVisionModel"]
    first = load_file(base / "heads" / "shade.safetensors")
    for expert in sorted(result.folder.glob("**/experts/shade")):
        if (expert / "model.safetensors").is_file():
            kept = load_file(expert / "heads" / "shade.safetensors")
            assert all(torch.equal(kept[name], first[name]) for name in first)
    made = tasks.build("shade", given.task, "tasks").bind("shade", ModelConfig(str(base)), "t")
    trunk = made.load_trunk()
    names = stored_names(trunk)
    vector = {names[name]: torch.ones_like(tensor) for name, tensor in trunk.state_dict().items()}
    before = {
        name: tensor.clone() for name, tensor in trunk.state_dict().items() if tensor.is_floating_point()
    }
    ScaledTrunk(trunk, {name: value.float() for name, value in vector.items()}).by(0.5)
    for name, tensor in before.items():
        torch.testing.assert_close(trunk.state_dict()[name], tensor + 0.5)


def test_batches_that_processes_make_are_the_same(tmp_path: Path) -> None:
    alone = settings("vit", tmp_path)
    ahead = dataclasses.replace(alone, out=alone.out + "-ahead", data_workers=2)
    assert equal(train(alone), train(ahead))
