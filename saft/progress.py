"""How far a verb is, on standard error: a bar in a terminal, a line for each stage in a file or a pipe.

A terminal that cannot draw a line again, as TERM=dumb says, gets lines too: it would show a bar at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["Bar", "bar", "note", "waiting"]

SILENCE = 60.0  # seconds without a line, at most, where lines are written

_noted: set[str] = set()


class Bar:
    """What is being done, how much of the whole is done, and how long the rest will take.

    This one shows nothing; those of `bar` do.

    Args:
        total: the whole work, in any unit of cost; the estimate assumes that equal cost takes equal time.

    Example:
        >>> shown = Bar(total=4)
        >>> shown.advance(1); shown.done / shown.total
        0.25
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self.done = 0.0

    def stage(self, text: str) -> None:
        """Show what is being done now."""

    def advance(self, cost: float) -> None:
        """Count `cost` as done."""
        self.at(self.done + cost, self.total)

    def at(self, done: float, total: float) -> None:
        """Set how much of what total is done."""
        self.done, self.total = done, total


class _Drawn(Bar):
    """One line of a terminal, drawn again and again."""

    def __init__(self, total: float, progress: Progress) -> None:
        super().__init__(total)
        self._progress = progress
        self._line = progress.add_task("", total=total)

    def stage(self, text: str) -> None:
        self._progress.update(self._line, description=text)

    def at(self, done: float, total: float) -> None:
        super().at(done, total)
        self._progress.update(self._line, completed=done, total=total)


class _Written(Bar):
    """A line when a stage begins, and one a minute while it lasts: for logs."""

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(total)
        self._clock = clock
        self._begin = self._last = clock()
        self._stage = ""

    def stage(self, text: str) -> None:
        if text != self._stage:
            self._stage = text
            self._write()

    def at(self, done: float, total: float) -> None:
        super().at(done, total)
        if self._clock() - self._last >= SILENCE:
            self._write()

    def _write(self) -> None:
        self._last = self._clock()
        elapsed = self._last - self._begin
        share = min(self.done / self.total, 1.0) if self.total > 0 else 0.0
        left = f" ({share:.0%} done, about {_minutes(elapsed / share - elapsed)} left)" if share > 0 else ""
        print(f"[{_minutes(elapsed)}] {self._stage}{left}", file=sys.stderr, flush=True)


def _minutes(seconds: float) -> str:
    """Return a time as `1:02:03` or `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def note(text: str, about: str | None = None) -> None:
    """Print on standard error what a user should know though it is not an error; each text once a process.

    Args:
        text: the note.
        about: what it is about, where only the first note about that is wanted.
    """
    if (about or text) not in _noted:
        _noted.add(about or text)
        print(f"saft: note: {text}", file=sys.stderr)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on standard error what is being waited for: for work of unknown length."""
    console = _console()
    if console.is_interactive:
        with console.status(text):
            yield
    else:
        print(text, file=sys.stderr, flush=True)
        yield


@contextmanager
def bar(total: float) -> Iterator[Bar]:
    """Show on standard error how far it is while the block runs.

    Example:
        >>> with bar(total=2) as progress:
        ...     progress.stage("reading")
        ...     progress.advance(1)
    """
    console = _console()
    if not console.is_interactive:
        yield _Written(total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # A long memory of speeds: training and evaluation steps alternate, and the estimate should not jump.
    with Progress(*columns, console=console, speed_estimate_period=120.0) as progress:
        yield _Drawn(total, progress)


def _console() -> Console:
    return Console(stderr=True, markup=False, emoji=False, highlight=False)
