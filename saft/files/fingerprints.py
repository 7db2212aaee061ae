"""Digests of files; that of a large file is remembered as long as the file stays what it is."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from saft.files.locations import cache_folder
from saft.files.staging import write_text

__all__ = ["Algorithm", "fingerprint", "quick_fingerprint", "remembered"]

Algorithm = Literal["sha256", "blake3"]
"""BLAKE3 takes a quarter of the time, SHA-256 is what the hub shows of a file."""

_LARGE = 16 * 2**20  # bytes; a smaller file is read in less time than it is worth
_PIECE = 2**18  # bytes that are read at a time: few enough to stay in the processor's cache
_SETTLED_NS = 2 * 10**9  # the clock of a file system may stand still that long, and hide a second change


def fingerprint(file: Path, algorithm: Algorithm = "sha256", content: mmap.mmap | None = None) -> str:
    """Return the digest of a file, as 64 hexadecimal digits.

    A large file is read once, and again when it has changed: as long as its path, inode, size and both of its
    times are the same (that of its content, and that of any change, which no program can set back), the
    digest comes from `saft/digests` in $XDG_CACHE_HOME, or in ~/.cache. Whoever deletes that folder has every
    file read again.

    Args:
        file: any.
        algorithm: of the digest.
        content: the whole file, where it is mapped already.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "abc"
        >>> _ = file.write_text("abc")
        >>> fingerprint(file)[:16], fingerprint(file, "blake3")[:16]
        ('ba7816bf8f01cfea', '6437b3ac38465133')
    """
    if (known := remembered(file, algorithm)) is not None:
        return known
    begun, before = time.time_ns(), _identity(file)
    digest = _read(file, algorithm, content)
    if _is_settled(before, begun) and before["size"] >= _LARGE and _identity(file) == before:
        noted = _noted(file) | {"file": before, algorithm: digest}
        with suppress(OSError):  # a home that cannot be written to
            write_text(_memory(file), json.dumps(noted) + "\n")
    return digest


def remembered(file: Path, algorithm: Algorithm = "sha256") -> str | None:
    """Return the digest of a file if it is known without reading the file.

    Args:
        file: any.
        algorithm: of the digest.
    """
    digest = _noted(file).get(algorithm)
    return digest if isinstance(digest, str) else None


def quick_fingerprint(file: Path) -> str:
    """Return what changes whenever a file does, without reading a large one: see `fingerprint`.

    It says nothing of the content: a copy of the file has another.

    Args:
        file: any.
    """
    identity = _identity(file)
    if identity["size"] < _LARGE or not _is_settled(identity, time.time_ns()):
        return fingerprint(file)
    return json.dumps(identity)


def _read(file: Path, algorithm: Algorithm, content: mmap.mmap | None) -> str:
    if content is not None:
        return (blake3 if algorithm == "blake3" else hashlib.sha256)(content).hexdigest()
    if algorithm == "blake3":
        return blake3().update_mmap(file).hexdigest()
    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def _noted(file: Path) -> dict[str, Any]:
    """Return what is remembered of a file that has stayed what it was; empty where nothing is."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        noted: dict[str, Any] = json.loads(_memory(file).read_text("utf-8"))
        if noted["file"] == _identity(file):
            return noted
    return {}


def _memory(file: Path) -> Path:
    """Return the file that remembers the digests of `file`: one each, so that processes do not meet."""
    folder = cache_folder("digests")
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()
    return folder / f"{name}.json"


def _is_settled(identity: dict[str, int], now_ns: int) -> bool:
    return max(identity["changed_ns"], identity["content_changed_ns"]) + _SETTLED_NS < now_ns


def _identity(file: Path) -> dict[str, int]:
    stat = file.stat()
    return {
        "device": stat.st_dev,
        "inode": stat.st_ino,
        "size": stat.st_size,
        "content_changed_ns": stat.st_mtime_ns,
        "changed_ns": stat.st_ctime_ns,
    }
