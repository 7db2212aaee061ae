"""The Hugging Face Trainer gives the weights of raw loops, with the passes that the algorithm needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from transformers import Trainer, TrainerCallback, TrainingArguments

from saft.errors import UserError
from saft.integrations import transformers as adapter
from saft.integrations.transformers import SharpnessAwareMixin
from saft.optim import SAM, is_replay

pytestmark = pytest.mark.slow

STEPS, LR = 4, 0.05
NAMES = ["sam", "asam", "friendly_sam", "gsam", "looksam", "momentum_sam", "sampled_shift"]


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate keeps its state in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Model(nn.Module):
    """Returns a dictionary with the loss, as the Trainer likes it, and notes which pass calls it."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)
        )
        self.calls: list[bool] = []

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.calls.append(is_replay())
        return {"loss": nn.functional.cross_entropy(self.layers(x).float(), labels)}


class PlainInOrder(Trainer):
    """Takes the examples in order."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


class InOrder(SharpnessAwareMixin, PlainInOrder):
    pass


class WithSGD(PlainInOrder):
    """Steps with SGD."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimizer is None:
            self.optimizer = base_of(self.model)
        return super().create_optimizer(*args, **kwargs)


class SharpnessAwareTrainer(SharpnessAwareMixin, WithSGD):
    pass


class Seed(TrainerCallback):
    """Starts the random numbers of each step, and records what is logged."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_step_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        torch.manual_seed(state.global_step)

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        self.logs.append(logs)


def data(size: int = 16 * STEPS) -> list[dict[str, Any]]:
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": int(row.sum() > 0)} for row in x]


def batch_of(step: int) -> dict[str, Tensor]:
    rows = data()[16 * step : 16 * step + 16]
    return {"x": torch.stack([row["x"] for row in rows]), "labels": torch.tensor([r["labels"] for r in rows])}


def base_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.named_parameters(), lr=LR, momentum=0.9)


def options_of(name: str) -> dict[str, Any]:
    return {"perturbation": name} | ({"every": 2} if name == "looksam" else {})


def arguments(folder: Path, parts: int = 1, clip: float = 0.0, **others: Any) -> TrainingArguments:
    settings = {
        "per_device_train_batch_size": 16 // parts,
        "gradient_accumulation_steps": parts,
        "max_grad_norm": clip,
        "max_steps": STEPS,
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(folder), **(settings | others))


def trainer_of(
    folder: Path,
    parts: int = 1,
    clip: float = 0.0,
    dropout: float = 0.0,
    sharpness_aware: dict[str, Any] | None = None,
    callbacks: tuple[type[TrainerCallback], ...] = (Seed,),
    kind: type[Any] = SharpnessAwareTrainer,
    **others: Any,
) -> Any:
    return kind(
        Model(dropout),
        arguments(folder, parts, clip, **others),
        train_dataset=data(),
        callbacks=[callback() for callback in callbacks],
        sharpness_aware=sharpness_aware,
    )


def logs_of(trainer: Trainer) -> list[dict[str, float]]:
    seeds = [c for c in trainer.callback_handler.callbacks if isinstance(c, Seed)]
    return [log for log in seeds[0].logs if "loss" in log]


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(xs: list[Tensor], ys: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def raw(
    perturbation: str = "sam",
    *,
    clip: float = 0.0,
    dropout: float = 0.0,
    parts: int = 1,
    autocast: bool = False,
    **options: Any,
) -> list[Tensor]:
    """Return the weights of a raw loop; with `parts`, in the form per micro-batch."""
    model = Model(dropout)
    base = base_of(model)
    optimizer = SAM(base, perturbation, model=model, per_micro_batch=parts > 1, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(base, lambda step: 1 - step / STEPS)
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.zero_grad()
        batch = batch_of(step)
        for x, labels in zip(batch["x"].chunk(parts), batch["labels"].chunk(parts), strict=True):

            def backward(x: Tensor = x, labels: Tensor = labels) -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = model(x, labels)["loss"]
                (loss / parts).backward()

            with optimizer.first_pass():
                backward()
            if optimizer.replays:
                with optimizer.perturbed():
                    backward()
            else:
                optimizer.skip_replay()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()
    return weights_of(model)


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_same_weights_as_the_raw_loop(name: str, clip: float, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, clip=clip, dropout=0.5, sharpness_aware=options_of(name))
    trainer.train()
    assert same(weights_of(trainer.model), raw(clip=clip, dropout=0.5, **options_of(name)))


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_at_once_equals_eight_and_eight(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, 2, clip=0.1, sharpness_aware=options_of(name))
    trainer.train()
    assert_close(weights_of(trainer.model), raw(clip=0.1, **options_of(name)))


def test_the_form_per_micro_batch(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, 4, dropout=0.5, sharpness_aware={"per_micro_batch": True})
    trainer.train()
    assert same(weights_of(trainer.model), raw(parts=4, dropout=0.5))


@pytest.mark.parametrize(
    ("options", "replays"),
    [
        (None, [True] * STEPS),
        ({"per_micro_batch": True}, [True] * STEPS),
        ({"every": 2}, [True, False, True, False]),
        ({"start": 3}, [False, False, False, True]),
        ({"perturbation": "looksam", "every": 3}, [True, False, False, True]),
        ({"perturbation": "momentum_sam"}, [False] * STEPS),
    ],
)
def test_as_many_passes_as_the_algorithm_needs(
    options: dict[str, Any] | None, replays: list[bool], tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path, 2, sharpness_aware=options)
    trainer.train()
    alternate = bool(options) and "per_micro_batch" in options
    each = [[False, True] * 2 if alternate else [False] * 2 + [True] * 2, [False] * 2]
    assert trainer.model.calls == [call for step in replays for call in each[not step]]
    assert trainer.state.global_step == STEPS


def test_logs_schedule_and_steps_are_those_of_a_plain_trainer(tmp_path: Path) -> None:
    class Plain(WithSGD):
        def __init__(self, *args: Any, sharpness_aware: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    logs = []
    for kind in (Plain, SharpnessAwareTrainer):
        trainer = trainer_of(tmp_path, 2, dropout=0.5, sharpness_aware={"rho": 1.0}, kind=kind)
        trainer.train()
        logs.append(logs_of(trainer))
    assert logs[1][0]["loss"] == logs[0][0]["loss"]  # the loss at w, before the weights go their own ways
    assert logs[1][1]["loss"] != logs[0][1]["loss"]
    assert [log["learning_rate"] for log in logs[0]] == [log["learning_rate"] for log in logs[1]]
    assert [log["epoch"] for log in logs[0]] == [log["epoch"] for log in logs[1]]


def test_the_norm_that_is_logged_is_that_of_the_descent_gradient(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, clip=1e9, sharpness_aware={"rho": 1.0})
    trainer.train()
    model = Model()
    optimizer = SAM(base_of(model), rho=1.0)
    model(**batch_of(0))["loss"].backward()
    with optimizer.perturbed():
        model(**batch_of(0))["loss"].backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert float(logs_of(trainer)[0]["grad_norm"]) == pytest.approx(norm.item(), rel=1e-5)


def test_losses_scaled_by_the_number_of_items(tmp_path: Path) -> None:
    """With unequal numbers of labels, the mean over the items of the whole batch, in both passes."""

    def total(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        loss = nn.functional.cross_entropy(outputs["logits"], labels, ignore_index=-100, reduction="sum")
        return loss / num_items_in_batch

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor, **_: Any) -> dict[str, Tensor]:
            return {"logits": self.layer(x)}

    rows = [row | {"labels": -100 if i % 16 < 7 else row["labels"]} for i, row in enumerate(data())]
    found = []
    for parts in (1, 2):
        trainer = SharpnessAwareTrainer(
            Logits(),
            arguments(tmp_path, parts, remove_unused_columns=False),
            train_dataset=rows,
            compute_loss_func=total,
            sharpness_aware={"rho": 0.5},
        )
        trainer.train()
        found.append(weights_of(trainer.model))
    assert_close(*found)


@pytest.mark.parametrize("name", ["sam", "looksam", "friendly_sam"])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "dropout": 0.5,
        "clip": 0.5,
        "callbacks": (),
        "sharpness_aware": options_of(name),
    }
    trainer = trainer_of(tmp_path, 2, save_strategy="steps", save_steps=3, **settings)
    trainer.train()
    resumed = trainer_of(tmp_path / "again", 2, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(resumed.model.calls) == (4 if name != "looksam" else 2)  # step 3 alone
    assert same(weights_of(resumed.model), weights_of(trainer.model))


def test_training_again_begins_a_new_batch_and_keeps_the_optimizer(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, 2)
    trainer.train()
    made = trainer._sharpness_aware
    trainer.train()
    assert trainer._sharpness_aware is made
    assert made.ascent.step == 2 * STEPS


def test_bf16(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, dropout=0.5, bf16=True)
    trainer.train()
    assert same(weights_of(trainer.model), raw(autocast=True, dropout=0.5))


class Scaled(SharpnessAwareTrainer):
    """Scales its gradients as under fp16, for which Accelerate wants a GPU."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        self.accelerator.scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
        self.accelerator.state._mixed_precision = "fp16"
        return super().create_optimizer(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.accelerator.native_amp = True  # from here on: the forward itself stays in float32
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_scaled_gradients(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, 2, clip=0.1, sharpness_aware=options_of(name), kind=Scaled)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() == 1024
    assert_close(weights_of(trainer.model), raw(clip=0.1, **options_of(name)))


@pytest.mark.parametrize("overflow", ["first pass", "replay"])
def test_an_overflow_in_either_pass_skips_the_step_and_shrinks_the_scale_once(
    overflow: str, tmp_path: Path
) -> None:
    class Overflowing(Scaled):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            at = self.state.global_step == 1 and is_replay() == (overflow == "replay")
            return super().compute_loss(*args, **kwargs) * (float("inf") if at else 1)

    class Weights(TrainerCallback):
        def on_step_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
            weights.append(weights_of(model))

    weights: list[list[Tensor]] = []
    trainer = trainer_of(tmp_path, 2, clip=0.1, kind=Overflowing)
    trainer.add_callback(Weights())
    trainer.train()
    assert same(weights[0], weights[1])
    assert not same(weights[1], weights[2])
    assert trainer.accelerator.scaler.get_scale() == 512
    assert trainer._sharpness_aware.ascent.step == STEPS - 1


def test_adapters_on_a_frozen_base(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["layers.0", "layers.4"], lora_dropout=0.0)
        model = get_peft_model(Model(), config)
        frozen = [p.clone() for p in model.parameters() if not p.requires_grad]
        settings = arguments(tmp_path, parts, optim="sgd", learning_rate=0.5, label_names=["labels"])
        trainer = InOrder(model, settings, train_dataset=data())
        trainer.train()
        assert same(frozen, [p for p in model.parameters() if not p.requires_grad])
        assert trainer._sharpness_aware.ascent.step == STEPS
        found.append(weights_of(trainer.model))
    assert_close(*found)


def bert_weights(
    folder: Path, kind: type[Trainer], dtype: torch.dtype = torch.float32, **others: Any
) -> list[Tensor]:
    """Train a model of transformers, with dropout and the Trainer's own AdamW."""
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    rows = [{"input_ids": torch.arange(i, i + 8) % 32, "labels": i % 2} for i in range(64)]
    model = transformers.BertForSequenceClassification(settings).to(dtype)
    options = {"sharpness_aware": others.pop("sharpness_aware")} if "sharpness_aware" in others else {}
    kind(model, arguments(folder, 2, **others), train_dataset=rows, callbacks=[Seed()], **options).train()
    return weights_of(model)


def test_before_its_start_it_is_the_plain_trainer(tmp_path: Path) -> None:
    found = bert_weights(tmp_path, InOrder, sharpness_aware={"start": STEPS})
    assert same(found, bert_weights(tmp_path, PlainInOrder))
    assert not same(found, bert_weights(tmp_path, InOrder, sharpness_aware={"start": STEPS - 1}))


def test_activation_checkpointing(tmp_path: Path) -> None:
    options = {"sharpness_aware": {"perturbation": "asam", "rho": 0.5}}
    plain = bert_weights(tmp_path, InOrder, **options)
    assert_close(bert_weights(tmp_path, InOrder, activation_checkpointing=True, **options), plain)


def test_weights_in_low_precision_are_refused_or_copied(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bfloat16"):
        bert_weights(tmp_path, InOrder, torch.bfloat16)
    found = bert_weights(tmp_path, InOrder, torch.bfloat16, sharpness_aware={"low_precision": "float32"})
    assert all(weight.dtype == torch.bfloat16 and weight.isfinite().all() for weight in found)


@pytest.mark.slow
def test_a_compiled_model(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, 2, torch_compile=True, torch_compile_backend="aot_eager")
    trainer.train()
    assert_close(weights_of(trainer.model), raw())


def test_only_its_order_before_the_trainer_is_accepted() -> None:
    with pytest.raises(UserError, match=r"class Wrong\(SharpnessAwareMixin, Trainer\)"):

        class Wrong(Trainer, SharpnessAwareMixin):
            pass


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED"])
def test_engines_that_own_the_gradients_are_refused(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType[engine])
    with pytest.raises(UserError, match=rf"does not support {engine}: use"):
        trainer_of(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbation": "samm"}, "did you mean 'sam'"),
        ({"roh": 0.1}, "has no option 'roh'; did you mean 'rho'"),
        ({"per_micro_batch": True, "sync_ascent": True}, "leave out sync_ascent"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        trainer_of(tmp_path, sharpness_aware=options)


def test_optimizers_that_step_within_the_backward_pass_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="steps within the backward pass"):
        trainer_of(tmp_path, optim="galore_adamw_layerwise")


def test_an_older_trainer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.transformers, "__version__", "4.46.3")
    with pytest.raises(UserError, match=r"needs transformers 4\.47 or newer, but this is 4\.46\.3"):
        trainer_of(tmp_path)


def test_an_optimizer_made_behind_its_back_is_refused(tmp_path: Path) -> None:
    class Own(SharpnessAwareMixin, WithSGD):
        def create_optimizer(self, *_: Any, **__: Any) -> Any:
            self.optimizer = base_of(self.model)
            return self.optimizer

    with pytest.raises(UserError, match=r"let Own\.create_optimizer\(\) set self.optimizer and end with"):
        trainer_of(tmp_path, kind=Own).train()


def test_a_training_step_without_the_mixins_is_refused(tmp_path: Path) -> None:
    class Own(SharpnessAwareMixin, WithSGD):
        def training_step(self, model: nn.Module, inputs: Any, *_: Any) -> Tensor:
            loss = self.compute_loss(model, inputs)
            self.accelerator.backward(loss)
            return loss.detach()

    with pytest.raises(UserError, match="without a replay of this batch"):
        trainer_of(tmp_path, kind=Own).train()
