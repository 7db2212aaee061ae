"""One cell after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.claims import ClaimFolder
from saft.experiment.events import Tell
from saft.experiment.executors import EXECUTORS, Executor
from saft.experiment.failures import note_failure, problems_of
from saft.experiment.session import Session
from saft.experiment.stages import carry_out_cell
from saft.report.cell_result import failure_in_words

__all__ = ["Serial"]


@EXECUTORS.register("serial")
@dataclass(frozen=True)
class Serial(Executor):
    """Computes the cells in their order; one that fails does not keep the others from it."""

    def __call__(self, session: Session, cells: Sequence[Cell], tell: Tell) -> None:
        """Compute the cells; see `Executor`."""
        claims, problems = ClaimFolder(session.folder.path), list[str]()
        claims.reopen([str(cell) for cell in cells])
        for cell in cells:
            try:
                carry_out_cell(session, cell, tell)
            except Exception as error:
                told = problems_of(error)
                if told is None:
                    raise
                claims.fail(str(cell), told)
                problems.append(failure_in_words(str(cell), told))
                if cell != cells[-1]:
                    note_failure(str(cell), told)
        if problems:
            raise UserError(*problems)
