"""One step of an experiment: a file of figures, what it rests on, what it costs, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saft.errors import UserError
from saft.experiment.events import Tell, TellingBar
from saft.experiment.folder import ExperimentFolder
from saft.experiment.session import Session
from saft.progress import Bar
from saft.report.cell_result import Split
from saft.tasks import Score

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Step", "carry_out", "score_steps"]


@dataclass(frozen=True)
class Step:
    """One file of figures that an experiment consists of.

    Args:
        name: of the figures; their file is figures/NAME.json.
        kind: what the figures are.
        words: what is done, for whoever watches.
        rests_on: the part of the config, and the fingerprints of the files, that decide the figures.
        cost: about how long it takes, in examples passed forward.
        compute: gives the figures; may advance the bar it is given, by `cost` in all.
        decides: whether the choice among the trials of an arm rests on it. All others are taken by the trial
            that was chosen only.
    """

    name: str
    kind: type[DataclassInstance]
    words: str
    rests_on: dict[str, Any]
    cost: float
    compute: Callable[[Bar], DataclassInstance]
    decides: bool = False

    def is_done(self, folder: ExperimentFolder) -> bool:
        """Return whether the figures are known."""
        return folder.figures(self.name).is_file()


def score_steps(
    session: Session,
    name: str,
    words: str,
    rests_on: dict[str, Any],
    sizes: Mapping[str, int],
    score: Callable[[Split], Score],
) -> Iterator[Step]:
    """Yield the steps that give a model's scores on a task: on validation examples, and on test ones if read.

    Args:
        session: the experiment in this process.
        name: begins the names of the figures.
        words: what is done, for whoever watches.
        rests_on: what decides the score on validation examples.
        sizes: split -> number of examples.
        score: gives the score on a split.
    """
    splits: list[Split] = ["validation", "test"] if session.config.test else ["validation"]
    for split in splits:

        def compute(_: Bar, split: Split = split) -> Score:
            return score(split)

        rests = session.foundations.tested(rests_on) if split == "test" else rests_on
        yield Step(f"{name}/{split}", Score, words, rests, float(sizes[split]), compute)


def carry_out(folder: ExperimentFolder, cell: str, steps: Iterable[Step], tell: Tell) -> None:
    """Compute the figures of the steps whose figures are not known, in their order.

    Args:
        folder: of the experiment.
        cell: name of the cell, for whoever watches.
        steps: in an order in which they can be computed.
        tell: is told what is being done, and how much of it.

    Raises:
        UserError: what only the computation could find; it names the step.
    """
    for step in steps:
        if step.is_done(folder):
            continue
        bar = TellingBar(cell, tell, step.cost)
        bar.stage(step.words)
        try:
            figures = step.compute(bar)
        except UserError as error:
            raise UserError(*(f"{step.words}: {problem}" for problem in error.problems)) from error
        folder.remember(step.name, step.rests_on, figures)
        bar.advance(step.cost - bar.done)
