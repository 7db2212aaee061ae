"""Where the best coefficient of a merge is the last that was tried: a wider grid might have a better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saft.report.kept_parts import method_title
from saft.report.results import Results
from saft.report.side_by_side import config_of

__all__ = ["ADD_A_GRID", "grid_ends"]

ADD_A_GRID = (
    "Beyond the grid it may merge better; what is finished stays if a merge of its own is added, such as "
    "merges: {wide: {method: ties, scaling: [...]}}."
)
"""What can be done where `grid_ends` says anything."""


def grid_ends(results: Results, train_size: str) -> list[str]:
    """Return a sentence for each end of a merge's grid that was chosen in some cell.

    Args:
        results: the experiment.
        train_size: whose cells.
    """
    chosen: dict[tuple[str, str, float], dict[str, int]] = {}  # in the order of the cells
    seeds: dict[str, int] = {}
    for cell in results.cells:
        if cell.train_size != train_size:
            continue
        seeds[cell.arm] = seeds.get(cell.arm, 0) + 1
        for method, merge in cell.merges.items():
            tried = {point.coefficient for point in merge.curve}
            drawn = _drawn_between(config_of(results.config, cell.arm), method)
            grid = drawn or tried
            near = (max(drawn) - min(drawn)) / 100 if drawn else 0.0  # a draw seldom is the end itself
            ends = {"smallest": min(grid), "largest": max(grid)} if len(grid) > 1 else {}
            for end, value in ends.items():
                if abs(merge.shared.coefficient - value) <= near:
                    words = f"a coefficient near the {end}" if drawn else f"the {end} coefficient"
                    arms = chosen.setdefault((method, words, value), {})
                    arms[cell.arm] = arms.get(cell.arm, 0) + 1
    return [
        f"{method_title(method, None)}: {words} of its grid, {value:g}, was chosen in "
        + ", ".join(f"{arm}{_of(times, seeds[arm])}" for arm, times in arms.items())
        for (method, words, value), arms in sorted(chosen.items(), key=lambda item: item[0][0])
    ]


def _drawn_between(config: Mapping[str, Any], method: str) -> set[float]:
    """Return the coefficients between whose ends a search drew; none where it tried them all."""
    selection = config.get("selection")
    if not isinstance(selection, Mapping) or selection.get("search") != "tpe":
        return set()
    return set(config["merges"][method]["scaling"])


def _of(times: int, seeds: int) -> str:
    return "" if seeds == 1 else f" ({times} of {seeds} seeds)"
