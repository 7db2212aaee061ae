"""The signals that ask a program to end, as the interrupt that Ctrl-C is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["interrupts"]

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def interrupts(received: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block when a batch system or a closed terminal ends the process.

    What is being written is then cleaned up as after Ctrl-C. A second signal ends the process at once. A
    signal that is ignored, as under nohup, stays so.

    Args:
        received: the numbers of the signals that came are put here.
    """

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for number in ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError):
                signal.signal(number, handler)
