"""L2 towards the base: the slow formula."""

from __future__ import annotations

import pytest
import torch

from saft.penalties.l2_base import L2Base
from tests.contracts.test_penalties import gradients, model_of, moved, setting


def test_it_is_the_squared_distance_of_the_trunk_and_its_gradient_twice_the_difference() -> None:
    model, base = model_of(), dict(model_of().named_parameters())
    model.trunk.pooler.requires_grad_(False)
    bound = L2Base(strength=0.5).bind(model.trunk, setting())
    model.trunk.pooler.requires_grad_(True)
    moved(model)
    loss = bound.loss(model.trunk, 0)
    slopes = gradients(model, loss)
    trained = [n for n, _ in model.named_parameters() if n.startswith("trunk") and "pooler" not in n]
    moves = {name: model.get_parameter(name).detach() - base[name].detach() for name in trained}
    assert loss.item() == pytest.approx(0.5 * sum(float(move.square().sum()) for move in moves.values()))
    assert slopes.keys() == moves.keys()
    for name, move in moves.items():
        torch.testing.assert_close(slopes[name], move)
