"""Processes forked from one that has the imports already, which take seconds: one for each test process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO

__all__ = ["FORKS", "ForkedCommand", "forked"]

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


class ForkedCommand:
    """What `subprocess.Popen` is for the command `python -c PROGRAM WORDS`, with pipes, but forked."""

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        stdin: int,
        stdout: int,
        stderr: IO[bytes],
        start_new_session: bool,
    ) -> None:
        (read, self._write), (self._read, write) = FORKS.Pipe(duplex=False), FORKS.Pipe(duplex=False)
        streams = (read, write, Connection(os.dup(stderr.fileno()), readable=False))
        self._process = FORKS.Process(target=_command, args=(command[2:], env, streams))
        self._process.start()
        for stream in streams:
            stream.close()
        self.stdin = os.fdopen(os.dup(self._write.fileno()), "wb")
        self.stdout = os.fdopen(os.dup(self._read.fileno()), "rb")
        self._write.close()
        self._read.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def _run(program: str, words: tuple[str, ...]) -> None:
    sys.argv = ["-c", *words]
    exec(program, {"__name__": "__main__"})


def _command(words: list[str], environment: dict[str, str], streams: tuple[Connection, ...]) -> None:
    os.setsid()
    os.environ |= environment
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")  # a fork has an empty input
    _run(words[0], tuple(words[1:]))
