"""What every registered average owes, whatever it weighs."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from saft.errors import UserError
from saft.trajectory import AVERAGINGS, RunningAverage, averaging

NAMES = AVERAGINGS.names()
STEPS = 12


def walk(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_the_registry_holds_what_is_promised() -> None:
    assert {"ema", "tail"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shares_are_shares_and_the_first_step_counts_whole(name: str) -> None:
    for steps in (1, 2, 5, 100):
        shares = [averaging(name).share(step, steps) for step in range(1, steps + 1)]
        assert shares[0] == 1
        assert all(0 < share <= 1 for share in shares)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_weighted_mean_of_the_weights_passed_and_leaves_the_base_out(name: str) -> None:
    kind, model = averaging(name), model_of()
    running, passed = RunningAverage(kind, STEPS), []
    for step in range(1, STEPS + 1):
        walk(model, step)
        model(torch.randn(4, 3))
        running.update(model, step)
        passed.append(model[0].weight.detach().clone())
    weights = [kind.share(step, STEPS) for step in range(1, STEPS + 1)]
    for later in range(1, STEPS):
        weights[:later] = [weight * (1 - weights[later]) for weight in weights[:later]]
    assert sum(weights) == pytest.approx(1)
    last = model[0].weight.detach().clone()
    running.put_into(model)
    expected = sum(weight * tensor for weight, tensor in zip(weights, passed, strict=True))
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert not torch.equal(model[0].weight, last)
    assert model[1].num_batches_tracked == STEPS  # what is a count is not averaged


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_average_equals_an_uninterrupted_one_bit_for_bit(name: str) -> None:
    results = []
    for stop in (None, 7):
        model, running = model_of(), RunningAverage(averaging(name), STEPS)
        for step in range(1, STEPS + 1):
            walk(model, step)
            running.update(model, step)
            if step == stop:
                file = io.BytesIO()
                torch.save(running.state_dict(), file)
                file.seek(0)
                running = RunningAverage(averaging(name), STEPS)
                running.load_state_dict(torch.load(file, weights_only=True))
        running.put_into(model)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_told_with_their_place(name: str) -> None:
    with pytest.raises(UserError, match=r"arms\.a\.averaging: colour: unknown key"):
        averaging(name, "arms.a.averaging", colour=1)


def test_values_out_of_range_are_refused() -> None:
    for name, option, value in (("ema", "decay", 1.5), ("tail", "share_of_steps", 0)):
        with pytest.raises(UserError, match=f"averaging: {option}: must be in"):
            averaging(name, **{option: value})
    with pytest.raises(UserError, match="averaging: name: unknown averaging 'tial'; did you mean 'tail'"):
        averaging("tial")
