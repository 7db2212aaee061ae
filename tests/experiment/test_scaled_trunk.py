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


class Tied(nn.Module):
    """One matrix, which has one name in files and two in the model, as embeddings and a language head have."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embeddings.weight


def test_a_tied_tensor_has_the_new_value_under_each_of_its_names() -> None:
    trunk = Tied()
    before = trunk.head.weight.detach().clone()
    scaled = ScaledTrunk(trunk, {"embeddings.weight": torch.ones(3, 2)})
    for value in (0.5, 1.0):
        scaled.by(value)
        assert torch.equal(trunk.embeddings.weight, before + value)
        assert trunk.head.weight is trunk.embeddings.weight
