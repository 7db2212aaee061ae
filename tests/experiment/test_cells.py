from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.experiment.cells import Cell, find, grid


def test_a_cell_is_found_by_its_name() -> None:
    cells = grid(["few", "many"], ["adamw", "sam"], [0, 1])
    assert len(cells) == 8
    assert all(find(str(cell), cells) == cell for cell in cells)
    assert cells[0] == Cell("few", "adamw", 0)


def test_a_mistyped_cell_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="no cell 'few/smm/seed0'; did you mean 'few/sam/seed0'"):
        find("few/smm/seed0", grid(["few"], ["adamw", "sam"], [0]))
