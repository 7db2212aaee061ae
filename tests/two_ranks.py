"""A test's work in two processes, or more, which find each other as torchrun's do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from saft.training.ranks import free_port
from tests.forks import FORKS


def on_two_ranks(work: Callable[..., None], *arguments: Any, ranks: int = 2) -> None:
    """Run `work(rank, *arguments)` in so many processes; the first failure ends all, and is raised."""
    start = FORKS.get_start_method()
    mp.start_processes(_run, (ranks, free_port(), work, arguments), nprocs=ranks, start_method=start)


def _run(rank: int, ranks: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "tests",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    work(rank, *arguments)
    # gloo's threads may be alive still when the interpreter is taken down, which aborts the process.
    os._exit(0)
