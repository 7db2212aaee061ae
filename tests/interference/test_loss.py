"""The weights of a module, and the way to the points around them and back."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import pytest
import torch
from torch import nn

from saft.interference.loss import LossMeasure, Neighbourhood, length_of, loss_measures
from saft.interference.quantity import MEASURES, Quantity


def test_the_length_of_tensors_is_that_of_one_vector_in_float64():
    tensors = [torch.full((1000,), 0.1, dtype=torch.bfloat16), torch.tensor([[3.0], [4.0]])]
    expected = math.sqrt(float(tensors[0].double().square().sum()) + 25)
    assert length_of(tensors) == pytest.approx(expected, rel=1e-12)


def interrupted(module):
    with Neighbourhood(module, [1], 0.1, False, None).visited() as near:
        assert not module.training
        near.move([torch.ones_like(weight) for weight in near.weights])
        assert not torch.equal(module.weight, near.weights[0])
        raise KeyboardInterrupt


def test_everything_is_put_back_after_an_exception():
    module = nn.Linear(3, 2)
    module.train()
    module.weight.grad = torch.ones(2, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        interrupted(module)
    assert module.training
    assert torch.equal(module.weight.grad, torch.ones(2, 3))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_measure_of_the_loss_is_taken_by_being_registered(monkeypatch):
    """It may have options that the others have too, or none."""

    @dataclasses.dataclass(frozen=True)
    class Halved(LossMeasure):
        rho: float = 0.1
        standard = True
        quantities: ClassVar[dict[str, Quantity]] = {"halved": Quantity("half of the loss", per="task")}

        def values(self, module, loss, batches, parameters=None):
            return {"halved": float(loss(batches[0])) / 2}

    MEASURES.names()
    monkeypatch.setitem(MEASURES._classes, "halved", Halved)
    assert Halved(0.05) in loss_measures(rho=0.05)
    assert Halved() in loss_measures()
