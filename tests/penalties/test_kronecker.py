"""Kronecker factors: each by loops over texts and tokens, and the curvature that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Conv1D

from saft.errors import UserError
from saft.penalties import Unlabelled
from saft.penalties.kronecker import KroneckerFactors, Matrices, _watched, flat_weight, summarize
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


class _Scaled(nn.Embedding):
    """As Gemma's of words, which returns its rows times a constant."""

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(words)


class _Positions(nn.Embedding):
    """As OPT's of positions, which is given the attention mask."""

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(mask.cumsum(-1))


def test_embeddings_count_by_what_they_look_up_and_not_by_what_they_are_given_and_return() -> None:
    trunk = nn.ModuleDict({"words": _Scaled(5, 2), "positions": _Positions(4, 2), "layer": nn.Linear(2, 1)})
    words, weight = torch.tensor([[1, 4, 1]]), trunk["words"].weight
    sums: dict[str, Any] = {}
    with _watched(trunk, sums):
        features = trunk["layer"](input=trunk["words"](words) + trunk["positions"](torch.ones_like(words)))
        by_row, *_ = torch.autograd.grad(features.square().sum(), [weight, *trunk.parameters()])
    assert sums["words"][0].tolist() == [0, 2, 0, 0, 1]
    assert sums["positions"][0].tolist() == [0, 1, 1, 1]
    assert sums["layer"][2] == sums["words"][2] == 3
    gradient = torch.func.grad(lambda rows: trunk["layer"](3 * rows + places).square().sum())
    with torch.no_grad():
        places = trunk["positions"](torch.ones_like(words))
    of_rows = gradient(weight[words].detach())[0]
    torch.testing.assert_close(sums["words"][1], of_rows.T @ of_rows)
    torch.testing.assert_close(by_row[4], of_rows[1])


def test_the_mean_is_over_tasks() -> None:
    model = model_of()
    one, two = (summarize(model.trunk, unlabelled(seed=seed), 8) for seed in (1, 2))
    mean = KroneckerFactors.mean([one, two])
    for name, tensor in mean.tensors().items():
        torch.testing.assert_close(tensor, (one.tensors()[name] + two.tensors()[name]) / 2)


def test_the_mean_does_not_depend_on_which_task_comes_first() -> None:
    one = Matrices(torch.eye(2), torch.eye(2))
    some, all_of_them = KroneckerFactors({"a": one}), KroneckerFactors({"a": one, "b": one})
    means = [KroneckerFactors.mean(order).layers for order in ((some, all_of_them), (all_of_them, some))]
    for mean in means:
        assert mean.keys() == {"a", "b"}
        assert mean["a"].inputs.equal(torch.eye(2))
        assert mean["b"].inputs.equal(torch.eye(2) / 2)


def test_without_inputs_it_says_so() -> None:
    with pytest.raises(UserError, match="there are no training inputs"):
        summarize(model_of().trunk, unlabelled(0), 8)


@pytest.mark.parametrize("rank", [0, 2, 5, 50, None])
def test_a_small_summary_keeps_the_diagonal_and_the_largest_directions(
    rank: int | None, tmp_path: Path
) -> None:
    factors = summarize(model_of().trunk, unlabelled(), 40)
    numbers = factors.write(tmp_path / "a.safetensors", rank)
    read = KroneckerFactors.read(tmp_path / "a.safetensors")
    assert read.base == factors.base
    assert numbers <= sum(tensor.numel() for tensor in factors.tensors().values())
    for name, tensor in factors.tensors().items():
        near = read.tensors()[name]
        if rank is None or tensor.dim() == 1 or rank + 1 >= len(tensor):
            assert torch.equal(near, tensor)
            continue
        torch.testing.assert_close(near.diagonal(), tensor.diagonal())
        values = torch.linalg.eigvalsh(tensor.double())
        assert torch.linalg.eigvalsh(near.double()).min() >= -1e-6 * values.max()
        if rank:  # what is off the diagonal is that of the best matrix of this rank
            largest, vectors = torch.linalg.eigh(tensor.double())
            best = (vectors[:, -rank:] * largest[-rank:]) @ vectors[:, -rank:].T
            off = ~torch.eye(len(tensor), dtype=torch.bool)
            torch.testing.assert_close(near.double()[off], best[off], rtol=1e-3, atol=1e-6)
        else:
            assert near.equal(torch.diag(tensor.diagonal()))


def test_a_file_notes_one_thing_since_several_come_in_an_order_that_changes(tmp_path: Path) -> None:
    factors = KroneckerFactors({"layer": Matrices(torch.eye(2), torch.ones(1, 1))}, base="abc")
    factors.write(tmp_path / "a")
    assert b'{"__metadata__":{"base":"abc"},"layer.' in (tmp_path / "a").read_bytes()


def test_a_file_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    packed = summarize(model_of().trunk, unlabelled(), 40).packed(2)
    for name in ("hidden.inputs.vectors", "hidden.inputs.rest", "embed.inputs"):
        part = {key: tensor.contiguous() for key, tensor in packed.items() if key != name}
        save_file(part, tmp_path / "a.safetensors")
        with pytest.raises(UserError, match="holds no Kronecker factors"):
            KroneckerFactors.read(tmp_path / "a.safetensors")
