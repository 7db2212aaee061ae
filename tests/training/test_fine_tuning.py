from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

import saft
from saft import tasks
from saft.errors import UserError
from saft.files.fingerprints import fingerprint
from saft.files.lock import locked
from saft.model_config import ModelConfig
from saft.optim import PERTURBATIONS
from saft.optim.auto_radius import find_radius
from saft.optim.perturbations.base import PROBES
from saft.tasks import TaskModel, heads
from saft.tasks.heads import LinearHead
from saft.tasks.tokenizer import load_tokenizer
from saft.train import TrainConfig, TrainResult, train
from saft.training import fine_tuning
from saft.training.callbacks import Diverged, SaveEvery
from saft.training.module import TaskModule

SETTINGS = {"training": {"steps": 12, "learning_rate": 1e-3, "perturbation": {"name": "sam", "rho": 0.05}}}


def changed(settings: TrainConfig, out: str, **training: Any) -> TrainConfig:
    folder = str(Path(settings.out).parent / out)
    return dataclasses.replace(
        settings, out=folder, training=dataclasses.replace(settings.training, **training)
    )


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(result.folder / "model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_learning_lowers_the_loss_and_the_folder_is_whole(settings: TrainConfig, tiny_model: Path) -> None:
    result = train(changed(settings, "out", steps=60, learning_rate=1e-2))
    assert result.validation.value > 0.9
    trunk = transformers.AutoModel.from_pretrained(result.folder)
    assert equal(dict(trunk.state_dict()), weights(result))
    assert not equal(weights(result), load_file(tiny_model / "model.safetensors"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer("the red rose") == load_tokenizer(str(tiny_model))("the red rose")
    names = {str(file.relative_to(result.folder)) for file in result.folder.rglob("*") if file.is_file()}
    assert {"config.json", "saft.json", "README.md", "heads/colour.safetensors", "logs/metrics.csv"} <= names
    assert TrainResult.read(result.folder) == result
    assert [entry.name for entry in result.folder.parent.iterdir()] == ["out"]


@pytest.mark.slow
def test_rho_zero_is_plain_adamw_to_the_bit(settings: TrainConfig) -> None:
    plain = train(changed(settings, "plain", perturbation=None))
    zero = train(changed(settings, "zero", perturbation={"name": "sam", "rho": 0.0}))
    sharp = train(changed(settings, "sharp"))
    assert equal(weights(plain), weights(zero))
    assert not equal(weights(plain), weights(sharp))


def test_learning_rate_zero_leaves_the_weights_alone(settings: TrainConfig, tiny_model: Path) -> None:
    result = train(changed(settings, "still", learning_rate=0.0, steps=3))
    assert equal(weights(result), load_file(tiny_model / "model.safetensors"))


def test_the_training_is_adamw_written_by_hand(settings: TrainConfig, tiny_model: Path) -> None:
    """Two passes of a raw loop, from the equations: the oracle of the whole training path."""
    from saft import tasks
    from saft.tasks import Limits

    options = settings.training
    task = tasks.build("colour", settings.task, "tasks").bind("colour", settings.model, "t")
    splits = task.examples(Limits(40, None, 0, seed=0))
    classifier = task.model(task.load_trunk()).train()
    matrices = [p for p in classifier.parameters() if p.ndim > 1]
    vectors = [p for p in classifier.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
    )
    for step, indices in enumerate(splits.train.training_order(options.batch_size, options.steps, 0)):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * (1 - step / options.steps)
        batch = splits.train.collate(indices)
        gradients = []
        before = [p.detach().clone() for p in classifier.parameters()]
        for _ in range(2):
            torch.manual_seed(step * 1009)
            loss = torch.nn.functional.cross_entropy(classifier(batch.inputs), batch.labels)
            used = [p for p in classifier.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, used, allow_unused=True)
            if _ == 0:
                norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
                with torch.no_grad():
                    for p, g in zip(used, gradients, strict=True):
                        if g is not None:
                            p.add_(g, alpha=float(0.05 / norm))
        with torch.no_grad():
            for p, w in zip(classifier.parameters(), before, strict=True):
                p.copy_(w)
        for p, g in zip(used, gradients, strict=True):
            p.grad = g
        torch.nn.utils.clip_grad_norm_(used, options.gradient_clip)
        optimizer.step()
    trained = weights(train(settings))
    for name, value in classifier.trunk.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_micro_batches_are_the_same_batch(settings: TrainConfig) -> None:
    settings = changed(settings, "x", steps=4, schedule="constant")
    without_dropout = _without_dropout(settings)
    whole = weights(train(changed(without_dropout, "whole")))
    parts = weights(train(changed(without_dropout, "parts", micro_batch_size=3)))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5, msg=name)


def _without_dropout(settings: TrainConfig) -> TrainConfig:
    """Return the settings with a copy of the model whose config has no dropout."""
    folder = Path(settings.out).parent / "no-dropout"
    shutil.copytree(settings.model.path, folder)
    content = json.loads((folder / "config.json").read_text())
    content |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(content))
    return dataclasses.replace(settings, model=ModelConfig(str(folder)))


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    [
        {},
        {"perturbation": None},
        {"select_steps": [4, 8, 12]},
        {"perturbation": {"name": "asam", "rho": "auto", "rise": 0.05}},
        {"perturbation": {"name": "asam", "rho": "others", "tasks": 4}},
    ],
    ids=["sam", "plain", "selected", "auto", "others"],
)
def test_killed_and_resumed_equals_uninterrupted(
    settings: TrainConfig, arm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    every_step = settings.trainer | {"log_every_n_steps": 1}
    settings = dataclasses.replace(settings, checkpoint_every=5, trainer=every_step)
    uninterrupted = train(changed(settings, "whole", **arm))

    save = SaveEvery.on_train_batch_end

    def save_then_die(self: SaveEvery, trainer: Any, *rest: Any) -> None:
        save(self, trainer, *rest)
        if trainer.global_step == 7:
            raise Killed

    monkeypatch.setattr(SaveEvery, "on_train_batch_end", save_then_die)
    with pytest.raises(Killed):
        train(changed(settings, "resumed", **arm))
    monkeypatch.undo()
    work = Path(settings.out).parent / ".resumed.work"
    assert list(work.glob("*/last.ckpt"))
    torch.rand(3)  # what happens in between must not matter
    resumed = train(changed(settings, "resumed", **arm))
    assert not work.exists()
    assert equal(weights(uninterrupted), weights(resumed))
    for file in ("saft.json", "logs/metrics.csv"):
        first, second = ((result.folder / file).read_text() for result in (uninterrupted, resumed))
        assert first == second
    assert [step for step, _ in resumed.losses] == list(range(1, 13))


@pytest.mark.slow
def test_an_interrupted_run_of_another_config_is_not_mixed_in(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dataclasses.replace(settings, checkpoint_every=5)

    def die() -> None:
        raise Killed

    interrupted_at(7, monkeypatch, die)
    with pytest.raises(Killed):
        train(changed(settings, "out", learning_rate=0.5))
    monkeypatch.undo()
    assert list(Path(settings.out).parent.glob(".out.work/*/last.ckpt"))
    fresh = train(changed(settings, "fresh"))
    assert "begins anew" not in capsys.readouterr().err
    assert equal(weights(train(settings)), weights(fresh))
    assert ".out.work: is of another config, model or data, and removed" in capsys.readouterr().err


@pytest.mark.slow
def test_steps_are_selected_on_validation(settings: TrainConfig) -> None:
    result = train(changed(settings, "selected", steps=20, select_steps=[1, 10, 20], schedule="constant"))
    assert result.steps in (1, 10, 20)
    alone = train(changed(settings, "alone", steps=result.steps, schedule="constant"))
    assert equal(weights(result), weights(alone))


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]) -> None:
    """Let the next training end by `end` after a step, its checkpoint written."""
    save = SaveEvery.on_train_batch_end

    def save_then_end(self: SaveEvery, trainer: Any, *rest: Any) -> None:
        save(self, trainer, *rest)
        if trainer.global_step == step:
            end()

    monkeypatch.setattr(SaveEvery, "on_train_batch_end", save_then_end)


@pytest.mark.slow
def test_sigterm_interrupts_and_the_training_goes_on(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(settings, checkpoint_every=5)
    whole = train(changed(settings, "whole"))
    interrupted_at(7, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(settings)
    monkeypatch.undo()
    assert not Path(settings.out).exists()
    (checkpoint,) = Path(settings.out).parent.glob(".out.work/*/last.ckpt")
    assert torch.load(checkpoint, weights_only=False)["global_step"] == 5
    assert equal(weights(whole), weights(train(settings)))


@pytest.mark.slow
def test_a_training_on_changed_data_begins_anew(
    settings: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = settings.task["data"]
    file = tmp_path / "train.csv"
    text = Path(data["files"]["train"]).read_text()
    file.write_text(text)
    files = data["files"] | {"train": str(file)}
    task = settings.task | {"data": data | {"files": files}}
    settings = dataclasses.replace(settings, checkpoint_every=5, task=task)

    def die() -> None:
        raise Killed

    interrupted_at(7, monkeypatch, die)
    with pytest.raises(Killed):
        train(settings)
    monkeypatch.undo()
    file.write_text(text.replace("the", "near"))
    resumed = train(settings)
    assert equal(weights(resumed), weights(train(changed(settings, "fresh"))))
    manifest = json.loads((resumed.folder / "saft.json").read_text())
    assert manifest["data"]["sha256"][str(file)] == fingerprint(file)


def test_a_training_that_goes_on_may_be_given_an_upload_which_its_folder_does_not_name(
    settings: TrainConfig, hub: Any, interrupted_after: Any
) -> None:
    settings = dataclasses.replace(changed(settings, "out", steps=4), checkpoint_every=2)
    with interrupted_after(2):
        train(settings)
    settings = dataclasses.replace(settings, checkpoint_every=3, data_workers=0)  # nor do these begin it anew
    assert not hub.asked()
    (stopped,) = Path(settings.out).parent.glob(".out.work/*/last.ckpt")
    begun = stopped.stat().st_ino
    hub.refuses["create_repo"] = OSError("403 Forbidden")
    with pytest.raises(UserError, match="upload: anna/colour: 403 Forbidden"):
        train(dataclasses.replace(settings, upload="anna/colour"))
    (stopped,) = Path(settings.out).parent.glob(".out.work/*/last.ckpt")
    assert stopped.stat().st_ino == begun
    hub.refuses.clear()
    result = train(dataclasses.replace(settings, upload="anna/colour"))
    what, (repository, names, _) = hub.calls[-1]
    assert (what, repository) == ("upload_folder", "anna/colour")
    assert {"README.md", "saft.json", "config.json", "model.safetensors", "heads/colour.safetensors"} <= set(
        names
    )
    assert "upload" not in json.loads((result.folder / "saft.json").read_text())["config"]
    assert equal(weights(result), weights(train(dataclasses.replace(settings, out=f"{settings.out}2"))))


@pytest.mark.slow
def test_plain_adamw_has_no_ascent(settings: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        raise Killed

    for name, arm, ascends in (("plain", {"perturbation": None}, False), ("sharp", {}, True)):
        interrupted_at(6, monkeypatch, die)
        with pytest.raises(Killed):
            train(dataclasses.replace(changed(settings, name, **arm), checkpoint_every=5))
        monkeypatch.undo()
        (file,) = Path(settings.out).parent.glob(f".{name}.work/*/last.ckpt")
        checkpoint = torch.load(file, weights_only=False)
        assert (checkpoint["ascent"] is not None) == ascends
    assert settings.training.passes == 24
    assert dataclasses.replace(settings.training, perturbation=None).passes == 12


@pytest.mark.slow
def test_a_bfloat16_base_is_read_back_as_it_was_trained(
    settings: TrainConfig, tiny_model: Path, tmp_path: Path
) -> None:
    base = tmp_path / "bf16"
    shutil.copytree(tiny_model, base)
    transformers.AutoModel.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(base)
    assert transformers.AutoModel.from_pretrained(base).dtype == torch.bfloat16
    config = dataclasses.replace(changed(settings, "out", learning_rate=1e-5), model=ModelConfig(str(base)))
    result = train(config)
    read = transformers.AutoModel.from_pretrained(result.folder)
    assert read.dtype == torch.float32
    assert equal(dict(read.state_dict()), weights(result))


def test_what_is_told_of_a_training(settings: TrainConfig) -> None:
    settings = dataclasses.replace(settings, trainer=settings.trainer | {"log_every_n_steps": 1})
    result = train(changed(settings, "out", warmup_steps=3))
    manifest = json.loads((result.folder / "saft.json").read_text())
    assert manifest["tasks"]["colour"] == settings.task | {"pooling": "mean", "max_length": 16}
    assert manifest["metrics"]["metric"]["name"] == "accuracy"
    read = TrainResult.read(result.folder)
    assert read.seconds == result.seconds
    assert read.seconds is not None
    assert read.device == "cpu"
    assert read.memory == result.memory
    assert 0 < read.losses[-1][0] <= settings.training.steps
    assert all(0 < loss < 10 for _, loss in read.losses)
    with (result.folder / "logs" / "metrics.csv").open() as stream:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(stream)]
    linear = [1e-3 * share for share in (1 / 4, 2 / 4, 3 / 4, *(1 - step / 9 for step in range(9)))]
    assert rates == pytest.approx(linear)  # each that its step took, and not the next one's
    assert dataclasses.replace(read, folder=result.folder / "nowhere").losses == []
    infinite = manifest["metrics"]["validation"] | {"value": float("inf")}
    for metrics, told in (
        ({}, "metrics: is not what a training leaves"),
        (7, "metrics: is not what a training leaves"),
        (manifest["metrics"] | {"steps": "x"}, "metrics: is not what a training leaves"),
        (manifest["metrics"] | {"validation": infinite}, "Infinity is not a number"),
    ):
        (result.folder / "saft.json").write_text(json.dumps(manifest | {"metrics": metrics}))
        with pytest.raises(UserError, match=rf"saft.json: .*{told}"):
            TrainResult.read(result.folder)


def test_the_seconds_hold_what_a_penalty_computes_at_the_base(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def bind(module: TaskModule, setting: Any) -> None:
        clock[0] += 100

    monkeypatch.setattr(TaskModule, "bind_penalty", bind)
    monkeypatch.setattr("saft.training.callbacks.time.perf_counter", lambda: clock[0])
    assert train(changed(settings, "out", steps=1)).seconds == 100


def test_a_batch_larger_than_the_data_is_refused(settings: TrainConfig) -> None:
    with pytest.raises(
        UserError, match=r"training.batch_size: is 1000000000, but there are 40 training examples"
    ):
        train(changed(settings, "out", batch_size=10**9))
    assert not list(Path(settings.out).parent.glob("*out*"))


def test_a_second_training_into_a_folder_is_told(settings: TrainConfig) -> None:
    out = Path(settings.out)
    with locked(out.parent / ".out.lock", "out"), pytest.raises(UserError, match="another saft works in it"):
        train(settings)
    assert not (out.parent / ".out.work").exists()


def test_a_folder_that_another_writes_while_the_data_are_read_is_told_before_the_training(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any) -> Any:
        monkeypatch.setattr(fine_tuning, "_ready", ready)
        train(settings)
        monkeypatch.setattr(fine_tuning, "_train", None)  # which would fail if it were called
        return ready(*arguments)

    ready = fine_tuning._ready
    monkeypatch.setattr(fine_tuning, "_ready", read)
    with pytest.raises(UserError, match="is not empty; choose another folder"):
        train(settings)


def test_training_leaves_the_callers_random_numbers_alone(settings: TrainConfig) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(settings)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.slow
def test_seeds_differ(settings: TrainConfig) -> None:
    other = dataclasses.replace(changed(settings, "other"), seed=1)
    assert not equal(weights(train(settings)), weights(train(other)))


@pytest.mark.slow
def test_a_linear_head_is_trained_and_saved(settings: TrainConfig) -> None:
    settings = dataclasses.replace(settings, task=settings.task | {"head": "linear"})
    result = train(changed(settings, "linear", steps=60, learning_rate=1e-2))
    assert result.validation.value > 0.6
    assert load_file(result.folder / "heads/colour.safetensors")["weight"].abs().sum() > 0
    figures = saft.evaluate(saft.EvaluateConfig(checkpoints=[str(result.folder)], split="validation")).figures
    assert figures[str(result.folder)]["colour"] == pytest.approx(result.validation.value)


@pytest.mark.slow
def test_a_target_that_is_not_empty_is_refused(settings: TrainConfig) -> None:
    train(settings)
    with pytest.raises(
        UserError, match=r"is not empty; choose another folder, or replace it with --overwrite"
    ):
        train(settings)
    train(settings, overwrite=True)


@pytest.mark.slow
def test_divergence_is_named_and_leaves_nothing(settings: TrainConfig) -> None:
    wild = changed(settings, "out", learning_rate=1e18, gradient_clip=None, steps=20)
    with pytest.raises(UserError, match="training diverged: the loss is nan at step"):
        train(dataclasses.replace(wild, checkpoint_every=1))  # so that there is one with NaN to go on from
    assert list(Path(wild.out).parent.iterdir()) == []


@pytest.mark.slow
def test_a_divergence_by_the_last_step_is_one(settings: TrainConfig) -> None:
    wild = changed(settings, "out", learning_rate=1e39, steps=1)
    with pytest.raises(Diverged, match="diverged: step 1, the last, has made weights infinite or NaN"):
        train(wild)
    assert list(Path(wild.out).parent.iterdir()) == []


def test_a_divergence_that_the_search_for_a_radius_meets_is_one(settings: TrainConfig) -> None:
    ascent = {"name": "sam", "rho": "auto", "start": 4}
    wild = changed(settings, "out", learning_rate=1e18, gradient_clip=None, steps=8, perturbation=ascent)
    with pytest.raises(Diverged, match="training diverged: rho: auto: the loss at the first ascent is nan"):
        train(wild)


def test_what_fails_before_there_is_a_checkpoint_leaves_nothing(settings: TrainConfig) -> None:
    wrong = changed(settings, "out", parametrization={"name": "only", "tensors": ["nope"]})
    with pytest.raises(UserError, match="matches no tensor"):
        train(wrong)
    assert list(Path(wrong.out).parent.iterdir()) == []


@pytest.mark.parametrize("parametrization", [None, {"name": "lora", "rank": 2, "rho_space": "weights"}])
def test_a_radius_that_is_found_trains_as_the_number_does(
    settings: TrainConfig,
    parametrization: dict[str, Any] | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found: list[float] = []

    def finding(*arguments: Any, **more: Any) -> float:
        found.append(find_radius(*arguments, **more))
        return found[-1]

    monkeypatch.setattr("saft.training.module.find_radius", finding)
    settings = changed(settings, "out", steps=3, parametrization=parametrization)
    auto = changed(settings, "auto", perturbation={"name": "sam", "rho": "auto", "rise": 0.2})
    result = train(auto)
    assert auto.training.passes == 6 + 2 * PROBES
    assert f"rho: auto is {found[0]:.3g} in this training of colour" in capsys.readouterr().err
    number = train(changed(settings, "number", perturbation={"name": "sam", "rho": found[0]}))
    assert len(found) == 1
    file = "model.safetensors" if parametrization is None else "adapter_model.safetensors"
    assert equal(load_file(result.folder / file), load_file(number.folder / file))


@pytest.mark.parametrize("name", sorted(PERTURBATIONS.names()))
def test_every_perturbation_trains(settings: TrainConfig, tiny_model: Path, name: str) -> None:
    others = []
    if PERTURBATIONS.get(name).needs_vectors:
        others = [str(train(changed(settings, "other", steps=3, perturbation=None)).folder)]
    training = dataclasses.replace(settings.training, steps=3, perturbation={"name": name})
    result = train(dataclasses.replace(settings, training=training, others=others))
    assert not equal(weights(result), load_file(tiny_model / "model.safetensors"))


@pytest.mark.slow
def test_in_mixed_precision_the_replay_is_at_the_perturbed_weights(settings: TrainConfig) -> None:
    mixed = dataclasses.replace(settings, trainer={"precision": "bf16-mixed", "accelerator": "cpu"})
    sharp = train(changed(mixed, "sharp", perturbation={"name": "sam", "rho": 0.5}))
    plain = train(changed(mixed, "plain", perturbation=None))
    assert not equal(weights(sharp), weights(plain))


def test_bfloat16_mixed_trains_and_evaluates_the_trunk_in_it_and_the_head_in_float32(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: set[tuple[torch.dtype, torch.dtype, bool]] = set()
    forward = TaskModel.forward

    def noted(model: TaskModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = forward(model, inputs)
        hidden = next(m for m in model.trunk.modules() if isinstance(m, torch.nn.Linear))
        inner = hidden(torch.ones(1, hidden.in_features))
        computed.add((inner.dtype, logits.dtype, model.training))
        return logits

    monkeypatch.setattr(TaskModel, "forward", noted)
    trainer = {"precision": "bf16-mixed", "accelerator": "cpu"}
    training = dataclasses.replace(settings.training, select_steps=[2, settings.training.steps])
    result = train(dataclasses.replace(settings, trainer=trainer, training=training))
    assert all(value.dtype == torch.float32 for value in weights(result).values())
    assert computed == {(torch.bfloat16, torch.float32, True), (torch.bfloat16, torch.float32, False)}


def words_of(tiny_model: Path, folder: Path) -> None:
    """Write the tiny model's words as a tokenizer without any special token but the unknown one."""
    vocabulary = dict(transformers.AutoTokenizer.from_pretrained(tiny_model).get_vocab())
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(folder)


T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("GPT2LMHeadModel", transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, **TOKENS)),
        ("T5ForConditionalGeneration", transformers.T5Config(vocab_size=40, **T5)),
        ("T5EncoderModel", transformers.T5Config(vocab_size=40, **T5)),
        (
            "BartModel",
            transformers.BartConfig(vocab_size=40, decoder_start_token_id=0, **BART, **HEADS, **TOKENS),
        ),
    ],
)
def test_models_that_people_have_are_trained_and_read_back(
    settings: TrainConfig, tiny_model: Path, tmp_path: Path, kind: str, config: transformers.PreTrainedConfig
) -> None:
    """Decoders without a padding token, encoder-decoders, and the encoder of one."""
    base = tmp_path / "base"
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(base)
    words_of(tiny_model, base)
    result = train(dataclasses.replace(settings, model=ModelConfig(str(base))))
    figures = saft.evaluate(saft.EvaluateConfig([str(result.folder)], split="validation")).figures
    assert figures[str(result.folder)]["colour"] == result.validation.value
    stored, after = load_file(base / "model.safetensors"), weights(result)
    before = {name.removeprefix("transformer."): value for name, value in stored.items()}
    assert set(after) <= set(before)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert not any("decoder." in name for name in moved)


def test_the_pooling_of_a_head_that_is_taken_over_is_kept_with_it(
    settings: TrainConfig, tmp_path: Path
) -> None:
    heads.save(LinearHead(32, 3), tmp_path, "colour", list(settings.task["labels"]), "cls")
    task = settings.task | {"head": "linear"}
    result = train(dataclasses.replace(settings, task=task, head_from=str(tmp_path)))
    name, own, where = tasks.own_task("colour", result.folder, "")
    bound = own.bind(name, ModelConfig(str(result.folder)), where)
    assert bound.resolved["pooling"] == "cls"
    bound.model(bound.load_trunk(), result.folder)  # mean was written, and the head was refused
