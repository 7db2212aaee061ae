"""The task vectors of a cell beside each other: norms, cosines, sign conflicts."""

from __future__ import annotations

from collections.abc import Iterator

from saft.experiment.cells import Cell
from saft.experiment.figure_files import Measurement
from saft.experiment.folder import team
from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.experiment.stages.trained_models import expert_folder, start_folder
from saft.measure import weight_interference
from saft.progress import Bar

__all__ = ["interference_name", "measure_weights_steps"]


def measure_weights_steps(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield the step that measures the interference of the cell's task vectors."""

    def measured(_: Bar) -> Measurement:
        folders = {task: str(expert_folder(session, cell, task)) for task in session.tasks}
        interference = weight_interference(str(start_folder(session, cell)), folders, session.config.density)
        return Measurement(interference.measured, interference.quantities)

    rests_on = session.foundations.interference(cell)
    words = "measure the interference of the experts"
    yield Step(interference_name(session, cell), Measurement, words, rests_on, 0.0, measured)


def interference_name(session: Session, cell: Cell) -> str:
    """Return the name of the figures."""
    return f"{cell}/interference/{team(list(session.tasks))}"
