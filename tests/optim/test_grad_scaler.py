"""Gradient scalers, on the CPU: torch's own class, with losses scaled until they overflow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from saft.errors import UserError
from saft.optim import SAM

SCALE = 1024.0


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def loss_of(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return model(torch.randn(16, 4, generator=generator)).square().mean()


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(xs: list[Tensor], ys: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def setup(name: str = "sam", fused: bool = True, **options: Any) -> tuple[nn.Module, SAM, GradScaler]:
    model = model_of()
    base = torch.optim.AdamW(model.named_parameters(), lr=1e-2, fused=fused)
    scaler = GradScaler("cpu", init_scale=SCALE, growth_interval=10_000)
    return model, SAM(base, name, rho=0.1, **options), scaler


def scaled_step(
    model: nn.Module, optimizer: SAM, scaler: GradScaler, seed: int, overflow: str = "", form: str = "plain"
) -> None:
    """One step; `overflow` names the pass whose loss is infinite."""

    def backward(which: str) -> None:
        factor = float("inf") if overflow == which else 1.0
        (scaler.scale(loss_of(model, seed)) * factor).backward()

    optimizer.zero_grad()
    if form == "closure":
        passes = iter(["first", "second"])

        def closure() -> None:
            optimizer.zero_grad()
            backward(next(passes))

        optimizer.step(closure, scaler=scaler)
        scaler.update()
        return
    with optimizer.first_pass():
        backward("first")
    if form == "unscaled before":  # as Lightning does
        scaler.unscale_(optimizer)
    with optimizer.perturbed(scaler):
        backward("second")
    if form == "unscaled after":  # to clip
        scaler.unscale_(optimizer)
    if form != "plain":
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    scaler.step(optimizer)
    scaler.update()


FORMS = ["plain", "unscaled before", "unscaled after", "closure"]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["sam", "asam_saft", "friendly_sam", "gsam", "looksam"])
def test_scaled_training_is_unscaled_training(name: str, form: str, fused: bool) -> None:
    model, optimizer, _ = setup(name, fused)
    twin, scaled, scaler = setup(name, fused)
    for seed in range(4):
        optimizer.step(lambda seed=seed: (optimizer.zero_grad(), loss_of(model, seed).backward()))
        if name == "friendly_sam":
            scaler.scale(torch.ones(()))
            scaler.update(SCALE * 2**seed)  # an average over steps must not see the scale
        scaled_step(twin, scaled, scaler, seed, form=form)
        assert scaled.ascent.step == seed + 1
    for found, expected in zip(weights_of(twin), weights_of(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("overflow", ["first", "second"])
def test_an_overflow_in_either_pass_skips_the_step_and_shrinks_the_scale_once(
    overflow: str, form: str, fused: bool
) -> None:
    model, optimizer, scaler = setup(fused=fused)
    scaled_step(model, optimizer, scaler, 0, form=form)
    before = weights_of(model)
    scaled_step(model, optimizer, scaler, 1, overflow, form)
    assert same(weights_of(model), before)
    assert scaler.get_scale() == SCALE / 2
    scaled_step(model, optimizer, scaler, 2, form=form)
    assert not same(weights_of(model), before)
    assert scaler.get_scale() == SCALE / 2


def test_a_closure_through_the_scaler_is_refused() -> None:
    model, optimizer, scaler = setup()

    def closure() -> None:
        optimizer.zero_grad()
        scaler.scale(loss_of(model, 0)).backward()

    closure()
    with pytest.raises(UserError, match="scaler=scaler"):
        scaler.step(optimizer, closure)


@pytest.mark.parametrize("start", [0, 100])
def test_a_closure_that_unscales_is_refused(start: int) -> None:
    """Without a second pass the step would be 1024 times too short."""
    model, optimizer, scaler = setup(start=start)
    before = weights_of(model)

    def closure() -> None:
        optimizer.zero_grad()
        scaler.scale(loss_of(model, 0)).backward()
        scaler.unscale_(optimizer)

    with pytest.raises(UserError, match=r"the closure calls scaler\.unscale_"):
        optimizer.step(closure, scaler=scaler)
    assert same(weights_of(model), before)


def test_a_disabled_scaler_changes_nothing() -> None:
    model, optimizer, _ = setup()
    twin, plain, _ = setup()
    off = GradScaler("cpu", enabled=False)
    for seed in range(3):
        scaled_step(model, optimizer, off, seed)
        plain.step(lambda seed=seed: (plain.zero_grad(), loss_of(twin, seed).backward()))
    assert same(weights_of(model), weights_of(twin))


def test_a_scaler_on_the_base_optimizer_works_too() -> None:
    model, optimizer, scaler = setup()
    before = weights_of(model)
    with optimizer.first_pass():
        scaler.scale(loss_of(model, 0)).backward()
    scaler.unscale_(optimizer.base)
    with optimizer.perturbed(scaler):
        scaler.scale(loss_of(model, 0)).backward()
    scaler.step(optimizer.base)
    scaler.update()
    assert not same(weights_of(model), before)
    assert optimizer.ascent.step == 1


@pytest.mark.parametrize("clip_after", [False, True])
@pytest.mark.parametrize("form", ["passes", "first_step"])
def test_gradients_that_were_unscaled_too_early_are_not_stepped_along(form: str, clip_after: bool) -> None:
    model, optimizer, scaler = setup()
    before = weights_of(model)
    for _ in range(2):  # the hook sits on a parameter that is used from the first replay on
        optimizer.zero_grad()
        scaler.scale(loss_of(model, 0)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if form == "passes":
            with optimizer.perturbed():
                scaler.scale(loss_of(model, 0)).backward()
        else:
            optimizer.first_step()
            scaler.scale(loss_of(model, 0)).backward()
            optimizer._open.close()  # the first half of second_step
            optimizer._open = None
        if clip_after:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with pytest.raises(UserError, match=r"still carry the loss scale.*perturbed\(scaler\)"):
            scaler.step(optimizer)
        scaler.update()
    assert same(weights_of(model), before)


def test_unscaling_and_clipping_after_the_replay_are_right() -> None:
    model, optimizer, scaler = setup()
    twin, plain, _ = setup()
    for seed in range(3):
        for m, o, scaled in ((model, optimizer, True), (twin, plain, False)):
            o.zero_grad()
            for context in (o.first_pass(), o.perturbed()):
                with context:
                    loss = loss_of(m, seed)
                    (scaler.scale(loss) if scaled else loss).backward()
            if scaled:
                scaler.unscale_(o)
            nn.utils.clip_grad_norm_(m.parameters(), 0.01)
            if scaled:
                scaler.step(o)
                scaler.update()
            else:
                o.step()
    for found, expected in zip(weights_of(model), weights_of(twin), strict=True):
        torch.testing.assert_close(found, expected)
