"""Several cells at a time, in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from saft.experiment.cells import Cell
from saft.experiment.events import Tell
from saft.experiment.executors import EXECUTORS, Executor
from saft.experiment.overseer import oversee
from saft.experiment.session import Session
from saft.experiment.worker import work

__all__ = ["Local"]

GRACE = 30.0  # seconds that a worker has to end
EVERY = 1.0  # seconds between two signs of life, and two looks at them


@EXECUTORS.register("local")
@dataclass(frozen=True)
class Local(Executor):
    """Computes as many cells at a time as the config has `workers`.

    The workers share out the threads that this process would use, and the machine's GPUs: several on one GPU,
    where a small model leaves most of the time to the host, finish sooner than one.
    """

    def __call__(self, session: Session, cells: Sequence[Cell], tell: Tell) -> None:
        """Compute the cells; see `Executor`."""
        count = max(1, min(self.config.workers, len(cells)))
        threads = max(1, torch.get_num_threads() // count)
        gpus = torch.cuda.device_count() if session.device.type == "cuda" else 0
        oversee(session, cells, tell, Processes(session.folder.path, threads, gpus), EVERY)


class Processes:
    """Workers that are processes of this machine, and end with this one.

    They are no daemons of `multiprocessing`, which may not have the processes that make batches ahead.

    Args:
        folder: of the experiment.
        threads: of each worker.
        gpus: that they take turns in.
    """

    def __init__(self, folder: Path, threads: int, gpus: int = 0) -> None:
        self._folder = folder
        self._threads = threads
        self._gpus = gpus
        self._started = 0
        self.workers: list[BaseProcess] = []

    def start(self, count: int) -> None:
        """Start further workers."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads, and a GPU's state
        for _ in range(count):
            gpu = self._started % self._gpus if self._gpus > 1 else None
            worker = context.Process(target=_work, args=(self._folder, self._threads, gpu))
            worker.start()
            self.workers.append(worker)
            self._started += 1

    def running(self) -> int:
        """Return how many workers have not ended."""
        self.workers = [worker for worker in self.workers if worker.is_alive()]
        return len(self.workers)

    def end(self) -> None:
        """End every worker, and wait for that."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.join(GRACE)
            if worker.is_alive():
                worker.kill()
                worker.join()


def _work(folder: Path, threads: int, gpu: int | None) -> None:
    """Compute cells in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    multiprocessing.set_start_method(None, force=True)  # those that make batches start as anywhere else
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
    try:
        work(folder, threads, EVERY)
    except KeyboardInterrupt:
        return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
