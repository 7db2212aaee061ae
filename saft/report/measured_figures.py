"""Every measured quantity as a picture, by its shape: numbers, tasks, matrices, curves, planes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from saft.interference.quantity import Axis, Quantity
from saft.report.arm_summary import ArmSummary
from saft.report.coloured_cells import Cells, cells_figure
from saft.report.combinations import Numbers, by_combination, mean_of_parts
from saft.report.drawing import WIDTH, arms_key, at_least, mark_of, panels
from saft.report.measured import heading, without_errors
from saft.report.row_names import RowNames
from saft.report.scale_curves import Curve, curves_figure
from saft.report.shape import Kind, Shape, shape_of

__all__ = ["MeasuredFigure", "measured_figures"]

MOST_PANELS = 12  # of curves, and of planes of an arm; beyond, their mean is drawn


@dataclass(frozen=True)
class MeasuredFigure:
    """A picture of one quantity, or of several that have a number, or one of each task.

    Attributes:
        heading: what it is of.
        svg: the element; "" where all numbers are the same, which the caption tells.
        caption: how to read it.
        quantity: name of the one that it is of; "" where it is of several.
    """

    heading: str
    svg: str
    caption: str
    quantity: str = ""


def measured_figures(
    rows: Sequence[ArmSummary],
    quantities: Mapping[str, Quantity],
    tasks: Sequence[str],
    colour: Mapping[str, str],
    name: str,
) -> list[MeasuredFigure]:
    """Return the pictures of everything that was measured at one train size, in the order of the quantities.

    Args:
        rows: the arms.
        quantities: name -> what it is.
        tasks: of the experiment.
        colour: arm -> name of its colour.
        name: begins the identifiers of the figures.
    """
    of_kind: dict[Kind, dict[str, Shape]] = {}
    for quantity, what in without_errors(quantities).items():
        keys = [key for row in rows for key in row.measured[quantity].numbers]
        if keys:
            shape = shape_of(what, keys, tasks)
            of_kind.setdefault(shape.kind, {})[quantity] = shape
    drawn = _Pictures(rows, quantities, {row.arm: colour[row.arm] for row in rows}, name)
    figures = []
    if "number" in of_kind:
        figures.append(drawn.numbers(list(of_kind["number"])))
    if "tasks" in of_kind:
        figures.append(drawn.tasks(of_kind["tasks"]))
    draws: dict[Kind, Callable[[str, Shape], MeasuredFigure]] = {
        "matrix": drawn.matrix,
        "curves": drawn.curves,
        "planes": drawn.planes,
    }
    for kind, draw in draws.items():
        figures += [draw(quantity, shape) for quantity, shape in of_kind.get(kind, {}).items()]
    return figures


@dataclass(frozen=True)
class _Pictures:
    rows: Sequence[ArmSummary]
    quantities: Mapping[str, Quantity]
    colour: Mapping[str, str]
    name: str

    def numbers(self, names: Sequence[str]) -> MeasuredFigure:
        """Draw a panel for each quantity that is one number: a row for each arm, a mark for each seed."""
        titles = {heading(name, self.quantities[name]): name for name in names}
        arms = RowNames.of(self.colour, WIDTH)

        def draw(axes: Any, title: str, leftmost: bool) -> None:
            scale = self.quantities[titles[title]].scale
            for i, row in enumerate(self.rows):
                values = row.measured[titles[title]].numbers.get(())
                if values is not None:
                    dots = [scale * value for value in values.by_seed.values()]
                    axes.plot(dots, [i] * len(dots), linestyle="", **mark_of(self.colour[row.arm]))
            _rows(axes, arms, leftmost)
            at_least(axes, "x")

        svg = panels(
            list(titles), draw, f"{self.name}-number", f"by arm: {', '.join(titles)}",
            abreast=4, height=0.3 + arms.height(0.24) * len(self.rows), left=0.3 + arms.width,
        )  # fmt: skip
        return MeasuredFigure("All tasks together", svg, "A mark for each seed.")

    def tasks(self, shapes: Mapping[str, Shape]) -> MeasuredFigure:
        """Draw a panel for each quantity that each task has: a row for each task, a mark for each arm."""
        titles = {heading(name, self.quantities[name]): name for name in shapes}
        every = dict.fromkeys(task for shape in shapes.values() for task in shape.axes[0].ticks)
        tasks = RowNames.of(every, WIDTH)

        def draw(axes: Any, title: str, leftmost: bool) -> None:
            scale = self.quantities[titles[title]].scale
            for row in self.rows:
                values = row.measured[titles[title]].numbers
                known = [(scale * values[(t,)].mean, i) for i, t in enumerate(every) if (t,) in values]
                axes.plot(
                    *zip(*known, strict=True) if known else ([], []),
                    linestyle="", **mark_of(self.colour[row.arm]),
                )  # fmt: skip
            _rows(axes, tasks, leftmost)
            at_least(axes, "x")

        svg = panels(
            list(titles), draw, f"{self.name}-task", f"by task and arm: {', '.join(titles)}",
            abreast=4, height=0.3 + tasks.height(0.24) * len(every), left=0.3 + tasks.width,
            key=arms_key(self.colour),
        )  # fmt: skip
        return MeasuredFigure("Task by task", svg, f"A mark for each arm{self._over_seeds}.")

    def matrix(self, name: str, shape: Shape) -> MeasuredFigure:
        """Draw a matrix for each arm, the first axis downwards, the second across."""
        axes, quantity = shape.axes, self.quantities[name]
        shown: dict[str, Cells] = {
            row.arm: {(s, t): values.mean for (s, t), values in row.measured[name].numbers.items()}
            for row in self.rows
            if row.measured[name].numbers
        }
        title = f"{heading(name, quantity)}, pair by pair"
        own = [(task, task) for task in axes[0].ticks]
        same = {quantity.format(cells[key]) for cells in shown.values() for key in own if key in cells}
        others = {quantity.format(v) for c in shown.values() for key, v in c.items() if key not in own}
        if len(others) == 1:
            return MeasuredFigure(title, "", f"{others.pop()} for every pair and arm.", name)
        svg = cells_figure(
            shown, (axes[0], axes[1]), quantity, self._id(name),
            f"{heading(name, quantity)}; {_sides(axes)}; " + _extremes(shown, quantity),
            plain=own if len(same) == 1 else (),
        )  # fmt: skip
        each = f"Each cell{f', in {quantity.unit}' if quantity.unit else ''}{self._over_seeds}"
        caption = f"{_sides(axes)}. {each}: {quantity.cell or quantity.meaning}.{self._errors(name)}"
        return MeasuredFigure(title, svg, f"{caption} One scale for all arms.", name)

    def _errors(self, name: str) -> str:
        """Return a sentence on the standard errors of a quantity's numbers; empty where there are none."""
        of_cells = [
            error
            for other, what in self.quantities.items()
            for row in self.rows
            if what.error_of == name
            for values in row.measured[other].numbers.values()
            for error in values.by_seed.values()
        ]
        if not of_cells:
            return ""
        quantity = self.quantities[name]
        low, high = (quantity.format(end(of_cells)) for end in (min, max))
        seed = " with one seed" if self._several_seeds else ""
        return f" The standard error of a cell{seed} is {low if low == high else f'{low} to {high}'}."

    def curves(self, name: str, shape: Shape) -> MeasuredFigure:
        """Draw a panel for each task, or pair of tasks, over the scale: a line for each arm."""
        quantity, scale = self.quantities[name], shape.axes[shape.scales[0]]
        places = {t: float(t) if scale.is_numeric else float(i) for i, t in enumerate(scale.ticks)}
        parts, told = self._parts(name, shape)
        curves: dict[str, dict[str, Curve]] = {}
        for arm, of_arm in parts.items():
            for title, part in of_arm.items():
                curves.setdefault(title, {})[arm] = {places[tick]: v for (tick,), v in part.items()}
        shortened = zip(places.values(), _shortened(scale.ticks), strict=True)
        svg = curves_figure(
            curves, self.colour, self._id(name),
            f"{heading(name, quantity)} over {scale.name}, by arm: {', '.join(filter(None, curves))}",
            along=scale.name, up=quantity.unit or name.replace("_", " "), scale=quantity.scale,
            ticks=None if scale.is_numeric else dict(shortened),
        )  # fmt: skip
        band = "; the band is one standard deviation over seeds" if self._several_seeds else ""
        caption = f"A line for each arm{told}{band}. Every panel has the same range."
        return MeasuredFigure(heading(name, quantity), svg, caption)

    def planes(self, name: str, shape: Shape) -> MeasuredFigure:
        """Draw a plane for each arm and pair of tasks: the first scale upwards, the second to the right."""
        quantity = self.quantities[name]
        up, across = (shape.axes[level] for level in shape.scales)
        parts, told = self._parts(name, shape)
        shown: dict[str, Cells] = {
            f"{arm}: {title}" if title else arm: {(a, b): v.mean for (a, b), v in plane.items()}
            for arm, of_arm in parts.items()
            for title, plane in of_arm.items()
        }
        way = "upwards" if up.is_numeric else "downwards"
        svg = cells_figure(
            shown, (up, across), quantity, self._id(name),
            f"{heading(name, quantity)} over {up.name} and {across.name}; " + _extremes(shown, quantity),
        )  # fmt: skip
        caption = (
            f"“{across.name}” to the right, “{up.name}” {way}{told}{self._over_seeds}. One scale for all."
        )
        return MeasuredFigure(heading(name, quantity), svg, caption)

    def _parts(self, name: str, shape: Shape) -> tuple[Mapping[str, Mapping[str, Numbers]], str]:
        """Return arm -> what it is of -> numbers along the scales; and what to tell of means over pairs."""
        parts = {row.arm: by_combination(row.measured[name].numbers, shape) for row in self.rows}
        most = max(map(len, parts.values()))
        if most <= MOST_PANELS:
            return parts, ""
        means = {arm: {"": mean_of_parts(of_arm)} for arm, of_arm in parts.items() if of_arm}
        return means, f", mean over {most} pairs of tasks; each is in tables/measured.csv"

    def _id(self, name: str) -> str:
        return f"{self.name}-{list(self.quantities).index(name)}"

    @property
    def _several_seeds(self) -> bool:
        return any(len(row.seeds) > 1 for row in self.rows)

    @property
    def _over_seeds(self) -> str:
        return ", mean over seeds" if self._several_seeds else ""


def _sides(axes: Sequence[Axis]) -> str:
    """Return what the rows and the columns of a matrix are."""
    down, across = (axis.name for axis in axes)
    return f"Rows and columns: “{down}”" if down == across else f"Rows: “{down}”; columns: “{across}”"


def _rows(axes: Any, names: RowNames, leftmost: bool) -> None:
    lines = list(names.written.values())
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), lines if leftmost else [""] * len(lines))
    axes.locator_params(axis="x", nbins=4)
    axes.margins(x=0.12)
    axes.grid(axis="x")


def _extremes(shown: Mapping[str, Cells], quantity: Quantity) -> str:
    """Return the largest and the smallest number of each panel in words, for those who do not see it."""
    return "; ".join(f"{title}: {_of_cells(cells, quantity)}" for title, cells in shown.items() if cells)


def _of_cells(cells: Cells, quantity: Quantity) -> str:
    others = {key: value for key, value in cells.items() if key[0] != key[1]} or cells
    largest, smallest = (end(others, key=lambda key: others[key]) for end in (max, min))
    return (
        f"from {quantity.format(others[smallest])} ({', '.join(smallest)}) to "
        f"{quantity.format(others[largest])} ({', '.join(largest)}), "
        f"mean {quantity.format(fmean(others.values()))}"
    )


def _shortened(names: Sequence[str]) -> list[str]:
    """Return what follows the last dot of each name, where that tells them apart."""
    last = [name.rpartition(".")[2] for name in names]
    return last if len(set(last)) == len(last) else list(names)
