from __future__ import annotations

import pytest
import torch

from saft.merging.algebra.adam import adam


@pytest.mark.parametrize("steps", [0, 1, 50])
def test_it_is_torchs_adam(steps):
    draw = torch.manual_seed(0)
    start, slopes = torch.randn(20, generator=draw), torch.rand(20, generator=draw) * 3
    point = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([point], lr=0.01)
    for _ in range(steps):
        point.grad = slopes * point.detach()
        optimizer.step()
    before = start.clone()
    found = adam(start, lambda point: slopes * point, steps, 0.01)
    torch.testing.assert_close(found, point.detach(), rtol=1e-5, atol=1e-7)
    assert start.equal(before)


def test_without_a_slope_nothing_moves():
    start = torch.randn(5)
    assert adam(start, torch.zeros_like, 10, 0.1).equal(start)
