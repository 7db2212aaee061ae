"""Names that are broken into lines."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from saft.report.row_names import RowNames, broken


@pytest.mark.parametrize("name", ["sam", "x" * 50, "a_b" * 20, "a - b, c: d" * 9, "名前" * 30, ""])
@pytest.mark.parametrize("most", [1, 2, 7, 30])
def test_nothing_is_lost_and_every_line_fits(name, most):
    lines = broken(name, most).split("\n")
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")
    assert max(map(cell_len, lines)) <= max(most, 2)


def test_a_row_is_as_high_as_its_lines():
    short, long = RowNames.of(["sam"], 4.0), RowNames.of(["sam", "x" * 100], 4.0)
    assert short.height(0.24) == 0.24
    assert long.height(0.24) > 0.5


@pytest.mark.parametrize("most", range(6, 16))
def test_no_line_ends_within_a_number(most):
    for number in ("0.05", "1e-4", "0.05,1.5"):
        lines = broken(f"sharpness with {number} radius, drift-{number} (five/run)", most).split("\n")
        assert sum(number in line for line in lines) == 2 or most < len(f"({number}")
