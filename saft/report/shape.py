"""What a measured quantity goes over, by which it is drawn: tasks, and scales such as layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from saft.interference.quantity import Axis, Quantity

__all__ = ["Kind", "Shape", "shape_of"]

Kind = Literal["number", "tasks", "matrix", "curves", "planes", "table"]


@dataclass(frozen=True)
class Shape:
    """The axes of a quantity, whatever measure it comes from.

    Attributes:
        axes: the outermost first, each with everything along it that was measured.
        of_tasks: which of them go over tasks.
        scales: which of them go over something else.
    """

    axes: tuple[Axis, ...]
    of_tasks: tuple[int, ...]
    scales: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        """How it is drawn; "table" where no picture of it is known."""
        if len(self.of_tasks) > 2 or len(self.scales) > 2:
            return "table"
        if self.scales:
            return "curves" if len(self.scales) == 1 else "planes"
        kinds: tuple[Kind, Kind, Kind] = ("number", "tasks", "matrix")
        return kinds[len(self.of_tasks)]


def shape_of(quantity: Quantity, keys: Iterable[tuple[str, ...]], tasks: Sequence[str]) -> Shape:
    """Return the shape of a quantity that was measured.

    Args:
        quantity: what it is.
        keys: of its numbers, each as long as the quantity has axes.
        tasks: of the experiment; an axis on which there is nothing else goes over tasks.

    Example:
        >>> line = Quantity("loss on a line", per="grid", axes=("task", "coefficient"))
        >>> shape = shape_of(line, [("a", "1"), ("a", "0.5"), ("b", "1")], tasks=["b", "a"])
        >>> shape.kind, [axis.ticks for axis in shape.axes]
        ('curves', [('b', 'a'), ('0.5', '1')])
    """
    levels = list(zip(*dict.fromkeys(keys), strict=True)) or [()] * len(quantity.axes)
    axes, of_tasks, scales = [], [], []
    for level, (name, ticks) in enumerate(zip(quantity.axes, levels, strict=True)):
        there = tuple(dict.fromkeys(ticks))
        if set(there) <= set(tasks):
            of_tasks.append(level)
            axes.append(Axis(name, tuple(task for task in tasks if task in there)))
            continue
        scales.append(level)
        axis = Axis(name, there)
        axes.append(Axis(name, tuple(sorted(there, key=float))) if axis.is_numeric else axis)
    return Shape(tuple(axes), tuple(of_tasks), tuple(scales))
