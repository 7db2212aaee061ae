"""Accelerate loops give the weights of raw loops, with the passes that the algorithm needs and no more."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from saft.errors import UserError
from saft.integrations.accelerate import SharpnessAware
from saft.optim import SAM, is_replay

STEPS = 4
NAMES = ["sam", "asam", "friendly_sam", "gsam", "looksam", "momentum_sam", "sampled_shift"]


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate keeps its state in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def model_of(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2))


def batch_of(step: int, size: int = 16) -> Tensor:
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch).float() - 1).square().mean()


def base_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)


def schedule_of(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def options_of(name: str) -> dict[str, Any]:
    return {"perturbation": name} | ({"every": 2} if name == "looksam" else {})


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
    steps: int = STEPS,
    **options: Any,
) -> list[Tensor]:
    """Return the weights of a raw loop; with `parts`, in the form per micro-batch."""
    model = model_of(dropout)
    base = base_of(model)
    optimizer = SAM(base, perturbation, model=model, per_micro_batch=parts > 1, **options)
    scheduler = schedule_of(base)
    torch.manual_seed(1)
    for step in range(steps):
        optimizer.zero_grad()
        for part in batch_of(step).chunk(parts):

            def backward(part: Tensor = part) -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = loss_of(model, part)
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


class Run:
    """A loop as a user of Accelerate would write it."""

    def __init__(
        self, parts: int = 1, clip: float = 0.0, dropout: float = 0.0, precision: str = "no", **options: Any
    ) -> None:
        self.parts, self.clip = parts, clip
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts, mixed_precision=precision)
        self.inner = model_of(dropout)
        optimizer = base_of(self.inner)
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(
            self.inner, optimizer, schedule_of(optimizer)
        )
        self.sharpness_aware = SharpnessAware(self.accelerator, self.model, self.optimizer, **options)
        self.calls: list[bool] = []
        self.losses: list[float] = []
        torch.manual_seed(1)

    def compute_loss(self, batch: Tensor) -> Tensor:
        self.calls.append(is_replay())
        return loss_of(self.model, batch)

    def steps(self, *steps: int) -> list[Tensor]:
        for step in steps:
            for part in batch_of(step).chunk(self.parts):
                with self.accelerator.accumulate(self.model):
                    loss = self.sharpness_aware.backward(self.compute_loss, part)
                    if self.accelerator.sync_gradients and self.clip:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
                self.losses.append(loss.item())
        return weights_of(self.inner)


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_same_weights_as_the_raw_loop(name: str, clip: float) -> None:
    found = Run(clip=clip, dropout=0.5, **options_of(name)).steps(*range(STEPS))
    assert same(found, raw(clip=clip, dropout=0.5, **options_of(name)))


def test_clipping_binds_the_descent_gradient() -> None:
    assert not same(raw(clip=0.1), raw())


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_at_once_equals_eight_and_eight(name: str) -> None:
    whole = raw(clip=0.5, **options_of(name))
    for parts in (2, 4):
        assert_close(Run(parts, clip=0.5, **options_of(name)).steps(*range(STEPS)), whole)


@pytest.mark.parametrize("name", ["sam", "asam"])
def test_the_form_per_micro_batch(name: str) -> None:
    found = Run(4, perturbation=name, per_micro_batch=True, dropout=0.5).steps(*range(STEPS))
    assert same(found, raw(name, parts=4, dropout=0.5))
    assert not same(found, raw(name, dropout=0.5))


@pytest.mark.parametrize(
    ("options", "replays"),
    [
        ({}, [True] * STEPS),
        ({"per_micro_batch": True}, [True] * STEPS),
        ({"every": 2}, [True, False, True, False]),
        ({"start": 3}, [False, False, False, True]),
        ({"rho": 0.0}, [False] * STEPS),
        ({"perturbation": "looksam", "every": 3}, [True, False, False, True]),
        ({"perturbation": "momentum_sam"}, [False] * STEPS),
    ],
)
def test_as_many_passes_as_the_algorithm_needs(options: dict[str, Any], replays: list[bool]) -> None:
    run = Run(2, **options)
    run.steps(*range(STEPS))
    each = [[False, True] * 2 if options.get("per_micro_batch") else [False] * 2 + [True] * 2, [False] * 2]
    assert run.calls == [call for step in replays for call in each[not step]]
    assert run.sharpness_aware.ascent.step == STEPS
    assert run.scheduler.get_last_lr() == pytest.approx([0.05 / (1 + STEPS)])


def test_rho_zero_is_the_base_optimizer() -> None:
    model = model_of()
    optimizer = base_of(model)
    scheduler = schedule_of(optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, batch_of(step)).backward()
        optimizer.step()
        scheduler.step()
    assert same(Run(rho=0.0).steps(*range(STEPS)), weights_of(model))


def test_the_loss_is_that_of_the_first_pass() -> None:
    run = Run(rho=0.5)
    expected = loss_of(model_of(), batch_of(0)).item()
    run.steps(0)
    assert run.losses == [expected]


def test_the_last_window_of_a_loader_may_be_short() -> None:
    run = Run(2)
    loader = run.accelerator.prepare(torch.utils.data.DataLoader(batch_of(0, 20), batch_size=4))
    for batch in loader:
        with run.accelerator.accumulate(run.model):
            run.sharpness_aware.backward(run.compute_loss, batch)
            run.optimizer.step()
            run.optimizer.zero_grad()
    assert run.sharpness_aware.ascent.step == 3
    assert run.calls == [False, False, True, True] * 2 + [False, True]


@pytest.mark.parametrize("name", ["sam", "looksam", "friendly_sam"])
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    options = {"dropout": 0.5, "clip": 0.5, **options_of(name)}
    run = Run(2, **options)
    run.steps(0, 1, 2)
    run.accelerator.save_state(str(tmp_path))
    expected = run.steps(3, 4, 5)
    resumed = Run(2, **options)
    resumed.steps(7)
    resumed.accelerator.load_state(str(tmp_path))
    assert resumed.sharpness_aware.ascent.step == 3
    assert same(resumed.steps(3, 4, 5), expected)


def test_its_checkpoint_is_loaded_without_it(tmp_path: Path) -> None:
    run = Run()
    run.steps(0, 1)
    run.accelerator.save_state(str(tmp_path))
    plain = model_of()
    optimizer = base_of(plain)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.bin", weights_only=True))
    assert optimizer.state[plain[0].weight]["momentum_buffer"].any()


def test_bf16() -> None:
    found = Run(precision="bf16", dropout=0.5).steps(*range(STEPS))
    assert same(found, raw(autocast=True, dropout=0.5))
    assert not same(found, raw(dropout=0.5))


def scaled(run: Run) -> GradScaler:
    """Scale a run's gradients as under fp16, for which Accelerate wants a GPU; doubling the scale each step."""
    scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    run.accelerator.scaler = run.optimizer.scaler = scaler
    run.accelerator.native_amp = True
    run.accelerator.state._mixed_precision = "fp16"
    run.optimizer.__setstate__(run.optimizer.__dict__)
    return scaler


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_scaled_gradients(name: str, clip: float) -> None:
    run = Run(2, clip=clip, **options_of(name))
    scaler = scaled(run)
    assert_close(run.steps(*range(STEPS)), raw(clip=clip, **options_of(name)))
    assert scaler.get_scale() == 1024 * 2**STEPS


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("overflow", ["first pass", "replay"])
def test_an_overflow_in_either_pass_skips_the_step_and_shrinks_the_scale_once(
    overflow: str, clip: float
) -> None:
    run = Run(2, clip=clip)
    scaler = scaled(run)
    before = run.steps(0)
    compute_loss = run.compute_loss

    def overflowing(batch: Tensor) -> Tensor:
        return compute_loss(batch) * (float("inf") if is_replay() == (overflow == "replay") else 1)

    run.compute_loss = overflowing  # type: ignore[method-assign]
    assert same(run.steps(1), before)
    assert scaler.get_scale() == 1024  # doubled and halved
    assert run.sharpness_aware.ascent.step == 1
    run.compute_loss = compute_loss  # type: ignore[method-assign]
    assert not same(run.steps(2), before)
    assert all(weight.isfinite().all() for weight in run.inner.parameters())


def test_statistics_of_batch_norm_are_updated_once() -> None:
    accelerator = Accelerator(cpu=True)
    norm = nn.BatchNorm1d(4)
    model, optimizer = accelerator.prepare(norm, base_of(norm))
    sharpness_aware = SharpnessAware(accelerator, model, optimizer)
    sharpness_aware.backward(lambda batch: loss_of(model, batch), batch_of(0))
    once = nn.BatchNorm1d(4)
    once(batch_of(0))
    assert torch.equal(norm.running_var, once.running_var)
    assert norm.num_batches_tracked == 1


def test_a_batch_may_be_given_up() -> None:
    run = Run(2)
    part = batch_of(0).chunk(2)[0]
    with run.accelerator.accumulate(run.model):
        run.sharpness_aware.backward(run.compute_loss, part)
    run.inner.zero_grad()
    run.sharpness_aware.forget()
    run.accelerator.step = 0
    assert_close(run.steps(*range(STEPS)), raw())


def test_a_radius_that_nobody_finds_is_told_before_the_first_step() -> None:
    run = Run(rho="auto", start=3)
    with pytest.raises(UserError, match=r"find_radius before the first pass; here give a number"):
        run.steps(0)


def test_the_second_pass_has_the_batch_as_it_was() -> None:
    model = model_of()
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, base_of(model))
    sharpness_aware = SharpnessAware(accelerator, model, optimizer)
    seen = []

    def compute_loss(batch: dict[str, Tensor]) -> Tensor:
        batch["x"] = 2 * batch["x"]
        seen.append(batch["x"])
        return loss_of(model, batch.pop("x"))

    sharpness_aware.backward(compute_loss, {"x": batch_of(0)})
    assert torch.equal(*seen)
    optimizer.step()
    with pytest.raises(UserError, match="the first pass changed its batch in place"):
        sharpness_aware.backward(lambda batch: loss_of(model, batch.mul_(2)), batch_of(1))


def test_a_step_without_replay_is_refused() -> None:
    run = Run()
    run.accelerator.backward(loss_of(run.model, batch_of(0)))
    with pytest.raises(UserError, match="without a replay"):
        run.optimizer.step()


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"])
def test_engines_that_own_the_gradients_are_refused(engine: str) -> None:
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = engine_of(engine)
    model = model_of()
    with pytest.raises(UserError, match=rf"does not support {engine}: use"):
        SharpnessAware(accelerator, model, base_of(model))


def engine_of(name: str) -> Any:
    from accelerate.utils import DistributedType

    return DistributedType[name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perturbation": "samm"}, "did you mean 'sam'"),
        ({"roh": 0.1}, "has no option 'roh'; did you mean 'rho'"),
        ({"per_micro_batch": True, "sync_ascent": True}, "leave out sync_ascent"),
        ({"perturbation": "gsam", "per_micro_batch": True}, "no form per micro-batch"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Run(**options)


@pytest.mark.parametrize("name", ["looksam", "gsam", "friendly_sam"])
def test_replicas_must_share_a_gradient_that_is_used_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    Run(perturbation=name, sync_ascent=True)
    with pytest.raises(UserError, match="set sync_ascent=True"):
        Run(perturbation=name)


def test_an_optimizer_that_is_sharpness_aware_already_is_refused() -> None:
    model = model_of()
    with pytest.raises(UserError, match=r"a saft\.SAM already"):
        SharpnessAware(Accelerator(cpu=True), model, SAM(base_of(model)))


def test_without_accelerate_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "saft.integrations.accelerate")
    with pytest.raises(ImportError, match=r"pip install accelerate"):
        importlib.import_module("saft.integrations.accelerate")


def test_micro_batches_accumulated_by_hand_are_not_dropped() -> None:
    """Accelerate's own examples divide the loss and step every k-th time, which nothing here can see."""

    def by_hand(**options: Any) -> list[Tensor]:
        run = Run(**options)
        for i, part in enumerate(batch_of(0).chunk(2)):
            run.sharpness_aware.backward(lambda batch: run.compute_loss(batch) / 2, part)
            if run.accelerator.sync_gradients:
                run.accelerator.clip_grad_norm_(run.model.parameters(), 1.0)
            if i == 1:
                run.optimizer.step()
        return weights_of(run.inner)

    with pytest.raises(UserError, match=r"accelerator\.accumulate\(model\).*per_micro_batch=True"):
        by_hand()
    by_hand(per_micro_batch=True)


@pytest.mark.parametrize("loss", [torch.ones(()), 0.5, None])
def test_a_loss_in_the_place_of_its_function_is_told(loss: Any) -> None:
    run = Run()
    with pytest.raises(UserError, match=r"takes a function of the batch, not a .*lambda batch"):
        run.sharpness_aware.backward(loss, batch_of(0))
