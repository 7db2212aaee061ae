"""Which process of this machine is meant by a number: another one has it once the first has ended."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["born"]


def born(process: int) -> str:
    """Return when a process of this machine began, in the system's own unit; "" if it has ended.

    With the number it tells one process from all others since the machine was started. A container that is
    started again gives its processes the numbers of those before.

    Args:
        process: its number.

    Example:
        >>> born(os.getpid()) == born(os.getpid()) != ""
        True
    """
    with suppress(OSError):
        # After the name, which is in brackets and may hold anything: the state, and 20th the beginning.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass  # it is there, and another user's
    return "running"  # where the system does not tell more
