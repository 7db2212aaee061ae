"""SMAT: where its step is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saft.errors import UserError
from saft.optim import SAM
from saft.optim.perturbations.smat import SMAT


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(30, 40), nn.Linear(40, 50), nn.Linear(50, 1))


def displaced(perturbation: SMAT) -> tuple[dict[str, torch.Tensor], ...]:
    """Return the weights of the base, those before the fifth step, and those that its pass runs at."""
    model = model_of()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.2), perturbation, model=model)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(4):
        optimizer.zero_grad()
        with optimizer.first_pass():
            model(torch.arange(30)).square().mean().backward()
        optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with optimizer.first_pass():
        there = {name: value.clone() for name, value in model.state_dict().items()}
    return base, before, there


def test_matrices_are_masked_and_scaled_and_the_rest_scaled_by_the_same() -> None:
    base, before, there = displaced(SMAT(rho=1e-12, scale=(0.3, 0.6)))
    moved = (before["1.bias"] - base["1.bias"]).abs() > 1e-4
    ratios = ((there["1.bias"] - base["1.bias"]) / (before["1.bias"] - base["1.bias"]))[moved]
    scale = ratios.mean().item()
    assert 0.3 <= scale <= 0.6
    torch.testing.assert_close(ratios, torch.full_like(ratios, scale), rtol=1e-2, atol=0)
    embedding = base["0.weight"] + scale * (before["0.weight"] - base["0.weight"])
    torch.testing.assert_close(there["0.weight"], embedding, rtol=1e-4, atol=1e-6)
    change = there["1.weight"] - base["1.weight"]
    kept = 2 * scale * (before["1.weight"] - base["1.weight"])
    left_out, left_in = change.abs() < 1e-7, (change - kept).abs() < 1e-6
    assert (left_out | left_in).all()
    visible = kept.abs() > 1e-5
    assert left_out[visible].float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("skipped", [False, True])
def test_the_step_goes_along_the_gradient_with_respect_to_w(skipped: bool) -> None:
    """By the chain rule: w0 + s m / (1 - q) (w - w0) + u moves by s m / (1 - q) where w moves by 1."""
    model = model_of()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.2), SMAT(rho=1e-12), model=model)
    base = [p.detach().clone() for p in model.parameters()]
    for _ in range(4):
        optimizer.zero_grad()
        with optimizer.first_pass():
            model(torch.arange(30)).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    before = [p.data.add_(0.1).clone() for p in model.parameters()]
    for part in torch.arange(30).chunk(2):  # two micro-batches
        with optimizer.first_pass():
            there = [p.detach().clone() for p in model.parameters()]
            model(part).square().mean().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    if skipped:
        optimizer.skip_replay()
    optimizer.step()
    for w0, w, q, g, after in zip(base, before, there, found, model.parameters(), strict=True):
        torch.testing.assert_close(after, w - 0.2 * (q - w0) / (w - w0) * g, rtol=1e-4, atol=1e-6)


def test_the_noise_has_its_root_mean_square_and_is_uniform() -> None:
    base, before, there = displaced(SMAT(rho=0.1, scale=(1.0, 1.0), drop=0.0))
    noise = torch.cat([(there[name] - before[name]).flatten() for name in base])
    assert noise.square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-3)
    assert noise.abs().max().item() == pytest.approx(0.1 * 3**0.5, rel=0.02)
    assert noise.mean().abs() < 0.01


def test_the_first_step_has_noise_only_and_seeds_differ() -> None:
    noises = []
    for seed in (0, 0, 1):
        model = model_of()
        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=1.0), SMAT(seed=seed), model=model)
        before = model[1].weight.clone()
        with optimizer.first_pass():
            noises.append((model[1].weight - before).detach())
    assert noises[0].abs().max() <= 1.1e-3 * 3**0.5
    assert torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[0], noises[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": (0.5, 0.2)}, "scale: must be"), ({"drop": 1.0}, r"drop: must be in \[0, 1\)")],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMAT(**options)  # type: ignore[arg-type]
