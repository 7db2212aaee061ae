"""Processes forked from one that has the imports already, which take seconds: one for each test process."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.process import BaseProcess

__all__ = ["FORKS", "forked"]

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "saft.experiment.worker",
        "saft.merge",
        "datasets",
        "transformers.models.bert.modeling_bert",
        "transformers.models.gpt2.modeling_gpt2",
        "transformers.trainer",
        "accelerate",
        "pytest",
    ]
)


def forked(program: str, *words: str) -> BaseProcess:
    """Return a process, in this folder, that runs what `python -c PROGRAM WORDS` runs."""
    process = FORKS.Process(target=_run, args=(program, words))
    process.start()
    return process


def _run(program: str, words: tuple[str, ...]) -> None:
    sys.argv = ["-c", *words]
    exec(program, {"__name__": "__main__"})
