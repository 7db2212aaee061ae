"""Language models are trained as the Hugging Face Trainer trains them, resumed to the bit, and merged."""

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
from saft import config
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import Batch
from saft.train import TrainConfig, TrainResult, train
from saft.training.callbacks import SaveEvery
from tests.training.hugging_face import losses_of, train_by_trainer

KINDS = {
    "tiny_llama": {
        "kind": "language_modeling",
        "prompt": "{text} :",
        "completion": "{label}",
        "packing": True,
    },
    "tiny_gpt2": {"kind": "language_modeling", "text": "{text} {label}"},
    "tiny_t5": {"kind": "text_to_text", "input": "{text}", "target": "{label}", "metric_name": "loss"},
}


@pytest.fixture(params=list(KINDS))
def settings(
    request: pytest.FixtureRequest, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> TrainConfig:
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    mapping = {
        "model": {"path": str(request.getfixturevalue(request.param))},
        "task": KINDS[request.param] | {"data": data, "max_length": 24},
        "name": "colour",
        "out": str(tmp_path / "out"),
        "training": {"steps": 6, "learning_rate": 1e-2, "batch_size": 4},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
    }
    return config.parse(TrainConfig, mapping, "test")


def changed(settings: TrainConfig, out: str, **training: Any) -> TrainConfig:
    folder = str(Path(settings.out).parent / out)
    options = dataclasses.replace(settings.training, **training)
    return dataclasses.replace(settings, out=folder, training=options)


def weights(result: TrainResult) -> dict[str, Tensor]:
    return load_file(result.folder / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def without_dropout(settings: TrainConfig) -> TrainConfig:
    folder = Path(settings.out).parent / "no-dropout"
    shutil.copytree(settings.model.path, folder)
    content = json.loads((folder / "config.json").read_text())
    off = {key: 0.0 for key in content if "dropout" in key or key.endswith("_pdrop")}
    (folder / "config.json").write_text(json.dumps(content | off))
    return dataclasses.replace(settings, model=ModelConfig(str(folder)))


def as_transformers_takes_it(batch: Batch, causal: bool) -> dict[str, Tensor]:
    """Return the inputs with the labels where transformers expects them: at the token itself, if causal."""
    labels = torch.cat([torch.full_like(batch.labels[:, :1], -100), batch.labels[:, :-1]], 1)
    return batch.inputs | {"labels": labels if causal else batch.labels}


@pytest.mark.slow
def test_the_hugging_face_trainer_gives_the_same_losses_and_weights(
    settings: TrainConfig, tmp_path: Path
) -> None:
    """Clipped, too; a causal model's decayed, and accumulated from micro-batches of different lengths."""
    causal = settings.task["kind"] == "language_modeling"
    options = {"gradient_clip": 0.1, "schedule": "cosine"}
    options |= {"weight_decay": 1.0, "micro_batch_size": 3} if causal else {}
    settings = changed(without_dropout(settings), "ours", **options)
    ours = train(settings)
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSeq2SeqLM
    model = kind.from_pretrained(settings.model.path, use_cache=False)
    parts = 4 if causal else 1
    losses = train_by_trainer(
        model, settings, lambda batch: as_transformers_takes_it(batch, causal), tmp_path / "theirs", parts
    )
    assert losses_of(ours) == pytest.approx(losses, rel=1e-4)
    theirs = model.state_dict()
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_rho_zero_is_plain_adamw_to_the_bit_under_dropout(settings: TrainConfig) -> None:
    plain = train(changed(settings, "plain"))
    zero = train(changed(settings, "zero", perturbation={"name": "sam", "rho": 0.0}))
    sharp = train(changed(settings, "sharp", perturbation={"name": "sam", "rho": 0.1}))
    assert equal(weights(plain), weights(zero))
    assert not equal(weights(plain), weights(sharp))


def test_micro_batches_are_the_same_batch_though_their_texts_are_of_different_lengths(
    settings: TrainConfig,
) -> None:
    settings = without_dropout(settings)
    whole = weights(train(changed(settings, "whole", steps=3, learning_rate=1e-3)))
    parts = weights(train(changed(settings, "parts", steps=3, learning_rate=1e-3, micro_batch_size=1)))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4, msg=name)


class Killed(Exception):
    pass


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam = {"perturbation": {"name": "sam", "rho": 0.05}}
    settings = dataclasses.replace(settings, checkpoint_every=2)
    uninterrupted = train(changed(settings, "whole", **sam))
    save = SaveEvery.on_train_batch_end

    def save_then_die(self: SaveEvery, trainer: Any, *rest: Any) -> None:
        save(self, trainer, *rest)
        if trainer.global_step == 3:
            raise Killed

    monkeypatch.setattr(SaveEvery, "on_train_batch_end", save_then_die)
    with pytest.raises(Killed):
        train(changed(settings, "resumed", **sam))
    monkeypatch.undo()
    assert equal(weights(uninterrupted), weights(train(changed(settings, "resumed", **sam))))


def test_of_several_numbers_of_steps_the_best_is_kept_with_a_tied_head_too(settings: TrainConfig) -> None:
    result = train(changed(settings, "chosen", select_steps=[2, 4], steps=4))
    assert result.steps in (2, 4)
    alone = train(changed(settings, "alone", steps=4, select_steps=[result.steps]))
    assert all(torch.equal(weights(alone)[name], value) for name, value in weights(result).items())


@pytest.mark.slow
def test_experts_merge_with_their_language_head(settings: TrainConfig) -> None:
    experts = [train(dataclasses.replace(changed(settings, f"e{seed}"), seed=seed)) for seed in (0, 1)]
    out = Path(settings.out).parent / "merged"
    saft.merge(
        saft.MergeConfig(
            method="average",
            base=settings.model.path,
            models={f"e{at}": str(expert.folder) for at, expert in enumerate(experts)},
        ),
        out,
    )
    merged, base, *both = (
        load_file(folder / "model.safetensors")
        for folder in (out, Path(settings.model.path), *(expert.folder for expert in experts))
    )
    heads = [name for name in merged if name.endswith(("lm_head.weight", "wte.weight", "shared.weight"))]
    assert heads
    for name in heads:
        torch.testing.assert_close(merged[name], (both[0][name] + both[1][name]) / 2)
    assert merged.keys() == base.keys()
    causal = settings.task["kind"] == "language_modeling"
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSeq2SeqLM
    _, info = kind.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    compared = [str(out), settings.model.path]
    figures = saft.evaluate(
        saft.EvaluateConfig(checkpoints=compared, tasks={"colour": settings.task}, split="validation")
    ).figures
    assert figures[str(out)]["colour"] < figures[settings.model.path]["colour"]
    own = saft.evaluate(saft.EvaluateConfig(checkpoints=[str(experts[0].folder)], split="validation")).figures
    assert own[str(experts[0].folder)]["colour"] == pytest.approx(experts[0].validation.value)


@pytest.mark.parametrize("settings", ["tiny_llama"], indirect=True)
def test_what_a_penalty_cannot_read_is_told_before_the_training(
    settings: TrainConfig, tiny_tasks: dict[str, dict[str, Any]]
) -> None:
    shuffled = changed(settings, "shuffled", penalty={"name": "drift", "inputs": "own_shuffled"})
    with pytest.raises(UserError, match=r"^training.penalty: inputs: own_shuffled: .*'colour' has packing"):
        train(shuffled)
    options = dataclasses.replace(settings.training, penalty={"name": "drift", "outputs": "predictions"})
    with pytest.raises(UserError, match=r"^training.penalty: outputs: predictions: task 'size' predicts no"):
        train(dataclasses.replace(settings, training=options, reference={"size": tiny_tasks["size"]}))
