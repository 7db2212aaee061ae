"""Who computes which cell: small files in the experiment's folder, which several machines can share.

The claims of a cell are numbered files, `claims/CELL.1.json`, `claims/CELL.2.json`; the last one counts.
Making the next one is what claims a cell, and a file that is there cannot be made again, on a network's disk
either; so of several processes exactly one has it. None is removed while somebody works in the folder, so no
process can take what it saw a moment ago for what is.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from saft.errors import UserError
from saft.experiment.cells import file_name
from saft.files.processes import born
from saft.files.staging import telling_a_full_disk, write_text

__all__ = ["Claim", "ClaimFolder", "Witness"]

State = Literal["at work", "finished", "failed", "released"]

OPEN = "open.json"


@dataclass(frozen=True)
class Claim:
    """What a process has to say of a cell.

    Args:
        cell: its name.
        number: of this claim among those of the cell, from 1.
        state: at work; finished; failed, with `problems`; or released, for whoever takes it.
        host, process: where the claimant is.
        machine, born: what tells it from another machine of this name, a later process of this number.
        step: what it is doing, in words.
        done: how much it has done, in examples passed forward.
        beat: grows as long as the claimant lives.
        deaths: claimants of this cell that have died one after the other.
        problems: what went wrong, in the words for the user.
        fault: whether that is a fault of saft's, and not the user's to mend.

    Example:
        >>> Claim("all/sam/seed0", 1, "released").next("at work").number
        2
    """

    cell: str
    number: int
    state: State = "at work"
    host: str = ""
    process: int = 0
    machine: str = ""
    born: str = ""
    step: str = ""
    done: float = 0.0
    beat: int = 0
    deaths: int = 0
    problems: tuple[str, ...] = ()
    fault: bool = False

    @property
    def is_cut_off(self) -> bool:
        """Return whether its file says nothing: it is being written, or its claimant died over that."""
        return not self.host

    def next(self, state: State, deaths: int = 0, problems: Sequence[str] = ()) -> Claim:
        """Return the claim that this process could put after this one.

        Args:
            state: of the next claim.
            deaths: claimants of this cell that have died one after the other.
            problems: what went wrong, in the words for the user.
        """
        return _mine(Claim(self.cell, self.number + 1, state, deaths=deaths, problems=tuple(problems)))


class ClaimFolder:
    """The claims in the folder of an experiment.

    Args:
        folder: of the experiment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "claims"
        self._settled: dict[str, Claim] = {}  # file -> claim that will not change any more

    def offer(self, cells: Sequence[str]) -> None:
        """Write down which cells are to be computed, in which order."""
        write_text(self.folder / OPEN, json.dumps(list(cells)) + "\n")

    def reopen(self, cells: Collection[str]) -> None:
        """Release cells that have failed, or that were finished before the experiment grew."""
        for cell, claim in self.latest().items():
            if cell in cells and claim.state in ("failed", "finished"):
                self.put(claim.next("released"))

    def fail(self, cell: str, problems: Sequence[str]) -> None:
        """Say that this process cannot compute a cell, and why."""
        known = self.latest().get(cell, Claim(cell, 0, "released"))
        with suppress(UserError):  # of a full disk the problems themselves may tell
            self.put(known.next("failed", problems=problems))

    def failed(self) -> dict[str, Claim]:
        """Return the claims of the cells that have failed."""
        return {cell: claim for cell, claim in self.latest().items() if claim.state == "failed"}

    def latest(self) -> dict[str, Claim]:
        """Return the claim that counts of each cell that was ever claimed."""
        highest: dict[str, int] = {}
        for cell, number in self._numbers():
            highest[cell] = max(number, highest.get(cell, 0))
        return {cell: self._read(cell, number) for cell, number in highest.items()}

    def take(self) -> Claim | None:
        """Claim the first cell that is free; None where there is none."""
        claims = self.latest()
        offered = self.folder / OPEN
        for cell in json.loads(offered.read_text("utf-8")) if offered.exists() else ():
            known = claims.get(cell, Claim(cell, 0, "released"))
            mine = known.next("at work", known.deaths)
            if known.state == "released" and self.put(mine):
                return mine
        return None

    def put(self, claim: Claim) -> bool:
        """Put a claim after the one before it; return whether it was the first to get there.

        Raises:
            UserError: the disk is full.
        """
        file = self.file(claim)
        with telling_a_full_disk(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                    stream.write(_text(claim))
            except OSError:
                file.unlink()  # it would bar the way to the cell for a while
                raise
        return True

    def update(self, claim: Claim) -> None:
        """Replace what a claim of this process says."""
        file = self.file(claim)
        temporary = file.with_name(f".{file.name}.partial")
        temporary.write_text(_text(claim), "utf-8")  # a lost beat costs nothing, so it need not be synced
        temporary.replace(file)

    def is_overtaken(self, claim: Claim) -> bool:
        """Return whether another claim has come after this one: its claimant was taken for dead."""
        return os.path.exists(self.file(dataclasses.replace(claim, number=claim.number + 1)))

    def age(self, claim: Claim) -> float:
        """Return the seconds since the last sign of life, as far as the clocks of two machines agree."""
        with suppress(OSError):
            return time.time() - self.file(claim).stat().st_mtime
        return 0.0

    def file(self, claim: Claim) -> Path:
        """Return where a claim is."""
        return self.folder / f"{file_name(claim.cell)}.{claim.number}.json"

    def clear(self) -> None:
        """Remove all claims, once every cell is finished and nobody is at work."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _numbers(self) -> Iterator[tuple[str, int]]:
        for name in os.listdir(self.folder) if self.folder.is_dir() else ():
            cell, _, number = name.removesuffix(".json").rpartition(".")
            if number.isdigit() and not name.startswith("."):
                yield unquote(cell), int(number)

    def _read(self, cell: str, number: int) -> Claim:
        """Return a claim; of one that is being written only its number is known."""
        claim = Claim(cell, number)
        file = self.file(claim)
        if file.name in self._settled:
            return self._settled[file.name]
        with suppress(OSError, ValueError, TypeError, KeyError):
            read: dict[str, Any] = json.loads(file.read_text("utf-8"))
            claim = Claim(**read | {"problems": tuple(read["problems"])})
            if claim.state != "at work":
                self._settled[file.name] = claim
        return claim


class Witness:
    """Decides which claimants are dead.

    A process of this machine is dead once it has ended; one of another machine, if it was not heard of for a
    while by this machine's clock, so that clocks need not agree.

    Args:
        patience: the while, in seconds.
        clock: gives seconds.
    """

    def __init__(self, patience: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self._clock = clock
        self._heard: dict[tuple[str, int], tuple[int, float]] = {}

    def is_dead(self, claim: Claim) -> bool:
        """Return whether the claimant has died over a cell."""
        if claim.state != "at work":
            return False
        now, place = self._clock(), (claim.cell, claim.number)
        if claim.machine == _machine():
            self._heard.pop(place, None)  # of when its file could not be read
            return born(claim.process) != claim.born
        beat, since = self._heard.get(place, (-1, now))
        if beat != claim.beat:
            self._heard[place] = (claim.beat, now)
            return False
        return now - since > self.patience


def _mine(claim: Claim) -> Claim:
    process = os.getpid()
    return dataclasses.replace(
        claim, host=socket.gethostname(), process=process, machine=_machine(), born=born(process)
    )


def _text(claim: Claim) -> str:
    return json.dumps(dataclasses.asdict(claim), ensure_ascii=False) + "\n"


@functools.cache
def _machine() -> str:
    """Return what only this machine, or container, has: within it a process number means one process."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
