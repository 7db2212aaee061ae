"""Sharpness against closed forms and brute force, and that nothing is left behind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from saft.errors import UserError
from saft.interference import average_sharpness, worst_case_sharpness
from tests.oracles.interference import worst_of_many_directions


class Bowl(nn.Module):
    """L(w) = 1/2 sum_i h_i w_i^2: every answer is known."""

    def __init__(self, weights, curvatures):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)

    def at(self, weights):
        return 0.5 * (self.curvatures * weights**2).sum()

    def forward(self, scale=1.0):
        return scale * self.at(self.weight)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))


def batches(n=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 5, generator=generator), torch.randint(0, 3, (6,), generator=generator))
        for _ in range(n)
    ]


def loss_of(model):
    return lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1])


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_step_is_the_closed_form(adaptive):
    bowl = Bowl([1.0, -2.0, 0.5], [1.0, 3.0, 0.1])
    w, rho = bowl.weight.detach().clone(), 0.3
    gradient = bowl.curvatures * w
    metric = w.abs() if adaptive else torch.ones_like(w)
    shift = rho * metric**2 * gradient / (metric * gradient).norm()
    result = worst_case_sharpness(bowl, bowl, [1.0], rho=rho, adaptive=adaptive)
    assert result.loss == pytest.approx(float(bowl.at(w)))
    assert result.worst_case == pytest.approx(float(bowl.at(w + shift) - bowl.at(w)))


@pytest.mark.parametrize("adaptive", [False, True])
def test_many_steps_reach_what_no_random_direction_beats(adaptive):
    # The gradient points along the first axis, the curvature along the second: one step misses the maximum.
    bowl = Bowl([1.0, 0.05], [1.0, 30.0])
    one, many = (
        worst_case_sharpness(bowl, bowl, [1.0], 0.4, adaptive, n_steps=n).worst_case for n in (1, 50)
    )
    best = worst_of_many_directions(bowl.at, bowl.weight.detach(), 0.4, adaptive)
    assert one < 0.99 * best or adaptive
    assert many == pytest.approx(best, rel=3e-3)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7])
@pytest.mark.parametrize("adaptive", [False, True])
def test_never_leaves_the_ball(n_steps, adaptive):
    bowl = Bowl([1.0, -0.3, 2.0], [1.0, 5.0, 0.2])
    w = bowl.weight.detach().clone()
    metric = w.abs() if adaptive else torch.ones_like(w)
    visited = []

    def loss(batch):
        visited.append(float(((bowl.weight.detach() - w) / metric).norm()))
        return bowl()

    worst_case_sharpness(bowl, loss, [None], rho=0.2, adaptive=adaptive, n_steps=n_steps)
    assert len(visited) == n_steps + 1  # the passes that the docstring promises
    assert visited[0] == 0
    assert max(visited) == pytest.approx(0.2)


def test_the_loss_is_the_mean_over_the_batches():
    bowl = Bowl([1.0, 2.0], [1.0, 1.0])
    one = worst_case_sharpness(bowl, bowl, [2.0], rho=0.1)
    several = worst_case_sharpness(bowl, bowl, [1.0, 2.0, 3.0], rho=0.1)
    assert several.loss == pytest.approx(one.loss)
    assert several.worst_case == pytest.approx(one.worst_case)


def test_rho_zero_is_flat():
    bowl = Bowl([1.0, 2.0], [1.0, 1.0])
    assert worst_case_sharpness(bowl, bowl, [1.0], rho=0.0, n_steps=3).worst_case == 0.0
    assert average_sharpness(bowl, bowl, [1.0], rho=0.0).average == 0.0


@pytest.mark.parametrize("adaptive", [False, True])
def test_at_a_stationary_point_there_is_no_direction(adaptive):
    bowl = Bowl([0.0, 0.0], [1.0, 1.0])
    result = worst_case_sharpness(bowl, bowl, [1.0], rho=0.1, adaptive=adaptive, n_steps=2)
    assert (result.loss, result.worst_case) == (0.0, 0.0)


def test_average_is_the_trace_in_a_bowl():
    bowl = Bowl([0.0] * 4, [1.0, 2.0, 3.0, 4.0])  # E 1/2 z^T H z on the sphere is rho^2 trace(H) / 2 d
    result = average_sharpness(bowl, bowl, [1.0], rho=0.5, n_samples=2000)
    error = 4 * result.deviation / math.sqrt(2000)
    assert result.average == pytest.approx(0.5**2 * 10 / 8, abs=error)


def test_average_is_seeded_and_leaves_the_random_stream_alone():
    model = network()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = average_sharpness(model, loss_of(model), batches(), rho=0.1, seed=5)
    assert torch.equal(torch.rand(2), expected)
    assert first == average_sharpness(model, loss_of(model), batches(), rho=0.1, seed=5)
    assert first.average != average_sharpness(model, loss_of(model), batches(), rho=0.1, seed=6).average
    assert average_sharpness(model, loss_of(model), batches(), rho=0.1, n_samples=1).deviation is None


@pytest.mark.parametrize("measure", [worst_case_sharpness, average_sharpness])
@pytest.mark.parametrize("adaptive", [False, True])
def test_everything_is_put_back(measure, adaptive):
    model = network()
    model.train()
    model[1].eval()  # modes are kept part by part
    model[0].bias.requires_grad_(False)
    loss_of(model)(batches()[0]).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    copies = [None if gradient is None else gradient.clone() for gradient in gradients]
    before = bits(model)
    measure(model, loss_of(model), batches(), rho=0.7, adaptive=adaptive)
    assert same(model, before)
    assert [part.training for part in model] == [True, False, True, True, True]
    for parameter, gradient, copy in zip(model.parameters(), gradients, copies, strict=True):
        assert parameter.grad is gradient
        assert gradient is None or torch.equal(gradient, copy)


@pytest.mark.parametrize("measure", [worst_case_sharpness, average_sharpness])
@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_everything_is_put_back_after_an_exception(measure, fail_at):
    model = network()
    before = bits(model)
    calls = []

    def loss(batch):
        calls.append(batch)
        if len(calls) > fail_at:
            raise KeyboardInterrupt
        return loss_of(model)(batch)

    with pytest.raises(KeyboardInterrupt):
        measure(model, loss, batches(1) * 2, rho=0.5)
    assert same(model, before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_so_that_the_answer_is_one_number():
    model = network()
    model.train()
    results = {worst_case_sharpness(model, loss_of(model), batches(), rho=0.1) for _ in range(3)}
    assert len(results) == 1


def test_only_the_chosen_parameters_move():
    model = network()
    moved = set()

    def loss(batch):
        moved.update(name for name, p in model.named_parameters() if not torch.equal(p, before[name]))
        return loss_of(model)(batch)

    before = bits(model)
    worst_case_sharpness(model, loss, batches(), rho=0.1, parameters=model[0].parameters())
    assert moved == {"0.weight", "0.bias"}


def test_overflow_away_from_the_weights_is_infinite():
    bowl = Bowl([1.0], [1.0])

    def explosive(_):
        return (bowl.weight * 700).exp().sum()  # e^700 is a double, e^4200 is none

    assert worst_case_sharpness(bowl, explosive, [None], rho=5.0).worst_case == math.inf
    assert worst_case_sharpness(bowl, explosive, [None], rho=5.0, n_steps=4).worst_case == math.inf


@pytest.mark.parametrize("measure", [worst_case_sharpness, average_sharpness])
def test_mistakes_are_named(measure):
    bowl = Bowl([1.0], [1.0])
    with pytest.raises(UserError, match="no batch"):
        measure(bowl, bowl, [], rho=0.1)
    with pytest.raises(ValueError, match="rho must be at least 0"):
        measure(bowl, bowl, [1.0], rho=-0.1)
    with pytest.raises(UserError, match=r"bfloat16.*module\.float"):
        measure(bowl.bfloat16(), bowl, [1.0], rho=0.1)
    with pytest.raises(UserError, match="requires a gradient"):
        measure(bowl.double().requires_grad_(False), bowl, [1.0], rho=0.1)


@pytest.mark.parametrize("start", [math.nan, math.inf, -math.inf])
def test_around_a_loss_that_is_not_finite_nothing_is_known(start):
    bowl = Bowl([1.0], [1.0])
    worst = worst_case_sharpness(bowl, lambda _: bowl.weight.sum() + start, [None], rho=0.1)
    average = average_sharpness(bowl, lambda _: bowl.weight.sum() + start, [None], rho=0.1)
    assert str(worst.loss) == str(average.loss) == str(start)
    assert math.isnan(worst.worst_case)
    assert math.isnan(average.average)
    assert average.deviation is None


def test_where_only_the_gradient_overflows_the_loss_is_known():
    bowl = Bowl([0.0], [1.0])
    steep = worst_case_sharpness(bowl, lambda _: bowl.weight.abs().sqrt().sum(), [None], rho=0.1)
    assert steep.loss == 0
    assert math.isnan(steep.worst_case)


def test_counts_of_steps_and_samples_are_checked():
    bowl = Bowl([1.0], [1.0])
    with pytest.raises(ValueError, match="n_steps"):
        worst_case_sharpness(bowl, bowl, [1.0], rho=0.1, n_steps=0)
    with pytest.raises(ValueError, match="n_samples"):
        average_sharpness(bowl, bowl, [1.0], rho=0.1, n_samples=0)
