"""The note of a folder that is being written: whose it is, and which of its shards are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from saft.files.staging import sync, write_text

__all__ = ["FinishedShards"]

_NOTE = ".saft-shards.json"


@dataclass(frozen=True)
class FinishedShards:
    """Which shards of a folder are finished, noted beside them as soon as they are on the disk.

    Args:
        folder: that is being written.

    Example:
        >>> import tempfile
        >>> shards = FinishedShards(Path(tempfile.mkdtemp()))
        >>> shards.begin("merge of a and b")
        >>> _ = (shards.folder / "one").write_text("")
        >>> shards.add("one")
        >>> shards.names, shards.owner
        (('one',), 'merge of a and b')
    """

    folder: Path

    @property
    def owner(self) -> str | None:
        """What the folder is being written for; None where nothing is noted."""
        return self._read()[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The files that are finished, and have stayed as they were."""
        return tuple(name for name, was in self._read()[1].items() if _identity(self.folder / name) == was)

    def begin(self, owner: str) -> None:
        """Note that the folder is being written for `owner`, and nothing is finished."""
        self._write(owner, {})

    def add(self, name: str) -> None:
        """Note that a file is finished; nothing is noted in a folder that nobody has begun."""
        owner, shards = self._read()
        if owner is not None:
            sync(self.folder / name)  # the note must not outlive what it speaks of, when power is lost
            self._write(owner, shards | {name: _identity(self.folder / name)})

    def forget(self) -> None:
        """Take the note away: the folder is complete."""
        (self.folder / _NOTE).unlink(missing_ok=True)

    def clear_the_rest(self) -> None:
        """Delete everything else in the folder."""
        kept = {_NOTE, *self.names}
        for path in sorted(self.folder.rglob("*"), reverse=True):  # what is below a folder before it
            if str(path.relative_to(self.folder)) in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # it holds a shard that is finished
                    path.rmdir()
            else:
                path.unlink()

    def _read(self) -> tuple[str | None, dict[str, object]]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            note = json.loads((self.folder / _NOTE).read_text("utf-8"))
            return str(note["owner"]), dict(note["shards"].items())
        return None, {}

    def _write(self, owner: str, shards: Mapping[str, object]) -> None:
        write_text(self.folder / _NOTE, json.dumps({"owner": owner, "shards": shards}) + "\n")


def _identity(file: Path) -> list[int] | None:
    """Return what another file in its place, or a change of it, would not have; None of what is no file."""
    with suppress(OSError):
        stat = file.stat(follow_symlinks=False)
        return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
    return None
