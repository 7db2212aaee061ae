"""A worker: a process that takes one cell after the other of an experiment, until none is free."""

from __future__ import annotations

import _thread
import dataclasses
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from saft.errors import UserError
from saft.experiment.cells import find
from saft.experiment.claims import Claim, ClaimFolder, State
from saft.experiment.events import Event
from saft.experiment.failures import problems_of
from saft.experiment.session import Session, open_session
from saft.experiment.stages import carry_out_cell
from saft.signals import hand_on_interrupt, interrupts

__all__ = ["Holding", "work"]

# SIGTERM and a closed terminal as in `saft`, and Slurm's warning that the time is up.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR2") if hasattr(signal, name)]


def work(folder: str | Path, threads: int | None = None, every: float = 10.0) -> None:
    """Compute free cells of an experiment, one after the other, until none is free.

    The data are read once; each training reads the model's weights from the disk, on a CPU a thousandth of
    its time. A cell that cannot be computed is said to have failed, and the next one is begun. SIGTERM, or an
    interrupt, releases the cell; what is known of it stays for the next claimant.

    Args:
        folder: of the experiment, which `saft run` has begun.
        threads: of the CPU that this worker may use, at least 1; None leaves what is set.
        every: seconds between two signs of life.
    """
    if threads is not None:
        os.environ["RAYON_NUM_THREADS"] = str(threads)  # of the tokenizers
        torch.set_num_threads(threads)
    claims, session = ClaimFolder(Path(folder)), None
    with interrupts([], ENDING, replacing=True):
        while (claim := claims.take()) is not None:
            with Holding(claims, claim, every) as holding:
                try:
                    session = session or open_session(folder)
                except UserError as error:  # of this machine, so another may do better
                    hand_on_interrupt(error)
                    problems = [f"on {socket.gethostname()}: {problem}" for problem in error.problems]
                    holding.close("released", problems, deaths=claim.deaths + 1)
                    return
                _compute(session, claim.cell, holding)


def _compute(session: Session, cell: str, holding: Holding) -> None:
    """Compute one cell, and say what has become of it."""
    try:
        carry_out_cell(session, find(cell, session.resolved.cells), holding.tell)
    except Exception as error:
        problems = problems_of(error)
        if problems is None:
            holding.close("failed", [traceback.format_exc().rstrip()], fault=True)
        else:
            holding.close("failed", problems)
    else:
        holding.close("finished")


class Holding:
    """A cell while this process holds it: a thread gives signs of life, and says how far it is.

    Args:
        claims: of the experiment.
        claim: of this process, at work.
        every: seconds between two signs of life.
        overtaken: is called when another process has taken this one for dead and holds the cell now.
    """

    def __init__(
        self, claims: ClaimFolder, claim: Claim, every: float, overtaken: Callable[[], None] | None = None
    ) -> None:
        self._claims = claims
        self._claim = claim
        self._every = every
        self._overtaken = overtaken or _end_this_process
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Holding:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._closing.is_set():
            self.close("released")

    def tell(self, event: Event) -> None:
        """Take note of what is being done; the next sign of life says it."""
        self._claim = dataclasses.replace(self._claim, step=event.step, done=self._claim.done + event.done)

    def close(
        self, state: State, problems: list[str] | None = None, deaths: int = 0, fault: bool = False
    ) -> None:
        """Record what has become of the cell; nothing is recorded afterwards.

        Args:
            state: finished, failed or released.
            problems: what went wrong, in the words for the user.
            deaths: claimants of this cell that have died one after the other.
            fault: whether that is a fault of saft's, and not the user's to mend.
        """
        self._closing.set()
        self._thread.join()
        end = dataclasses.replace(
            self._claim, state=state, problems=tuple(problems or ()), deaths=deaths, fault=fault
        )
        self._claims.update(end)

    def _beat(self) -> None:
        beat = 0
        while not self._closing.wait(self._every):
            beat += 1
            with suppress(OSError):  # a disk that is full, or away for a moment: others may take over
                self._claims.update(dataclasses.replace(self._claim, beat=beat))
            if self._claims.is_overtaken(self._claim):
                self._overtaken()
                return


def _end_this_process() -> None:
    _thread.interrupt_main(signal.SIGTERM)
