"""The learning rates of layers, as the optimizer has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from saft.training.layer_decay import layer_factors
from saft.training.module import TaskModule
from saft.training.options import TrainingOptions


def test_each_parameter_is_in_one_group_with_its_layers_rate() -> None:
    trunk = nn.ModuleDict(
        {"embed": nn.Embedding(2, 2), "layer": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])}
    )
    model: Any = nn.ModuleDict({"trunk": trunk, "head": nn.Linear(2, 1)})
    model.trunk = trunk
    options = TrainingOptions(learning_rate=0.1, layer_decay=0.5)
    module = TaskModule(model, SimpleNamespace(), SimpleNamespace(), options, 0)  # type: ignore[arg-type]
    optimizer: Any = module.configure_optimizers()["optimizer"]
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert rates[id(trunk["embed"].weight)] == pytest.approx(0.025)
    assert rates[id(trunk["layer"][0].bias)] == pytest.approx(0.05)
    assert rates[id(trunk["layer"][1].weight)] == rates[id(model["head"].weight)] == pytest.approx(0.1)


def test_numbers_inside_a_name_are_no_layers() -> None:
    """As in SigLIP's head; and CLIP has a norm before all layers, called so."""
    names = ["pre_layrnorm.bias", "layers.0.mlp.fc1.bias", "layers.1.mlp.fc2.bias", "head.mlp.fc1.weight"]
    assert list(layer_factors(names, 0.5).values()) == [0.25, 0.5, 1.0, 1.0]
