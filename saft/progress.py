"""Progress bars with an estimate of the time left; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["Bar", "bar", "note", "waiting"]

_noted: set[str] = set()


class Bar:
    """One line: what is being done, how much of the whole is done, and how long the rest will take.

    Args:
        progress: the rich display, or None to be silent.
        total: the whole work, in any unit of cost; the estimate assumes that equal cost takes equal time.
    """

    def __init__(self, progress: Progress | None, total: float) -> None:
        self._progress = progress
        self._line = progress.add_task("", total=total) if progress is not None else None

    def stage(self, text: str) -> None:
        """Say what is being done now."""
        if self._progress is not None and self._line is not None:
            self._progress.update(self._line, description=text)

    def advance(self, cost: float) -> None:
        """Count `cost` as done."""
        if self._progress is not None and self._line is not None:
            self._progress.advance(self._line, cost)

    def at(self, done: float, total: float) -> None:
        """Set how much of what total is done."""
        if self._progress is not None and self._line is not None:
            self._progress.update(self._line, completed=done, total=total)


def note(text: str) -> None:
    """Say on standard error what a user should know though it is not an error; each thing once a process."""
    if text not in _noted:
        _noted.add(text)
        print(f"saft: note: {text}", file=sys.stderr)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on standard error what is being waited for, if that is a terminal: for work of unknown length."""
    console = Console(stderr=True)
    with console.status(text) if console.is_terminal else nullcontext():
        yield


@contextmanager
def bar(total: float, visible: bool = True) -> Iterator[Bar]:
    """Show a bar on standard error while the block runs, if that is a terminal.

    Example:
        >>> with bar(total=2, visible=False) as progress:
        ...     progress.stage("reading")
        ...     progress.advance(1)
    """
    console = Console(stderr=True)
    if not (visible and console.is_terminal):
        yield Bar(None, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # A long memory of speeds: training and evaluation steps alternate, and the estimate should not jump.
    with Progress(*columns, console=console, speed_estimate_period=120.0) as progress:
        yield Bar(progress, total)
