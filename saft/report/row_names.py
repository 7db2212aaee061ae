"""The names of rows, however long, left of figures and in tables: broken into lines, never cut."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.cells import cell_len

__all__ = ["LARGEST_SHARE", "LETTER", "RowNames", "broken", "parts_of", "text_width"]

LARGEST_SHARE = 0.4  # of the width of a figure or a terminal that long names may take
PARTS = re.compile(r".+?(?:[\s_/:×–]|(?<!\de)-|[.,](?!\d))(?!\s)|.+$", re.DOTALL)  # 0.05 and 1e-4 are one
LINE = 0.13  # of a row, inches
LETTER = 0.07  # inches


def text_width(text: str) -> float:
    """Return about how wide a text is in a figure, inches: its longest line."""
    return LETTER * max(map(cell_len, text.split("\n")))


def parts_of(name: str) -> list[str]:
    """Return the parts of a name, behind which a line may end: no number is in two.

    Example:
        >>> parts_of("drift_4e-4 (0.05)/seed0")
        ['drift_', '4e-4 ', '(0.05)/', 'seed0']
    """
    return PARTS.findall(name)


def broken(name: str, most: int) -> str:
    """Return a name in lines, broken behind what parts its words where there is something.

    Args:
        name: in one line.
        most: letters of a line, at least 1; those of a double width count twice.

    Example:
        >>> broken("adamw_two_rounds_of_67_steps", most=14)
        'adamw_two_\\nrounds_of_67_\\nsteps'
    """
    lines = []
    while cell_len(name) > most:
        end = next((n for n in range(most, 1, -1) if cell_len(name[:n]) <= most), 1)
        parts = parts_of(name)
        words = [n for n in itertools.accumulate(map(len, parts)) if n <= end]
        if words and (words[-1] > end / 2 or cell_len(parts[len(words)].rstrip()) <= most):
            end = words[-1]
        lines.append(name[:end].rstrip())
        name = name[end:]
    return "\n".join([*lines, name])


@dataclass(frozen=True)
class RowNames:
    """The names of a figure's rows.

    Attributes:
        written: name -> its lines.
        width: room that they take, inches.

    Example:
        >>> names = RowNames.of(["sam", "a_very_long_name_of_an_arm_with_all_its_options"], figure_width=4.0)
        >>> names.written["sam"], max(map(text_width, names.written.values())) <= names.width <= 1.6
        ('sam', True)
    """

    written: Mapping[str, str]
    width: float

    @classmethod
    def of(cls, names: Iterable[str], figure_width: float) -> RowNames:
        """Return the names in lines of which the longest leaves the panels most of the figure.

        Args:
            names: at least one.
            figure_width: inches.
        """
        written = {name: broken(name, int(LARGEST_SHARE * figure_width / LETTER)) for name in names}
        return cls(written, max(map(text_width, written.values())))

    def height(self, least: float) -> float:
        """Return the height of a row, inches: the least, or more where a name takes several lines.

        Args:
            least: inches.
        """
        return max(least, LINE * max(text.count("\n") + 1 for text in self.written.values()) + 0.05)
