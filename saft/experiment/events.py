"""What a cell reports while it runs, in whatever process: its step, and how much is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saft.progress import Bar

__all__ = ["Event", "Tell", "TellingBar"]


@dataclass(frozen=True)
class Event:
    """A step began, or a part of it is done.

    Args:
        cell: name of the cell; "base" before the first.
        step: the step in words, for example "train on reuters".
        done: how much was done since the last event, in examples passed forward; 0 where a step begins.
    """

    cell: str
    step: str
    done: float = 0.0

    def __str__(self) -> str:
        return f"{self.cell}: {self.step}"


Tell = Callable[[Event], None]
"""Who is told. It is called from the process that runs the cell."""


class TellingBar(Bar):
    """A bar that shows nothing itself, but reports what it would show.

    Args:
        cell: name of the cell.
        tell: who is told.
        total: the whole work, in examples passed forward.
    """

    def __init__(self, cell: str, tell: Tell, total: float) -> None:
        super().__init__(total)
        self.cell = cell
        self.tell = tell
        self.step = ""

    def stage(self, text: str) -> None:
        """Report that a step begins."""
        self.step = text
        self.tell(Event(self.cell, text))

    def at(self, done: float, total: float) -> None:
        """Report that a part of the step is done."""
        self.tell(Event(self.cell, self.step, done - self.done))
        super().at(done, total)
