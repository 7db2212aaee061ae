"""A file goes to the disk while more of it is written, so that little is left to wait for at its end."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

__all__ = ["WriteBehind"]

_PIECE = 64 * 2**20
"""Bytes that a thread is worth."""


class WriteBehind:
    """Has what was written to a stream go to the disk, beside the writing.

    It promises nothing of what has not been synced when the file is complete: only that then little is left.

    Args:
        stream: that is written to; it stays open until `close`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as stream:
        ...     behind = WriteBehind(stream)
        ...     behind.wrote(stream.write(b"weights"))
        ...     behind.close()
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._descriptor = stream.fileno()
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._sync: Future[None] | None = None

    def wrote(self, count: int) -> None:
        """Take note that so many bytes more were written.

        Raises:
            OSError: an earlier piece did not go to the disk; the system may say so only once.
        """
        self._waiting += count
        if self._waiting < _PIECE or (self._sync and not self._sync.done()):
            return
        if self._sync:
            self._sync.result()
        self._pool = self._pool or ThreadPoolExecutor(1)
        self._sync, self._waiting = self._pool.submit(os.fsync, self._descriptor), 0

    def close(self) -> None:
        """Wait for what is on its way.

        Raises:
            OSError: it did not arrive.
        """
        if self._pool:
            self._pool.shutdown()
        if self._sync:
            self._sync.result()
