"""Kronecker factors: each by loops over texts and tokens, and the curvature that they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Conv1D

from saft.errors import UserError
from saft.penalties import Unlabelled
from saft.penalties.kronecker import KroneckerFactors, flat_weight, summarize
from saft.tasks.examples import Batch, Examples
from tests.contracts.test_penalties import features, model_of, unlabelled


def test_they_are_the_moments_of_inputs_and_gradients_token_by_token() -> None:
    model, source, count = model_of().eval(), unlabelled(), 40
    factors = summarize(model.trunk, source, count, seed=5)
    assert list(factors.layers) == ["out", "hidden", "embed"]  # not the pooler, which nothing goes through
    generator = torch.Generator().manual_seed(5)
    projections = torch.cat([torch.randn(size, 6, generator=generator) for size in (32, 8)])
    a, b, tokens = torch.zeros(7, 7), torch.zeros(8, 8), 0
    frequency = torch.zeros(11)
    for index in range(count):
        inputs = source.inputs([index], torch.device("cpu"))
        ids = inputs["input_ids"][0, : int(inputs["attention_mask"].sum())]
        seen = model.trunk.norm(model.trunk.embed(ids)).detach()
        y = model.trunk.hidden(seen).detach().requires_grad_()
        h = functional.normalize(model.trunk.out(torch.tanh(y)).mean(0), dim=0)
        (g,) = torch.autograd.grad((projections[index] * h).sum(), y)
        for token in range(len(ids)):
            with_one = torch.cat([seen[token], torch.ones(1)])
            a += torch.outer(with_one, with_one)
            b += torch.outer(g[token], g[token])
            frequency[ids[token]] += 1
        tokens += len(ids)
    torch.testing.assert_close(factors.layers["hidden"].inputs, a / tokens)
    torch.testing.assert_close(factors.layers["hidden"].outputs, b / count)
    torch.testing.assert_close(factors.layers["embed"].inputs, frequency / tokens)


def test_for_one_token_they_give_the_squared_drift_of_a_small_step() -> None:
    """Many copies of one text: A is exact, and B an average over many projections."""
    model, text = model_of().eval(), torch.tensor([[4]])

    def collate(indices: list[int]) -> Batch:
        n = len(indices)
        inputs = {"input_ids": text.expand(n, 1), "attention_mask": torch.ones(n, 1)}
        return Batch(inputs, torch.zeros(n))

    source = Unlabelled(features, Examples([1] * 6000, collate))
    matrices = summarize(model.trunk, source, 6000).layers["hidden"]
    torch.manual_seed(1)
    delta = torch.randn(8, 7) * 1e-4

    def outputs() -> Tensor:
        with torch.no_grad():
            return functional.normalize(
                features(model.trunk, source.inputs([0], torch.device("cpu"))).double(), dim=-1
            )

    model.double()
    before = outputs()
    with torch.no_grad():
        model.trunk.hidden.weight += delta[:, :-1]
        model.trunk.hidden.bias += delta[:, -1]
    drift = (outputs() - before).square().sum().item()
    assert (matrices.product(delta) * delta).sum().item() == pytest.approx(drift, rel=0.1)


def test_weights_are_outputs_by_inputs_with_the_bias_last() -> None:
    linear, transposed, embedding = nn.Linear(3, 2), Conv1D(2, 3), nn.Embedding(5, 2)
    with torch.no_grad():
        transposed.weight.copy_(linear.weight.T)
        transposed.bias.copy_(linear.bias)
    assert torch.equal(flat_weight(linear), flat_weight(transposed))
    assert torch.equal(flat_weight(linear)[:, -1], linear.bias)
    assert flat_weight(embedding).shape == (2, 5)


def test_the_mean_is_over_tasks() -> None:
    model = model_of()
    one, two = (summarize(model.trunk, unlabelled(seed=seed), 8) for seed in (1, 2))
    mean = KroneckerFactors.mean([one, two])
    for name, tensor in mean.tensors().items():
        torch.testing.assert_close(tensor, (one.tensors()[name] + two.tensors()[name]) / 2)


def test_without_inputs_it_says_so() -> None:
    with pytest.raises(UserError, match="there are no training inputs"):
        summarize(model_of().trunk, unlabelled(0), 8)
