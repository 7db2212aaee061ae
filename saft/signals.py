"""The signals that ask a program to end: all as Ctrl-C, and none cuts an import in two."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["hand_on_interrupt", "interrupts"]

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

_AGAIN, _LONGEST = 0.05, 10.0  # seconds until an import is looked at again, and until it is cut after all
_IMPORT = "<frozen importlib._bootstrap>"  # where Python runs what is imported
_received: list[int] = []  # the signals that end this process, until the block that they end is left


def hand_on_interrupt(error: Exception) -> None:
    """Take an error for the interrupt, once a signal ends this process.

    Libraries that are not written in Python (pydantic's, Arrow's) can make an error of their own of it.

    Args:
        error: that was caught.

    Raises:
        KeyboardInterrupt: a signal has come within `interrupts`.
    """
    if _received:
        raise KeyboardInterrupt from error


@contextmanager
def interrupts(
    received: list[int], numbers: Iterable[int] = ENDING, replacing: bool = False
) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block when Ctrl-C, a batch system or a closed terminal ends the process.

    What is being written is then cleaned up. A library whose import is cut in two is imported by halves
    later, or ends the process: while one is imported, the interrupt waits, at most 10 s. A second signal ends
    the process at once. A signal that is ignored, as under nohup, stays so. An error that follows a signal
    is taken for the interrupt; see `hand_on_interrupt`.

    Args:
        received: the numbers of the signals that came are put here.
        numbers: of the signals.
        replacing: whether a handler that somebody else has set is replaced in the block.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number in before:
            received.append(number)
            _received.append(number)
            give_up.append(time.monotonic() + _LONGEST)
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if alarm is not None and _imports(frame) and time.monotonic() < give_up[0]:
            signal.signal(alarm, interrupt)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            raise KeyboardInterrupt

    before = {}
    give_up: list[float] = []  # when the interrupt waits no longer
    alarm: int | None = getattr(signal, "SIGALRM", None)  # Windows has none
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for number in numbers:
            known = signal.getsignal(number)
            is_its_own = known in (signal.SIG_DFL, signal.default_int_handler)
            if is_its_own or (replacing and known is not signal.SIG_IGN):
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        hand_on_interrupt(error)
        raise
    finally:
        _received.clear()
        if received and alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(alarm, signal.SIG_DFL)
        for number, handler in before.items():
            with suppress(ValueError, TypeError):  # no Python function handled it
                signal.signal(number, handler)


def _imports(frame: FrameType | None) -> bool:
    """Return whether a frame is within an import."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False
