"""One step of an experiment: a file of figures, what it rests on, what it costs, and how it is computed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from saft.experiment.events import Tell, TellingBar
from saft.experiment.folder import ExperimentFolder
from saft.interference.quantity import Quantity
from saft.progress import Bar

__all__ = ["Step", "as_plain", "carry_out"]


@dataclass(frozen=True)
class Step:
    """One file of figures that an experiment consists of.

    Args:
        name: of the figures; their file is figures/NAME.json.
        words: what is done, for whoever watches.
        rests_on: the part of the config, and the fingerprints of the files, that decide the figures.
        cost: about how long it takes, in examples passed forward.
        compute: gives the figures, plain values; may advance the bar it is given, by `cost` in all.
    """

    name: str
    words: str
    rests_on: dict[str, Any]
    cost: float
    compute: Callable[[Bar], Any]

    def is_done(self, folder: ExperimentFolder) -> bool:
        """Return whether the figures are known."""
        return folder.figures(self.name).is_file()


def carry_out(folder: ExperimentFolder, cell: str, steps: Iterable[Step], tell: Tell) -> None:
    """Compute the figures of the steps whose figures are not known, in their order.

    Args:
        folder: of the experiment.
        cell: name of the cell, for whoever watches.
        steps: in an order in which they can be computed.
        tell: is told what is being done, and how much of it.
    """
    for step in steps:
        if step.is_done(folder):
            continue
        bar = TellingBar(cell, tell, step.cost)
        bar.stage(step.words)
        folder.remembered(step.name, step.rests_on, functools.partial(step.compute, bar))
        bar.advance(step.cost - bar.done)


def as_plain(quantities: Mapping[str, Quantity]) -> dict[str, dict[str, Any]]:
    """Return what quantities are as plain values, for a file of figures."""
    return {name: dataclasses.asdict(quantity) for name, quantity in quantities.items()}
