"""All cells of an experiment, in rounds: what choices among trials rest on, then the chosen trials."""

from __future__ import annotations

from collections.abc import Mapping

from saft.errors import collecting
from saft.experiment.claims import ClaimFolder
from saft.experiment.events import Tell
from saft.experiment.executors import Executor
from saft.experiment.failures import all_diverged
from saft.experiment.run_check import all_steps
from saft.experiment.session import Session
from saft.experiment.stages import Step, carry_out, chosen_cells, drawn_cells

__all__ = ["carry_out_all", "write_steps"]


def carry_out_all(
    session: Session,
    executor: Executor,
    steps: Mapping[str, list[Step]],
    missing: Mapping[str, list[Step]],
    tell: Tell,
) -> list[str]:
    """Compute what is missing of the base and of all cells.

    An arm without `choices` has one trial, which is the chosen one from the beginning: the first round does
    all of its cells. Of all other trials the test split is read once one is chosen, by that one; a search of
    trials takes a round for each of its own.

    Args:
        session: of this process; config.yaml and `base` are written.
        executor: computes the cells of a round.
        steps: "base", or a cell -> its steps, as far as is known.
        missing: of them, as `saft.experiment.run_check.missing_steps` gives it.
        tell: is told of every step that begins or ends.

    Returns:
        What went wrong in each cell that cannot be computed; all others are computed.

    Raises:
        UserError: the base cannot be computed, and so nothing else.
    """
    problems: list[str] = []
    cells = [cell for cell in drawn_cells(session) if str(cell) in steps]
    undecided = [cell for cell in cells if all(step.decides for step in steps[str(cell)])]
    carry_out(session.folder, "base", missing.get("base", []), tell)
    to_do = [cell for cell in cells if str(cell) in missing]
    while True:
        if to_do:
            with collecting(problems):
                executor(session, to_do, tell)
        known, cells = set(cells), drawn_cells(session)
        further = [cell for cell in cells if cell not in known]
        chosen = chosen_cells(session, undecided)
        if not (to_do := [*further, *chosen]):
            break
        undecided = [*(cell for cell in undecided if cell not in chosen), *further]
        write_steps(session, all_steps(session))
    problems += map(str, all_diverged(session))
    if not problems:  # the claims, of a call too that was killed once its workers had done all
        ClaimFolder(session.folder.path).clear()
    return problems


def write_steps(session: Session, steps: Mapping[str, list[Step]]) -> None:
    """Write down which figures each cell will have, as far as is known, for `saft run --status`.

    Args:
        session: of this process.
        steps: "base", or a cell -> its steps.
    """
    names = {cell: [step.name for step in part] for cell, part in steps.items() if cell != "base"}
    session.folder.write_steps(names)
