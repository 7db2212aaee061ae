"""Every method over several steps against its equations, in float64, with SGD (and momentum) written out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saft.optim import SAM
from saft.optim.perturbations.gsam import GSAM
from saft.optim.perturbations.sampled_shift import SampledShift
from tests.oracles import optim as oracle

LR, BETA, STEPS = 0.1, 0.9, 11
Descent = Callable[[int, nn.Module, oracle.Loss], list[Tensor]]


def model_of() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def loss_at(step: int) -> oracle.Loss:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (12,), generator=generator)
    return lambda model: nn.functional.cross_entropy(model(inputs), labels)


def run_saft(name: str, **options: Any) -> nn.Module:
    model = model_of()
    base = torch.optim.SGD(model.named_parameters(), lr=LR, momentum=BETA)
    optimizer = SAM(base, name, model=model, **options)
    for step in range(STEPS):
        loss = loss_at(step)

        def closure(loss: oracle.Loss = loss) -> Tensor:
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            return value

        optimizer.step(closure)
    return model


def run_oracle(descent: Descent) -> nn.Module:
    model = model_of()
    velocity: list[Tensor] | None = None
    for step in range(STEPS):
        d = descent(step, model, loss_at(step))
        velocity = d if velocity is None else [BETA * v + t for v, t in zip(velocity, d, strict=True)]
        descent.velocity = velocity  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, v in zip(model.parameters(), velocity, strict=True):
                parameter -= LR * v
    return model


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    moved = 0.0
    for (name, p), q, start in zip(
        found.named_parameters(), expected.parameters(), model_of().parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")
        moved = max(moved, (p - start).abs().max().item())
    assert moved > 0.05  # something was trained


def plain(epsilon: Callable[[nn.Module, list[Tensor]], list[Tensor]]) -> Descent:
    def descent(step: int, model: nn.Module, loss: oracle.Loss) -> list[Tensor]:
        return oracle.gradient_at(model, loss, epsilon(model, oracle.gradient(model, loss)))

    return descent


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()]


def named(model: nn.Module, fragment: str) -> list[bool]:
    return [fragment in name for name, _ in model.named_parameters()]


def test_the_oracle_is_not_plain_sgd() -> None:
    sgd = run_oracle(lambda step, model, loss: oracle.gradient(model, loss))
    sam = run_oracle(plain(lambda model, g: oracle.sam(weights(model), g, 0.3)))
    with pytest.raises(AssertionError):
        assert_same(sgd, sam)


def test_sam() -> None:
    assert_same(run_saft("sam", rho=0.3), run_oracle(plain(lambda m, g: oracle.sam(weights(m), g, 0.3))))


@pytest.mark.parametrize(
    ("name", "eta", "fragment"),
    [("asam", 0.01, "weight"), ("asam_davda54", 0.0, ""), ("asam_saft", 0.0, "")],
)
def test_asam(name: str, eta: float, fragment: str) -> None:
    expected = run_oracle(plain(lambda m, g: oracle.asam(weights(m), g, 0.7, eta, named(m, fragment))))
    assert_same(run_saft(name, rho=0.7), expected)


@pytest.mark.parametrize("adaptive", [True, False])
def test_norm_only(adaptive: bool) -> None:
    def epsilon(model: nn.Module, g: list[Tensor]) -> list[Tensor]:
        norm = [name.startswith("1.") for name, _ in model.named_parameters()]
        kept = [t if yes else torch.zeros_like(t) for t, yes in zip(g, norm, strict=True)]
        rescaled = [adaptive and yes for yes in named(model, "weight")]
        return oracle.asam(weights(model), kept, 0.5, 0.01, rescaled)

    assert_same(run_saft("norm_only", rho=0.5, adaptive=adaptive), run_oracle(plain(epsilon)))


@pytest.mark.parametrize("in_place", [False, True])
def test_momentum_sam(in_place: bool) -> None:
    def descent(step: int, model: nn.Module, loss: oracle.Loss) -> list[Tensor]:
        velocity = getattr(descent, "velocity", [torch.zeros_like(p) for p in model.parameters()])
        return oracle.gradient_at(model, loss, oracle.momentum(velocity, 0.3))

    assert_same(run_saft("momentum_sam", rho=0.3, in_place=in_place), run_oracle(descent))


@pytest.mark.parametrize(("sigma", "decay"), [(1.0, 0.9), (0.5, 0.6)])
def test_friendly_sam(sigma: float, decay: float) -> None:
    average: list[list[Tensor] | None] = [None]

    def epsilon(model: nn.Module, g: list[Tensor]) -> list[Tensor]:
        e, average[0] = oracle.friendly(g, average[0], 0.3, sigma, decay)
        return e

    assert_same(run_saft("friendly_sam", rho=0.3, sigma=sigma, decay=decay), run_oracle(plain(epsilon)))


def test_friendly_sam_averages_from_the_first_finite_gradient_on() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = SAM(torch.optim.SGD([weight], lr=0.1), "friendly_sam")
    for gradient in (math.inf, 2.0):  # an overflow, as of a gradient scaler's first steps
        weight.grad = torch.full((3,), gradient)
        with optimizer.perturbed():
            weight.sum().backward()
        optimizer.zero_grad()
    assert torch.equal(optimizer.ascent.state_dict()["memory"][0]["average"], torch.full((3,), 2.0))


def test_gsam() -> None:
    def descent(step: int, model: nn.Module, loss: oracle.Loss) -> list[Tensor]:
        g = oracle.gradient(model, loss)
        replayed = oracle.gradient_at(model, loss, oracle.sam(weights(model), g, 0.3))
        return oracle.gsam(g, replayed, 0.4)

    assert_same(run_saft("gsam", rho=0.3, alpha=0.4), run_oracle(descent))


def test_looksam() -> None:
    across: list[list[Tensor]] = [[]]

    def descent(step: int, model: nn.Module, loss: oracle.Loss) -> list[Tensor]:
        g = oracle.gradient(model, loss)
        if step % 4 == 0:
            replayed = oracle.gradient_at(model, loss, oracle.sam(weights(model), g, 0.3))
            across[0] = oracle.part_at_right_angle(replayed, g)
            return replayed
        return oracle.looksam(g, across[0], 0.7)

    assert_same(run_saft("looksam", rho=0.3, alpha=0.7, every=4), run_oracle(descent))


def test_sampled_shift_trains_at_the_shifted_weights() -> None:
    """The draw itself is the method's own; that the gradient is taken there, and the step from w, is the oracle's."""
    shifts: list[list[Tensor]] = []
    model = model_of()
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=BETA)
    optimizer = SAM(base, SampledShift(rho=0.05))
    for step in range(STEPS):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        with optimizer.first_pass():
            shifts.append([p.detach() - b for p, b in zip(model.parameters(), before, strict=True)])
            loss_at(step)(model).backward()
        optimizer.step()
    expected = run_oracle(lambda step, m, loss: oracle.gradient_at(m, loss, shifts[step]))
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


def test_sampled_shift_draws_from_a_laplace_distribution() -> None:
    big = nn.Parameter(torch.zeros(200_000))
    shift = SampledShift(rho=0.01, seed=3)
    optimizer = SAM(torch.optim.SGD([big], lr=0.1), shift)
    draws = []
    for step in range(3):
        with optimizer.first_pass():
            draws.append(big.detach().clone() / shift.factor(step))
            big.sum().backward()
        optimizer.step()
        big.data.zero_()
    for z in draws:
        assert float(z.abs().mean()) == pytest.approx(0.01, rel=1e-4)
        assert float(z.std()) == pytest.approx(0.01 * 2**0.5, rel=0.02)  # of a normal: 0.01 * 1.25
        assert float(z.mean()) == pytest.approx(0.0, abs=1e-4)
    assert abs(float(torch.corrcoef(torch.stack(draws[:2]))[0, 1])) < 0.02
    factors = [shift.factor(step) for step in range(400)]
    assert -1 < min(factors) < -0.6
    assert 1.8 < max(factors) <= 2.2


def test_a_radius_that_follows_the_learning_rate_is_rho_at_its_peak() -> None:
    model = model_of()
    for name, options in (("sam", {"schedule": "learning_rate"}), ("gsam", {"rho_min": 0.0})):
        base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
        optimizer = SAM(base, name, rho=0.6, **options)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(base, max_lr=LR, total_steps=10)
        radii = []
        for _ in range(9):
            radii.append(optimizer.ascent.rho)
            base._opt_called = True  # type: ignore[attr-defined]
            scheduler.step()
        assert max(radii) == pytest.approx(0.6)


def test_gsam_radius_stays_between_its_bounds() -> None:
    radius = GSAM(rho=0.6, rho_min=0.1, lr_min=0.2).radius
    assert radius(0, {"lr": 0.01, "initial_lr": 1.0}) == 0.1  # a warm-up from below lr_min
    assert radius(0, {"lr": 2.0, "initial_lr": 1.0}) == pytest.approx(0.6)
    assert radius(0, {"lr": 0.01, "initial_lr": 0.1}) == 0.6  # lr_min lies above all rates


def test_gsam_radius_follows_the_learning_rate() -> None:
    model = model_of()
    base = torch.optim.SGD(model.parameters(), lr=LR)
    scheduler = torch.optim.lr_scheduler.LinearLR(base, 1.0, 0.0, total_iters=10)
    optimizer = SAM(base, "gsam", rho=0.6, rho_min=0.1)
    follower = SAM(copy.deepcopy(base), rho=0.6, schedule="learning_rate")
    radii = []
    for _ in range(11):
        radii.append(optimizer.ascent.rho)
        follower.param_groups[0]["lr"] = base.param_groups[0]["lr"]
        assert follower.ascent.rho == pytest.approx(0.6 * base.param_groups[0]["lr"] / LR)
        base.param_groups[0]["lr"] += 0
        optimizer.ascent.step += 1
        base._opt_called = True  # type: ignore[attr-defined]
        scheduler.step()
    assert radii == pytest.approx([0.6 - 0.05 * i for i in range(11)])
