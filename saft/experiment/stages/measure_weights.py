"""The task vectors of a cell beside each other: norms, cosines, sign conflicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from saft.experiment.cells import Cell
from saft.experiment.figure_files import Measurement
from saft.experiment.folder import team
from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.experiment.stages.trained_models import expert_folder, start_folder
from saft.interference.weights import WeightMeasure
from saft.measure import weight_interference
from saft.merging.plan import Plan
from saft.progress import Bar

__all__ = ["interference_name", "measure_weights_steps", "measured_weights"]


def measure_weights_steps(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield the step that measures the interference of the cell's task vectors."""

    def measured(_: Bar) -> Measurement:
        return measured_weights(session, cell)

    rests_on = session.foundations.interference(cell)
    words = "measure the interference of the experts"
    yield Step(interference_name(session, cell), Measurement, words, rests_on, 0.0, measured)


def measured_weights(
    session: Session,
    cell: Cell,
    measures: Mapping[str, WeightMeasure] | None = None,
    merge: Plan | None = None,
) -> Measurement:
    """Return what measures of weights give of the experts of a cell.

    Args:
        session: the experiment in this process.
        cell: whose experts are measured.
        measures, merge: as for `weight_interference`.
    """
    folders = {task: str(expert_folder(session, cell, task)) for task in session.tasks}
    base, density = str(start_folder(session, cell)), session.config.density
    result = weight_interference(base, folders, density, measures=measures, merge=merge)
    return Measurement(result.measured, result.quantities)


def interference_name(session: Session, cell: Cell) -> str:
    """Return the name of the figures."""
    return f"{cell}/interference/{team(list(session.tasks))}"
