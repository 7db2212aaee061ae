"""Cells that could not be computed, and arms none of whose trials could: told, and in the report."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from saft.errors import UserError, is_for_memory
from saft.experiment.claims import ClaimFolder
from saft.experiment.session import Session
from saft.experiment.stages import arm_choice, drawn_cells
from saft.progress import note
from saft.report.cell_result import FailedCell, failure_in_words
from saft.signals import hand_on_interrupt

__all__ = ["all_diverged", "failed_cells", "note_failure", "problems_of"]


def problems_of(error: Exception) -> list[str] | None:
    """Return what keeps a cell from being computed, in words for the user; None of a fault of saft's.

    Args:
        error: that the computation raised.

    Raises:
        KeyboardInterrupt: a signal ends this process, and the error is what a library made of it.

    Example:
        >>> problems_of(UserError("training diverged; lower rho")), problems_of(KeyError("news"))
        (['training diverged; lower rho'], None)
    """
    hand_on_interrupt(error)
    if isinstance(error, UserError):
        return list(error.problems)
    if is_for_memory(error):
        cure = "take fewer workers, a smaller micro_batch_size, or gradient_checkpointing: true"
        return [f"there is not enough memory on {socket.gethostname()}; {cure}"]
    return None


def note_failure(cell: str, problems: Sequence[str]) -> None:
    """Say on standard error that a cell has failed, and that the run goes on without it.

    Args:
        cell: its name.
        problems: what went wrong.
    """
    note(failure_in_words(f"{cell} has failed, and the others go on", problems))


def all_diverged(session: Session) -> list[FailedCell]:
    """Return the arms with `choices` that have no trial to choose, at each train size.

    Args:
        session: of this process.
    """
    failed = []
    for arm in session.resolved.config.arms:
        for size in session.config.regimes if len(session.resolved.trials_of(arm)) > 1 else ():
            made = arm_choice(session, size, arm)
            if made is not None and made.chosen is None:
                problem = (
                    "training diverged in every trial, so there is none to choose; add lower values of "
                    f"learning_rate or rho to arms.{arm}.choices"
                )
                failed.append(FailedCell(size, arm, None, [problem]))
    return failed


def failed_cells(session: Session) -> list[FailedCell]:
    """Return what could not be computed of an experiment, as the last `saft run` in its folder has left it.

    Args:
        session: of this process.
    """
    claims, failed = ClaimFolder(session.folder.path).failed(), list[FailedCell]()
    for cell in drawn_cells(session):
        if (claim := claims.get(str(cell))) is not None:
            arm = session.resolved.arm_of(cell)
            trial = f"{cell.arm}: " if cell.arm != arm else ""
            problems = [trial + problem for problem in claim.problems]
            failed.append(FailedCell(cell.train_size, arm, cell.seed, problems))
    return [*failed, *all_diverged(session)]
