"""How far apart predictions and directions are."""

from __future__ import annotations

import math

import pytest
import torch

from saft.errors import UserError
from saft.interference.chosen_measures import chosen
from saft.interference.functions import disagreement, distance_of_directions


def test_of_a_regression_the_difference_is_in_units_of_the_spread():
    numbers = torch.tensor([0.0, 2.0, 4.0])
    assert disagreement(numbers, numbers) == 0.0
    assert disagreement(numbers, numbers + 1.0) == pytest.approx(1 / numbers.var(correction=0).item())


def test_numbers_without_a_spread_have_no_unit_to_differ_by():
    """A single example would differ by a share of trillions."""
    one = torch.tensor([0.5])
    assert disagreement(one, one) == 0.0
    assert math.isnan(disagreement(one, one + 1.0))
    assert math.isnan(disagreement(torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])))


def test_several_labels_differ_label_by_label():
    first = torch.tensor([[True, False], [True, True]])
    assert disagreement(first, torch.tensor([[True, True], [True, True]])) == 0.25


def test_the_length_of_features_does_not_count():
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert distance_of_directions(features, 3 * features) == pytest.approx(0, abs=1e-12)
    assert distance_of_directions(features, -features) == pytest.approx(4)


@pytest.mark.parametrize("name", ["loss_line", "loss_plane", "disentanglement"])
@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1e-6), (100_000.0, 100_000.1)])
def test_a_grid_has_as_many_points_as_are_asked_for(name, low, high):
    with pytest.raises(UserError, match=r"low: must be below high|too close to tell them apart"):
        chosen([{"name": name, "low": low, "high": high}], "measures")
