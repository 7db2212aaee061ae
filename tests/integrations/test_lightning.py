from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torchmetrics import MeanMetric

import saft.integrations.lightning
from saft.errors import UserError
from saft.integrations.lightning import SharpnessAware
from saft.optim import SAM, is_replay

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning 2.6's own, with torch 2.13
    pytest.mark.filterwarnings("ignore:.*many workers"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("sam", {"rho": 0.3}),
    ("asam", {"rho": 0.5}),
    ("norm_only", {"rho": 0.3}),
    ("momentum_sam", {"rho": 0.3}),
    ("sampled_shift", {"rho": 0.01}),
    ("friendly_sam", {"rho": 0.3}),
    ("gsam", {"rho": 0.3}),
    ("looksam", {"rho": 0.3, "every": 3}),
    ("sam", {"rho": 0.3, "every": 2, "start": 1, "schedule": "learning_rate"}),
    ("sam", {"rho": 0.0}),
]


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2))


class Loader:
    """A loader that Lightning does not take for a collection of loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def batches_of(count: int, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 4, generator=generator), torch.randint(0, 2, (size,), generator=generator))
        for _ in range(count)
    ]


class Classifier(L.LightningModule):
    """Any module: it knows nothing of saft."""

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model_of() if model is None else model
        self.passes: list[bool] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.passes.append(is_replay())
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = StepLR(optimizer, 2, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer_of(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(callbacks=list(callbacks), **(defaults | options))


def fitted(
    callback: SharpnessAware | None,
    batches: list[Any],
    module: L.LightningModule | None = None,
    **options: Any,
) -> L.LightningModule:
    module = Classifier() if module is None else module
    torch.manual_seed(2)
    trainer_of(*([callback] if callback else []), **options).fit(module, Loader(batches))
    return module


def raw_loop(
    batches: list[Any],
    perturbation: str = "sam",
    micro_batches: int = 1,
    clip: float | None = None,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    **options: Any,
) -> nn.Module:
    """Train without any framework."""
    model = model_of()
    base = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer, schedule = SAM(base, perturbation, model=model, **options), StepLR(base, 2, gamma=0.5)
    torch.manual_seed(2)

    def backward(batch: Any) -> None:
        with torch.autocast("cpu", autocast) if autocast else nullcontext():
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1]) / micro_batches
        (loss if scaler is None else scaler.scale(loss)).backward()

    for start in range(0, len(batches), micro_batches):
        window = batches[start : start + micro_batches]
        optimizer.zero_grad()
        for batch in window:
            with optimizer.first_pass():
                backward(batch)
        if optimizer.replays:
            with optimizer.perturbed():
                for batch in window:
                    with optimizer.ascent.replay_pass():
                        backward(batch)
        else:
            optimizer.skip_replay()
        if scaler is not None:
            scaler.unscale_(base)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            base.step()
        else:
            scaler.step(base)
            scaler.update()
        schedule.step()
    return model


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def assert_close(first: nn.Module, second: nn.Module, **tolerances: float) -> None:
    for a, b in zip(weights(first), weights(second), strict=True):
        torch.testing.assert_close(a, b, **(tolerances or {"rtol": 1e-4, "atol": 1e-6}))


# ---- the same as a raw loop


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_the_weights_are_those_of_the_raw_loop_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    module = fitted(SharpnessAware(name, **options), batches_of(7))
    assert same(module, raw_loop(batches_of(7), name, **options))


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_so_they_are_under_accumulation(name: str, options: dict[str, Any]) -> None:
    module = fitted(SharpnessAware(name, **options), batches_of(8), accumulate_grad_batches=2)
    assert same(module, raw_loop(batches_of(8), name, micro_batches=2, **options))


def test_they_are_other_weights_than_without_the_callback() -> None:
    assert not same(fitted(SharpnessAware(rho=0.3), batches_of(3)), fitted(None, batches_of(3)))
    assert same(fitted(SharpnessAware(rho=0), batches_of(3)), fitted(None, batches_of(3)))


@pytest.mark.parametrize("name", ["sam", "asam", "friendly_sam", "gsam", "looksam"])
def test_one_batch_of_16_equals_2_of_8_and_4_of_4(name: str) -> None:
    def run(parts: int) -> nn.Module:
        model = model_of()
        model[3].p = 0.0  # its masks would differ
        cut = [part for x, y in batches_of(5) for part in zip(x.chunk(parts), y.chunk(parts), strict=True)]
        options = {"rho": 0.3, "every": 2} if name == "looksam" else {"rho": 0.3}
        return fitted(SharpnessAware(name, **options), cut, Classifier(model), accumulate_grad_batches=parts)

    for parts in (2, 4):
        assert_close(run(parts), run(1))


def test_per_micro_batch_form() -> None:
    options = {"per_micro_batch": True, "rho": 0.3}
    module = fitted(SharpnessAware(**options), batches_of(6), accumulate_grad_batches=3)

    model = model_of()
    base = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer, schedule = SAM(base, **options), StepLR(base, 2, gamma=0.5)
    torch.manual_seed(2)
    for step in range(2):
        optimizer.zero_grad()
        for inputs, labels in batches_of(6)[3 * step : 3 * step + 3]:
            with optimizer.first_pass():
                (nn.functional.cross_entropy(model(inputs), labels) / 3).backward()
            with optimizer.perturbed():
                (nn.functional.cross_entropy(model(inputs), labels) / 3).backward()
        optimizer.step()
        schedule.step()
    assert same(module, model)
    assert not same(module, fitted(SharpnessAware(rho=0.3), batches_of(6), accumulate_grad_batches=3))


@pytest.mark.parametrize(
    ("name", "options", "passes"),
    [
        ("sam", {}, [False, False, True, True]),
        ("sam", {"per_micro_batch": True}, [False, True, False, True]),
        ("momentum_sam", {}, [False, False]),
        ("sam", {"start": 1}, [False, False]),
        ("sam", {"rho": 0.0}, [False, False]),
    ],
)
def test_a_step_runs_as_many_passes_as_its_algorithm_needs(
    name: str, options: dict[str, Any], passes: list[bool]
) -> None:
    module = fitted(SharpnessAware(name, **options), batches_of(2), accumulate_grad_batches=2)
    assert module.passes == passes


def test_an_incomplete_accumulation_at_the_end_of_an_epoch_is_replayed_alone() -> None:
    module = fitted(SharpnessAware(), batches_of(3), accumulate_grad_batches=2, max_epochs=2)
    assert module.passes == 2 * [False, False, True, True, False, True]


def test_clipping_acts_on_the_descent_gradient() -> None:
    module = fitted(SharpnessAware(rho=0.3), batches_of(5), gradient_clip_val=0.05)
    assert same(module, raw_loop(batches_of(5), rho=0.3, clip=0.05))
    assert not same(module, raw_loop(batches_of(5), rho=0.3))


def test_the_modules_own_clipping_sees_the_descent_gradient() -> None:
    seen = []

    class Clips(Classifier):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.append(self.model[0].weight.grad.clone())

        def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
            seen.append(self.model[0].weight.grad.clone())

    fitted(SharpnessAware(rho=0.3), batches_of(1), Clips())
    model = model_of()
    optimizer = SAM(torch.optim.AdamW(model.parameters()), rho=0.3)
    inputs, labels = batches_of(1)[0]
    torch.manual_seed(2)
    with optimizer.first_pass():
        nn.functional.cross_entropy(model(inputs), labels).backward()
    with optimizer.perturbed():
        nn.functional.cross_entropy(model(inputs), labels).backward()
    assert torch.equal(seen[0], model[0].weight.grad)
    assert torch.equal(seen[1], model[0].weight.grad)


def test_bf16_mixed() -> None:
    module = fitted(SharpnessAware(rho=0.3), batches_of(5), precision="bf16-mixed")
    assert same(module, raw_loop(batches_of(5), rho=0.3, autocast=torch.bfloat16))


def test_weights_stored_in_bf16_are_refused() -> None:
    with pytest.raises(UserError, match="stored in bfloat16"):
        fitted(
            SharpnessAware(), [(batches_of(1)[0][0].bfloat16(), batches_of(1)[0][1])], precision="bf16-true"
        )


# ---- float16 and its scaler


def half(scale: float = 2.0**10) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize("name", ["sam", "asam", "gsam", "momentum_sam"])
@pytest.mark.parametrize("parts", [1, 2])
def test_16_mixed(name: str, parts: int) -> None:
    plugin = half()
    module = fitted(
        SharpnessAware(name, rho=0.3), batches_of(6), plugins=[plugin], accumulate_grad_batches=parts
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    expected = raw_loop(
        batches_of(6), name, micro_batches=parts, rho=0.3, autocast=torch.float16, scaler=scaler
    )
    # The raw loop unscales after the replay, the trainer before the ascent as well.
    assert_close(module, expected, rtol=2e-3, atol=1e-5)
    assert not same(module, model_of())


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("per_micro_batch", [False, True])
def test_16_mixed_skips_the_step_when_either_pass_overflows(replay: bool, per_micro_batch: bool) -> None:
    class Overflows(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if batch_idx == 1 and is_replay() == replay else loss

    plugin, steps = half(), []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            steps.append((weights(module), plugin.scaler.get_scale()))

    callback, module = SharpnessAware(per_micro_batch=per_micro_batch), Overflows()
    trainer = trainer_of(callback, Watch(), plugins=[plugin])
    trainer.fit(module, Loader(batches_of(3)))
    (first, scale), (second, shrunk), (third, last) = steps
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(second, third, strict=True))
    assert (shrunk, last) == (scale / 2, scale / 2)
    assert callback.ascent.step == 2
    assert trainer.global_step == 3  # Lightning counts skipped steps


# ---- once, though there are two passes


def test_logs_metrics_and_batch_norm_see_a_batch_once(tmp_path: Path) -> None:
    class Logs(Classifier):
        def __init__(self) -> None:
            super().__init__(
                nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None), nn.Linear(3, 2))
            )
            self.mean = MeanMetric()
            self.losses: list[Tensor] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.losses.append(loss.detach())
            self.mean(loss)
            self.log("mean", self.mean, on_step=True, on_epoch=True)
            self.log_dict({"epoch": loss}, on_step=False, on_epoch=True)
            return {"loss": loss}

        def on_after_backward(self) -> None:
            self.log("after", 1.0, reduce_fx="sum", on_step=False, on_epoch=True)

    module = Logs()
    trainer = trainer_of(
        SharpnessAware(rho=0.5), LearningRateMonitor("step"), logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    trainer.fit(module, Loader(batches_of(3)))
    at_w = torch.stack(module.losses[::2])
    assert not torch.equal(at_w, torch.stack(module.losses[1::2]))
    logged = trainer.callback_metrics
    assert torch.equal(logged["loss"], at_w[-1])
    torch.testing.assert_close(logged["mean_step"], at_w[-1])
    torch.testing.assert_close(logged["epoch"], at_w.mean())
    torch.testing.assert_close(logged["mean_epoch"], at_w.mean())
    assert logged["after"] == 3
    assert int(module.model[1].num_batches_tracked) == 3
    assert "log" not in vars(module)


def test_dropout_masks_are_replayed_even_if_hooks_draw_random_numbers() -> None:
    masks: list[Tensor] = []

    class Draws(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            torch.rand(3)

        def on_before_zero_grad(self, optimizer: Any) -> None:
            torch.rand(3)

    module = Draws()
    module.model[3].register_forward_hook(lambda m, i, o: masks.append(o == 0))
    fitted(SharpnessAware(), batches_of(4), module, accumulate_grad_batches=2)
    for start in (0, 4):
        assert torch.equal(masks[start], masks[start + 2])
        assert torch.equal(masks[start + 1], masks[start + 3])
        assert not torch.equal(masks[start], masks[start + 1])


def test_global_step_schedule_and_learning_rate_count_steps_not_passes() -> None:
    module = Classifier()
    trainer = trainer_of(SharpnessAware(), max_steps=3, max_epochs=-1, accumulate_grad_batches=2)
    trainer.fit(module, Loader(batches_of(4)))
    assert trainer.global_step == 3
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(5e-3)


# ---- checkpoints


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_resumed_run_equals_one_that_never_stopped(
    name: str, options: dict[str, Any], parts: int, tmp_path: Path
) -> None:
    def module() -> Classifier:
        model = model_of()
        model[3].p = 0.0  # Lightning saves no random state
        return Classifier(model)

    whole = fitted(
        SharpnessAware(name, **options), batches_of(4), module(), max_epochs=4, accumulate_grad_batches=parts
    )
    first = trainer_of(SharpnessAware(name, **options), max_epochs=1, accumulate_grad_batches=parts)
    first.fit(module(), Loader(batches_of(4)))
    first.save_checkpoint(tmp_path / "last.ckpt")
    callback, resumed = SharpnessAware(name, **options), module()
    second = trainer_of(callback, max_epochs=4, accumulate_grad_batches=parts)
    second.fit(resumed, Loader(batches_of(4)), ckpt_path=tmp_path / "last.ckpt")
    assert same(whole, resumed)
    assert callback.ascent.step == second.global_step == 16 // parts


def test_a_checkpoint_of_a_run_without_the_callback_gives_the_step(tmp_path: Path) -> None:
    first = trainer_of()
    first.fit(Classifier(), Loader(batches_of(4)))
    first.save_checkpoint(tmp_path / "plain.ckpt")
    callback, module = SharpnessAware(start=6), Classifier()
    trainer_of(callback, max_epochs=2).fit(module, Loader(batches_of(4)), ckpt_path=tmp_path / "plain.ckpt")
    assert module.passes == [False, False, False, True, False, True]


def test_a_checkpoint_from_within_a_step_is_warned_of_and_not_resumed(tmp_path: Path) -> None:
    class Saves(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, o: Any, b: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "within.ckpt")
            if batch_idx == 3:
                trainer.save_checkpoint(tmp_path / "between.ckpt")

    saving = trainer_of(SharpnessAware(), Saves(), accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match=r"within a step, 1 of its micro-batches"):
        saving.fit(Classifier(), Loader(batches_of(4)))
    resuming = trainer_of(SharpnessAware(), accumulate_grad_batches=2, max_epochs=2)
    with pytest.raises(UserError, match="made within a step"):
        resuming.fit(Classifier(), Loader(batches_of(4)), ckpt_path=tmp_path / "within.ckpt")
    resuming = trainer_of(SharpnessAware(), accumulate_grad_batches=2, max_epochs=2)
    resuming.fit(Classifier(), Loader(batches_of(4)), ckpt_path=tmp_path / "between.ckpt")
    assert resuming.global_step == 4


def test_what_a_checkpoint_callback_saves_is_never_perturbed(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    callback, module = SharpnessAware("momentum_sam", rho=1.0), Classifier()
    trainer_of(callback, checkpoint, enable_checkpointing=True).fit(module, Loader(batches_of(3)))
    saved = torch.load(tmp_path / "step=3.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


# ---- what goes wrong


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["sam", "momentum_sam", "sampled_shift"])
@pytest.mark.parametrize("where", ["training_step", "on_before_zero_grad", "on_after_backward"])
def test_an_interrupted_run_leaves_the_weights_of_the_last_step(
    error: type[BaseException], name: str, where: str
) -> None:
    last: list[list[Tensor]] = []
    at_exception: list[bool] = []

    class Breaks(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            last.append(weights(self))

        def _break(self, here: str) -> None:
            replays = name == "sam" and where != "on_before_zero_grad"
            if here == where and len(last) == 3 and is_replay() == replays:
                displaced = name != "sam" or replays
                assert displaced != all(
                    torch.equal(a, b) for a, b in zip(weights(self), last[-1], strict=True)
                )
                raise error

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self._break("training_step")
            return loss

        def on_before_zero_grad(self, optimizer: Any) -> None:
            self._break("on_before_zero_grad")

        def on_after_backward(self) -> None:
            self._break("on_after_backward")

    class Saves(L.Callback):
        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            at_exception.append(
                all(torch.equal(a, b) for a, b in zip(weights(module), last[-1], strict=True))
            )

    import signal

    handler, module = signal.getsignal(signal.SIGINT), Breaks()
    trainer = trainer_of(SharpnessAware(name, rho=0.5), Saves())
    try:
        with pytest.raises((error, SystemExit)):
            trainer.fit(module, Loader(batches_of(4)))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from the first interrupt on
    assert at_exception == [True]
    assert all(torch.equal(a, b) for a, b in zip(weights(module), last[-1], strict=True))
    assert not is_replay()
    assert "training_step" not in vars(trainer.strategy)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("name", ["sam", "momentum_sam"])
def test_a_batch_without_a_loss_is_skipped_and_not_replayed(name: str) -> None:
    class Skips(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx in (1, 2, 4, 5) else loss

    module = Skips()
    fitted(SharpnessAware(name), batches_of(8), module, accumulate_grad_batches=2)
    replays = [1, 1, 0, 2] if name == "sam" else [0, 0, 0, 0]  # one loss of two, twice; none; both
    assert module.passes == [replay for n in replays for replay in (False, False, *n * [True])]


def test_a_module_that_steps_in_its_own_way() -> None:
    class Steps(Classifier):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer_closure()
            optimizer.step()

    assert same(fitted(SharpnessAware(rho=0.3), batches_of(4), Steps()), raw_loop(batches_of(4), rho=0.3))


def test_a_learning_rate_that_is_set_within_a_step_may_turn_the_ascent_on() -> None:
    class WarmsUp(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            group = self.optimizers().param_groups[0]  # type: ignore[union-attr]
            group["lr"], group["initial_lr"] = batch_idx * 1e-3, 1e-2

    module = WarmsUp()
    callback = SharpnessAware(rho=0.3, schedule="learning_rate")
    fitted(callback, batches_of(2), module, accumulate_grad_batches=2)
    assert module.passes == [False, False, True, True]


@pytest.mark.parametrize("name", ["sam", "momentum_sam"])
def test_a_hook_may_end_the_epoch(name: str) -> None:
    class Ends(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 2 else None

    module = fitted(SharpnessAware(name, rho=0.3), batches_of(4), Ends())
    assert same(module, raw_loop(batches_of(2), name, rho=0.3))


def test_training_step_may_take_classes_out_of_its_batch() -> None:
    class Pops(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((batch.pop("inputs"), batch["labels"].pop()), batch_idx)

    batches = [{"inputs": inputs, "labels": [labels]} for inputs, labels in batches_of(4)]
    assert same(fitted(SharpnessAware(rho=0.3), batches, Pops()), raw_loop(batches_of(4), rho=0.3))


def test_a_batch_that_is_changed_in_place_is_refused() -> None:
    class Normalizes(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].div_(2)
            return super().training_step(batch, batch_idx)

    with pytest.raises(UserError, match=r"changed its batch in place \(a tensor of shape \(16, 4\)\)"):
        fitted(SharpnessAware(), batches_of(1), Normalizes())


def test_a_radius_that_nobody_finds_is_told_before_the_first_step() -> None:
    with pytest.raises(UserError, match="here give a number"):
        fitted(SharpnessAware(rho="auto", start=3), batches_of(1))


def test_a_replay_without_a_loss_is_refused() -> None:
    class Stops(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if is_replay() else super().training_step(batch, batch_idx)

    with pytest.raises(UserError, match="None in the replay"):
        fitted(SharpnessAware(), batches_of(1), Stops())


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Iterates(Classifier):
    def training_step(self, dataloader_iter: Any) -> Any:
        raise AssertionError


class Twice(Classifier):
    def configure_optimizers(self) -> Any:
        return SAM(torch.optim.AdamW(self.parameters()))


class Quasi(Classifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Manual, r"Manual optimizes manually.*saft\.SAM\(optimizer\)"),
        (Iterates, "dataloader_iter"),
        (Twice, "would ascend once more"),
        (Quasi, "LBFGS runs its closure many times"),
    ],
)
def test_a_module_that_cannot_be_trained_so_is_refused_at_the_start(
    module: Callable[[], Classifier], message: str
) -> None:
    trained = module()
    with pytest.raises(UserError, match=message):
        fitted(SharpnessAware(), batches_of(1), trained)
    assert trained.passes == []


@pytest.mark.parametrize("strategy", [FSDPStrategy(), DeepSpeedStrategy.__new__(DeepSpeedStrategy)])
def test_engines_that_hide_gradients_are_refused(strategy: Any) -> None:
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=2)
    with pytest.raises(UserError, match=rf"{type(strategy).__name__} keeps gradients.*ModelParallelStrategy"):
        SharpnessAware().setup(trainer, Classifier(), "fit")
    SharpnessAware().setup(trainer, Classifier(), "test")


@pytest.mark.parametrize("name", ["gsam", "looksam", "friendly_sam"])
def test_methods_that_keep_the_first_gradient_need_the_same_on_all_replicas(name: str) -> None:
    from lightning.pytorch.strategies import DDPStrategy

    trainer: Any = SimpleNamespace(strategy=DDPStrategy(), world_size=2)
    with pytest.raises(UserError, match="sync_ascent=True"):
        SharpnessAware(name).setup(trainer, Classifier(), "fit")
    SharpnessAware(name, sync_ascent=True).setup(trainer, Classifier(), "fit")


def test_options_are_checked_at_once() -> None:
    with pytest.raises(UserError, match="no option 'rhoo'; did you mean 'rho'"):
        SharpnessAware(rhoo=1)
    with pytest.raises(UserError, match="'samm'; did you mean 'sam'"):
        SharpnessAware("samm")
    with pytest.raises(UserError, match="sync_ascent"):
        SharpnessAware(per_micro_batch=True, sync_ascent=True)


# ---- around it


def test_evaluation_needs_nothing_of_it(tmp_path: Path) -> None:
    class Validates(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("validation", nn.functional.cross_entropy(self.model(batch[0]), batch[1]))

    module, trainer = Validates(), trainer_of(SharpnessAware("momentum_sam"), val_check_interval=1)
    trainer.fit(module, Loader(batches_of(2)), Loader(batches_of(1)))
    at_end = trainer.callback_metrics["validation"]
    trainer.validate(module, Loader(batches_of(1)), verbose=False)
    assert torch.equal(trainer.callback_metrics["validation"], at_end)


def test_a_second_fit_goes_on_with_the_same_trainer() -> None:
    module, callback = Classifier(), SharpnessAware()
    trainer = trainer_of(callback)
    trainer.fit(module, Loader(batches_of(2)))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, Loader(batches_of(2)))
    assert module.passes == 4 * [False, True]
    assert callback.ascent.step == 4


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r"```python\n(.*?)```", saft.integrations.lightning.__doc__ or "", re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found.group(1), names)
    assert names["trainer"].global_step == 8


def test_importing_the_package_imports_no_framework() -> None:
    code = (
        "import sys, saft.integrations;"
        "assert not {'torch', 'lightning', 'transformers', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("finder", ["LearningRateFinder", "BatchSizeFinder"])
def test_finders_that_take_the_callback_away_are_refused(finder: str, tmp_path: Path) -> None:
    from lightning.pytorch import callbacks

    class Sized(Classifier):
        batch_size = 4  # what the finders ask of a module

        def train_dataloader(self) -> Loader:
            return Loader(batches_of(1))

    module = Sized()
    trainer = trainer_of(SharpnessAware(), getattr(callbacks, finder)())
    with pytest.raises(UserError, match=rf"{finder} removes all other callbacks"):
        trainer.fit(module)
    assert module.passes == []
