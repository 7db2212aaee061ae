"""Tasks that are held out: experts and merges on what none was trained for, and nothing is chosen by."""

from __future__ import annotations

from collections.abc import Iterator

from saft.experiment.cells import Cell
from saft.experiment.figure_files import HeldOutCurve, HeldOutPoint, WeightsChoice
from saft.experiment.scaled_trunk import ScaledTrunk
from saft.experiment.session import Session
from saft.experiment.stages.merge_experts import choice, merge_name, merged_trunk
from saft.experiment.stages.step import Step, score_steps
from saft.experiment.stages.trained_models import expert_folder
from saft.experiment.stages.weigh_experts import METHOD, weighted_trunk, weights_name
from saft.progress import Bar
from saft.report.cell_result import Split
from saft.tasks import Score

__all__ = ["expert_held_out_steps", "held_out_name", "merge_held_out_steps", "weights_held_out_steps"]


def expert_held_out_steps(session: Session, cell: Cell, task: str) -> Iterator[Step]:
    """Yield the scores of one expert on every task that is held out.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed of the expert.
        task: that the expert was trained on.
    """
    foundations, name = session.foundations, f"{cell}/experts/{task}"
    for held, sizes in session.held_out_sizes.items():
        rests_on = foundations.held_out(foundations.expert(cell, task), held)

        def score(split: Split, held: str = held) -> Score:
            trunk = session.expert_trunk(expert_folder(session, cell, task), cell)
            return session.score_held_out(held, trunk, split)

        words = f"score the expert of {task} on {held}"
        yield from score_steps(session, held_out_name(name, held), words, rests_on, sizes, score)


def merge_held_out_steps(session: Session, cell: Cell, method: str) -> Iterator[Step]:
    """Yield the scores of a merge on every task that is held out: at each coefficient, and of the chosen one.

    The coefficients are those that the choice tried of its merged task vector; the test split is read at the
    one that was chosen for all tasks.

    Args:
        session: the experiment in this process.
        cell: whose experts are merged.
        method: name of the merge in the config.
    """
    if session.resolved.keeps_parts(method):  # a task that is held out has no part
        return
    foundations, name = session.foundations, merge_name(session, cell, method)
    for held, sizes in session.held_out_sizes.items():
        rests_on = foundations.held_out(foundations.merge(cell, method), held)

        def curve(bar: Bar, held: str = held, size: float = float(sizes["validation"])) -> HeldOutCurve:
            points = []
            for coefficient in sorted({p.candidate for p in choice(session, cell, method).of_the_chosen}):
                trunk = _merged(session, cell, method).by(coefficient)
                points.append(HeldOutPoint(coefficient, session.score_held_out(held, trunk, "validation")))
                bar.advance(size)
            return HeldOutCurve(points)

        def tested(_: Bar, held: str = held) -> Score:
            trunk = _merged(session, cell, method).by(choice(session, cell, method).shared)
            return session.score_held_out(held, trunk, "test")

        words, place = f"score {method} on {held}", held_out_name(name, held)
        grid, selection = session.resolved.merges[method].scaling, session.config.selection
        tried = len(grid) if selection.search == "grid" or len(grid) == 1 else selection.budget  # at most
        cost = float(tried * sizes["validation"])
        yield Step(f"{place}/validation", HeldOutCurve, words, rests_on, cost, curve)
        if session.config.test:
            rests_on = foundations.tested(rests_on)
            yield Step(f"{place}/test", Score, words, rests_on, float(sizes["test"]), tested)


def weights_held_out_steps(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield the scores of the merge with a weight for each task, where these are searched.

    Args:
        session: the experiment in this process.
        cell: whose experts are weighed.
    """
    if session.config.selection.weights == "equal":
        return
    foundations, name = session.foundations, weights_name(session, cell)
    for held, sizes in session.held_out_sizes.items():
        rests_on = foundations.held_out(foundations.weights(cell, METHOD), held)

        def score(split: Split, held: str = held) -> Score:
            weights = session.folder.known(f"{name}/validation", WeightsChoice).weights
            return session.score_held_out(held, weighted_trunk(session, cell).by(weights), split)

        words = f"score the weights of the tasks on {held}"
        yield from score_steps(session, held_out_name(name, held), words, rests_on, sizes, score)


def held_out_name(model: str, task: str) -> str:
    """Return what the names of a model's figures on a task that is held out begin with.

    Args:
        model: what those of the model begin with.
        task: the one that is held out.

    Example:
        >>> held_out_name("all/sam/seed0/experts/cars", "general")
        'all/sam/seed0/experts/cars/held_out/general'
    """
    return f"{model}/held_out/{task}"


def _merged(session: Session, cell: Cell, method: str) -> ScaledTrunk:
    parameters = choice(session, cell, method).parameters
    merged = merged_trunk(session, cell, method, tuple(parameters.items()))
    assert isinstance(merged, ScaledTrunk)
    return merged
