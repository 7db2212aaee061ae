"""The largest eigenvalue against the Hessian written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saft.errors import UserError
from saft.interference.hessian_eigenvalue import largest_eigenvalue
from tests.oracles.interference import dense_hessian


def test_agrees_with_the_dense_hessian(space):
    probe, trunk = space.probes["a"], space.trunk.double()
    probe.batches = [(x.double(), y) for x, y in probe.batches]
    probe.head = probe.head.double()
    hessian = dense_hessian(trunk, probe.loss, probe.batches)
    value, residual = largest_eigenvalue(trunk, probe.loss, probe.batches, iterations=40)
    assert value == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-6)
    assert residual < 1e-3


def test_the_residual_bounds_the_distance_to_an_eigenvalue(space):
    probe = space.probes["b"]
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(space.trunk, probe.loss, probe.batches))
    for iterations in (1, 2, 4):
        value, residual = largest_eigenvalue(space.trunk, probe.loss, probe.batches, iterations)
        assert (eigenvalues - value).abs().min().item() <= residual + 1e-5


def test_only_the_parameters_that_are_named_count(space):
    probe, bias = space.probes["a"], space.trunk[2].bias
    hessian = dense_hessian(space.trunk, probe.loss, probe.batches, [bias])
    value, _ = largest_eigenvalue(space.trunk, probe.loss, probe.batches, parameters=[bias])
    assert value == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-4)


def test_weights_and_gradients_are_left_as_they_were(space):
    before = {name: value.clone() for name, value in space.trunk.state_dict().items()}
    first = largest_eigenvalue(space.trunk, space.probes["a"].loss, space.probes["a"].batches)
    assert all(torch.equal(value, before[name]) for name, value in space.trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in space.trunk.parameters())
    assert first == largest_eigenvalue(space.trunk, space.probes["a"].loss, space.probes["a"].batches)


def test_a_linear_loss_has_no_curvature():
    line = nn.Linear(2, 1)
    assert largest_eigenvalue(line, lambda x: line(x).sum(), [torch.ones(3, 2)]) == (0.0, 0.0)
    with pytest.raises(UserError, match="there is no batch"):
        largest_eigenvalue(line, lambda x: line(x).sum(), [])


def test_attention_is_differentiated_twice():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)

    def loss(batch):
        q = layer.in_proj_weight[:8] @ batch.transpose(1, 2)
        out = nn.functional.scaled_dot_product_attention(q.transpose(1, 2), batch, batch)
        return out.square().mean()

    value, _ = largest_eigenvalue(layer, loss, [x], iterations=20)
    hessian = dense_hessian(layer, loss, [x], [layer.in_proj_weight])
    assert value == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-3)
