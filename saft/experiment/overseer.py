"""Has workers compute cells, wherever they are: starts them, reads their claims, lets others go on where one
has died."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.claims import Claim, ClaimFolder, Witness
from saft.experiment.events import Event, Tell
from saft.experiment.failures import note_failure
from saft.experiment.left_behind import clear_after
from saft.experiment.session import Session
from saft.experiment.stages import Step, steps_of_cells
from saft.progress import note
from saft.report.cell_result import failure_in_words

__all__ = ["Crew", "oversee"]

DEATHS = 3  # claimants that may die over a cell, one after the other
VAIN = 3  # times that every worker may end without getting further than those before


class Crew(Protocol):
    """The workers of an executor, each of which calls `saft.experiment.worker.work` on the folder."""

    def start(self, count: int) -> None:
        """Start further workers."""

    def running(self) -> int:
        """Return how many workers have not ended, those that wait for a machine included."""

    def end(self) -> None:
        """End every worker, and wait for that."""


def oversee(
    session: Session, cells: Sequence[Cell], tell: Tell, crew: Crew, every: float, sleep: Sleep = time.sleep
) -> None:
    """Return once all cells are computed; a cell that fails does not keep the others from it.

    Args:
        session: of this process.
        cells: those that lack something.
        tell: is told what every cell is doing.
        crew: starts and ends workers.
        every: seconds between two looks at the claims.
        sleep: waits for so many seconds.

    Raises:
        UserError: with what went wrong in each cell.
        RuntimeError: a fault of saft's, with the tracebacks.
    """
    watch = _Watch(session, cells, tell)
    watch.reopen()
    fruitless, before, reached = 0, 0, 0.0
    try:
        while watch.open:
            running = crew.running()
            watch.look()
            ended = max(0, before - running)
            fruitless = 0 if watch.reached > reached else fruitless + ended
            reached = watch.reached
            _refuse_vain(fruitless, session.config.workers, watch)
            idle = max(0, running - watch.at_work)  # started, and not come to a cell yet
            wanted = min(session.config.workers - running, watch.free - idle)
            if wanted > 0:
                crew.start(wanted)
            before = running + max(0, wanted)
            if watch.open:
                sleep(every)
    finally:
        crew.end()
    watch.complain()


Sleep = Callable[[float], None]


def _refuse_vain(fruitless: int, workers: int, watch: _Watch) -> None:
    if fruitless > VAIN * workers:
        raise UserError(
            *(
                watch.excuses
                or [
                    "the workers end before they have computed anything further; see what they print, and "
                    "give them more time if theirs is up"
                ]
            )
        )


class _Watch:
    """What is known of each cell, from one look at the claims to the next."""

    def __init__(self, session: Session, cells: Sequence[Cell], tell: Tell) -> None:
        self._session = session
        self._tell = tell
        self._witness = Witness()
        self._claims = ClaimFolder(session.folder.path)
        self._inherited: dict[str, int] = {}  # cell -> number of the claim that an earlier run has left
        self._steps: dict[str, list[Step]] = {
            cell: [step for step in steps if not step.is_done(session.folder)]
            for cell, steps in steps_of_cells(session, cells).items()
        }
        self._seen: dict[str, Claim] = {}
        self._told = dict.fromkeys(self._steps, 0.0)
        self._before = dict.fromkeys(self._steps, 0.0)  # done by earlier claimants
        self._furthest = dict.fromkeys(self._steps, 0.0)
        self.open = set(self._steps)
        self.done: set[str] = set()
        self.failed: dict[str, Claim] = {}
        self.excuses: list[str] = []
        self.at_work = 0

    @property
    def free(self) -> int:
        """Cells that no process is at work on."""
        return len(self.open) - self.at_work

    @property
    def reached(self) -> float:
        """How far the cells have come at most, in examples passed forward."""
        return sum(self._furthest.values())

    def reopen(self) -> None:
        """Offer all cells, those too that have failed, or that were finished before the experiment grew."""
        self._claims.reopen(self.open)
        self._inherited = {cell: claim.number for cell, claim in self._claims.latest().items()}
        self._claims.offer(list(self._steps))

    def look(self) -> None:
        """Read the claims; report what is new, and release what the dead have left."""
        latest = self._claims.latest()
        self.at_work = 0
        for cell in list(self.open):
            claim = latest.get(cell)
            if claim is None:
                continue
            if self._witness.is_dead(claim):
                claim = self._free(claim)
            self._note(claim)
            if claim.state == "at work":
                self.at_work += 1

    def complain(self) -> None:
        """Raise what went wrong in the cells; where nothing did, remove the claims.

        Raises:
            UserError: cells have failed; one message for each problem.
            RuntimeError: one has failed by a fault of saft's.
        """
        if not self.failed:
            self._claims.clear()
            return
        problems = [failure_in_words(cell, claim.problems) for cell, claim in self.failed.items()]
        if any(claim.fault for claim in self.failed.values()):
            raise RuntimeError("\n".join(problems))
        raise UserError(*problems)

    def _free(self, dead: Claim) -> Claim:
        """Release a dead claimant's cell, or give it up where too many have died over it."""
        # Whoever has ended an earlier run, this one begins to count anew.
        deaths = 0 if dead.number == self._inherited.get(dead.cell) else dead.deaths + 1
        where = f"process {dead.process} on {dead.host}" if dead.host else "a process"
        if deaths < DEATHS:
            clear_after(dead, self._session.folder)
            after = dead.next("released", deaths)
        else:
            text = (
                f"{deaths} workers died over it, the last one {where}, at '{dead.step}'; if they were killed "
                "for lack of memory, take fewer workers, or smaller batches"
            )
            after = dead.next("failed", deaths, [text])
        note(f"{dead.cell}: {where} has died over it")
        return after if self._claims.put(after) else dead

    def _note(self, claim: Claim) -> None:
        """Report what is new in a claim."""
        cell, seen = claim.cell, self._seen.get(claim.cell)
        if claim == seen:
            return
        self._seen[cell] = claim
        if claim.state == "released" and claim.problems:
            self.excuses = list(claim.problems)
            note("; ".join(claim.problems))
        if claim.state == "finished" or seen is None or seen.number != claim.number:
            self._before[cell] = sum(
                step.cost for step in self._steps[cell] if step.is_done(self._session.folder)
            )
        if claim.state in ("finished", "failed"):
            self.open.discard(cell)
            (self.done.add(cell) if claim.state == "finished" else self._fail(claim))
        if claim.state == "at work" and claim.step and (seen is None or seen.step != claim.step):
            self._tell(Event(cell, f"{claim.step} ({self._standing()})"))
        part = 0.0 if claim.state == "finished" else claim.done
        self._furthest[cell] = max(self._furthest[cell], self._before[cell] + part)
        now = self._before[cell] + (claim.done if claim.state == "at work" else 0.0)
        if now != self._told[cell]:
            self._tell(Event(cell, claim.step, now - self._told[cell]))
            self._told[cell] = now

    def _fail(self, claim: Claim) -> None:
        self.failed[claim.cell] = claim
        if self.open and not claim.fault:
            note_failure(claim.cell, claim.problems)

    def _standing(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{len(self.done)} of {len(self._steps)} cells done{failed}"
