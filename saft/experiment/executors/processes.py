"""Several cells at a time, in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from saft.errors import UserError
from saft.experiment.cells import Cell, find
from saft.experiment.events import Event, Tell
from saft.experiment.executors import EXECUTORS
from saft.experiment.session import Session, open_session
from saft.experiment.stages import carry_out_cell

__all__ = ["processes"]


@EXECUTORS.register("processes")
def processes(session: Session, cells: Sequence[Cell], tell: Tell) -> None:
    """Compute as many cells at a time as the config has `workers`, on the same device; they share its cores.

    Each worker loads the data once, and takes one cell after the other. On a GPU, where a small model leaves
    most of the time to the host, several workers finish sooner than one.

    Raises:
        UserError: a cell cannot be computed.
        RuntimeError: a worker has been ended from outside, or by a fault of saft, which it has printed.
    """
    started = multiprocessing.get_context("spawn")  # a fork would inherit threads, and a GPU's state
    jobs, told = started.Queue(), started.Queue()
    count = min(session.config.workers, len(cells))
    for name in [*map(str, cells), *[None] * count]:
        jobs.put(name)
    threads = max(1, (os.cpu_count() or 1) // count)
    workers = [
        started.Process(target=_work, args=(session.folder.path, jobs, told, threads), daemon=True)
        for _ in range(count)
    ]
    try:
        for worker in workers:
            worker.start()
        _listen(told, workers, len(cells), tell)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _listen(told: Any, workers: Sequence[BaseProcess], open_cells: int, tell: Tell) -> None:
    """Pass on what the workers tell until all cells are finished."""
    while open_cells:
        try:
            message = told.get(timeout=1)
        except queue.Empty:
            for worker in workers:
                if worker.exitcode:  # a traceback of it has been printed, or it was killed
                    raise RuntimeError(f"a worker has ended with exit code {worker.exitcode}") from None
            continue
        if isinstance(message, Event):
            tell(message)
        elif isinstance(message, UserError):
            raise message
        else:
            open_cells -= 1


def _work(folder: Path, jobs: Any, told: Any, threads: int) -> None:
    """Compute cells until there are no more; a mistake of the user's is told."""
    try:
        torch.set_num_threads(threads)
        session = open_session(folder)
        for name in iter(jobs.get, None):
            carry_out_cell(session, find(name, session.resolved.cells), told.put)
            told.put(name)
    except KeyboardInterrupt:  # the first process is told as well, and ends this one
        return
    except UserError as error:
        told.put(error)
