"""One training in several processes, a device each: they are started, listened to, and ended together."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from saft import config as configs
from saft.errors import UserError
from saft.files.staging import write_text
from saft.progress import Bar
from saft.training.callbacks import Diverged
from saft.training.train_config import TrainConfig
from saft.training.trainer import interruptible

__all__ = ["Order", "free_port", "launch", "main"]

GRACE = 30.0  # seconds that a process has to end
EVERY = 0.05  # seconds between two looks at them


@dataclass(frozen=True)
class Order:
    """What the processes of a training are given.

    Args:
        config: of the training.
        overwrite: replace what is in its target.
        work: the folder of logs and intermediate checkpoints; exists.
        cache: where what a penalty computes at the base is kept.
    """

    config: TrainConfig
    overwrite: bool
    work: Path
    cache: Path | None


def launch(order: Order, count: int, bar: Bar) -> None:
    """Train in `count` processes of this machine, of which the first writes the checkpoint folder.

    Where one fails, the others are ended; where this process ends, they end too.

    Args:
        order: what to train.
        count: of processes, at least 2.
        bar: advanced by what the first of them reports.

    Raises:
        UserError: what one of them says (Diverged, if it is that), or the system has ended one.
        RuntimeError: one ended without a word; the message has the end of what it wrote.
    """
    config, words = order.work / "rank-config.yaml", order.work / "ranks"
    write_text(config, configs.dump(order.config))
    words.mkdir(exist_ok=True)
    told = {"config": str(config), "overwrite": order.overwrite, "work": str(order.work)}
    told["cache"] = None if order.cache is None else str(order.cache)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "NODE_RANK": "0",
    }
    processes, problems = [], []
    ended: list[int | None] = []  # by itself, before the others were ended for it
    error = UserError

    def hear(message: dict[str, Any]) -> None:
        nonlocal error
        problems.extend(message.get("problems", ()))
        error = Diverged if message.get("diverged") else error
        bar.advance(message.get("advance", 0.0))

    with interruptible():
        try:
            for rank in range(count):
                with (words / f"{rank}.txt").open("wb") as written:
                    process = subprocess.Popen(
                        [
                            sys.executable,
                            "-c",
                            "from saft.training.ranks import main; main()",
                            json.dumps(told),
                        ],
                        env=environment | {"LOCAL_RANK": str(rank)},
                        stdin=subprocess.PIPE,  # whose end tells it that this process is gone
                        stdout=subprocess.PIPE,
                        stderr=written,
                        start_new_session=True,
                    )
                processes.append(process)
                threading.Thread(target=_listen, args=(process.stdout, hear), daemon=True).start()
            while any(process.poll() is None for process in processes):
                if any(process.poll() for process in processes):
                    break
                time.sleep(EVERY)
            ended = [process.poll() for process in processes]
        finally:
            _end(processes)
    if problems:
        raise error(*dict.fromkeys(problems))
    for rank, code in enumerate(ended):
        if code is not None and code < 0:
            raise UserError(
                f"process {rank} of {count} was ended by {_name(-code)}, by the system or by someone "
                "(SIGKILL is mostly for want of memory); the same command goes on from its last checkpoint"
            )
    for rank, code in enumerate(ended):
        if code:
            text = (words / f"{rank}.txt").read_text("utf-8", "replace")
            raise RuntimeError(f"process {rank} of {count} ended with {code}:\n{text[-4000:]}")


def free_port() -> int:
    """Return a port of this machine that nothing listens on.

    It is not one of those that the system gives to whoever asks for any: it might give it away before the
    first of the processes, which imports torch before it listens, has it.

    Example:
        >>> 20000 <= free_port() < 32768
        True
    """
    while True:
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port


def main() -> None:
    """Be one of the processes: train, and say on standard output how far it is, or what is wrong."""
    from saft.training.fine_tuning import train_rank

    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = json.loads(sys.argv[1])
    config = configs.parse(TrainConfig, configs.read(told["config"]), "")
    cache = None if told["cache"] is None else Path(told["cache"])
    order = Order(config, told["overwrite"], Path(told["work"]), cache)
    try:
        train_rank(order, _Telling(0.0) if os.environ["LOCAL_RANK"] == "0" else Bar(0.0))
    except UserError as error:
        _tell({"problems": error.problems, "diverged": isinstance(error, Diverged)})
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.stdout.flush()
    os._exit(0)  # threads of gloo's and of DDP's would meet an interpreter that is half gone, and abort


class _Telling(Bar):
    """Tells the first process how far it is."""

    def advance(self, cost: float) -> None:
        _tell({"advance": cost})


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _listen(stream: IO[bytes], hear: Callable[[dict[str, Any]], None]) -> None:
    for line in stream:
        if line.startswith(b"{"):  # libraries write too
            hear(json.loads(line))


def _end_with_parent() -> None:
    """End at once when the first process closes the input, or is gone; a file is whole or not there.

    At SIGTERM Lightning would first talk to the other processes, which wait for something else: none would
    ever end.
    """
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End those that run, and wait for that."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()
