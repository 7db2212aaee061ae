"""What is measured in the tasks' own metric or loss, in the unit that these tasks have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from saft.interference.quantity import DIFFERENCE, IN_LOSS, IN_METRIC, OWN_LOSS, OWN_METRIC, Quantity
from saft.tasks import BoundTask

__all__ = ["in_units"]


def in_units(quantity: Quantity, tasks: Collection[BoundTask]) -> Quantity:
    """Return a quantity in the unit of the tasks' metric, or of their loss; raw where these have several.

    Args:
        quantity: whatever its unit is.
        tasks: that it was measured on, at least one.

    Example:
        >>> from types import SimpleNamespace
        >>> likeness = SimpleNamespace(loss_unit="mean square")
        >>> in_units(Quantity("largest increase of the loss", IN_LOSS), [likeness]).unit
        'mean square'
    """
    if quantity.unit == IN_LOSS:
        losses = {task.loss_unit for task in tasks}
        return replace(quantity, unit=OWN_LOSS if len(losses) > 1 else losses.pop())
    if quantity.unit not in (IN_METRIC, DIFFERENCE):
        return quantity
    units = {(task.metric.unit, task.metric.scale, task.metric.digits) for task in tasks}
    if len(units) > 1:
        return replace(quantity, unit=OWN_METRIC)
    unit, scale, decimals = units.pop()
    unit = "points" if quantity.unit == DIFFERENCE and unit == "%" else unit
    return replace(quantity, unit=unit, scale=scale, decimals=decimals)
