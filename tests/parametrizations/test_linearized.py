"""Linearized: the outputs are those of the first-order expansion, and their gradient is the base's."""

from __future__ import annotations

import torch
from torch import nn

from saft.parametrizations.linearized import Linearized


def test_outputs_and_gradients_are_those_of_the_expansion_at_the_base() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    at_base = trunk(x).sum()
    slope = torch.autograd.grad(at_base, list(trunk.parameters()))
    Linearized().wrap(trunk, lambda count: iter(()))
    steps = [torch.randn_like(p) for p in trunk.parameters()]
    with torch.no_grad():
        for parameter, step in zip(trunk.parameters(), steps, strict=True):
            parameter.add_(step)
    found = trunk(x).sum()
    expected = at_base + sum((g * step).sum() for g, step in zip(slope, steps, strict=True))
    torch.testing.assert_close(found, expected)
    for own, theirs in zip(torch.autograd.grad(found, list(trunk.parameters())), slope, strict=True):
        torch.testing.assert_close(own, theirs)
    with torch.inference_mode():
        torch.testing.assert_close(trunk(x.clone()).sum(), expected.detach())
