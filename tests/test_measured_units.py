from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from saft.interference.quantity import DIFFERENCE, IN_LOSS, IN_METRIC, Quantity
from saft.measured_units import in_units
from saft.tasks import Metric


def task(metric: Metric, loss_unit: str = "nats") -> Any:
    return SimpleNamespace(metric=metric, loss_unit=loss_unit)


ACCURACY, MATTHEWS = task(Metric("accuracy", "%")), task(Metric("Matthews", "%"))
LOSS = task(Metric("loss", "nats", False, 1.0, 3))
LIKENESS = task(Metric("Pearson", "%"), "mean square")


def test_metrics_that_differ_leave_raw_numbers() -> None:
    raw = in_units(Quantity("score", IN_METRIC), [ACCURACY, LOSS])
    assert (raw.unit, raw.format(0.5)) == ("its own metric", "0.500")
    assert in_units(Quantity("score", IN_METRIC), [ACCURACY, MATTHEWS]).format(0.5) == "50.0"
    assert in_units(Quantity("change", DIFFERENCE), [ACCURACY, MATTHEWS]).unit == "points"


def test_a_difference_of_percents_is_in_points_and_of_nats_in_nats() -> None:
    difference = Quantity("difference of scores", DIFFERENCE)
    assert in_units(difference, [ACCURACY]).unit == "points"
    assert in_units(difference, [LOSS]).unit == "nats"


def test_a_loss_is_in_the_unit_of_what_was_trained() -> None:
    """That of a regression is a mean square, and was told as nats."""
    rise = Quantity("largest increase of the loss", IN_LOSS)
    assert in_units(rise, [ACCURACY, LOSS]).unit == "nats"
    assert in_units(rise, [LIKENESS]).unit == "mean square"
    assert in_units(rise, [ACCURACY, LIKENESS]).unit == "its own loss"
