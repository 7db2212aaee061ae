from __future__ import annotations

import torch
from torch import nn

from saft.experiment.scaled_trunk import ScaledTrunk


def test_any_coefficient_starts_from_the_base_again() -> None:
    trunk = nn.Linear(2, 2)
    base = {name: value.clone() for name, value in trunk.state_dict().items()}
    scaled = ScaledTrunk(trunk, {"weight": torch.ones(2, 2)})
    for value in (0.5, 1.0, 0.5):
        state = scaled.by(value).state_dict()
        assert torch.equal(state["weight"], torch.ones(2, 2) * value + base["weight"])
        assert torch.equal(state["bias"], base["bias"])
