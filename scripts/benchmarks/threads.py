"""What a training step costs alone and beside a busy process, by how OpenMP's threads wait for each other.

Each setting is a process of its own that takes steps of saft's optimizer on a small transformer. In each
round all settings take their steps, in a random order, first alone, then beside a process that keeps the
first core busy. Prints the median of the rounds. Needs a machine with two idle cores or more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from saft.console import show

OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
SETTINGS = {  # what is in the environment; "torch first" keeps saft from setting anything
    "default": {"TORCH_FIRST": "1"},
    "saft": {},
    "1000 spins": {"GOMP_SPINCOUNT": "1000"},
    "10000 spins": {"GOMP_SPINCOUNT": "10000"},
    "100000 spins": {"GOMP_SPINCOUNT": "100000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
parent = os.getppid()
while os.getppid() == parent:  # it ends with whatever ends this process
    pass
"""


def work(steps: int) -> None:
    """Take steps, and print the seconds of each; the first ones warm up and are not printed."""
    if os.environ.get("TORCH_FIRST"):
        import torch
    import torch

    import saft

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True, dropout=0.0)
    model = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    optimizer = saft.SAM(torch.optim.AdamW(model.parameters(), lr=1e-5), rho=0.05)
    inputs = torch.randn(8, 64, 384)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        optimizer.step(closure)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps(seconds))


def measure(setting: str, steps: int) -> list[float]:
    """Return the seconds of each step of a process with this setting."""
    others = {name: value for name, value in os.environ.items() if name not in OWN}
    command = [sys.executable, __file__, "--work", str(steps)]
    done = subprocess.run(
        command, env={**others, **SETTINGS[setting]}, capture_output=True, text=True, check=True
    )
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keep one core busy while the block runs."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench threads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps of a setting in each round")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work)
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"alone": [], "busy": []})
    for _ in range(options.rounds):
        for setting in random.sample(options.settings, len(options.settings)):
            seconds[setting]["alone"] += measure(setting, options.steps)
            with busy_neighbour():
                seconds[setting]["busy"] += measure(setting, options.steps)
    table = Table("threads wait", box=None)
    for heading in ("alone, ms a step", "beside a busy process", "times"):
        table.add_column(heading, justify="right")
    for setting in options.settings:
        alone, busy = (1000 * statistics.median(seconds[setting][where]) for where in ("alone", "busy"))
        table.add_row(setting, f"{alone:.0f}", f"{busy:.0f}", f"{busy / alone:.1f}")
    show(table)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before this process's own had ended")
    if options.json:
        facts = {"cores": os.cpu_count(), "load": os.getloadavg(), "seconds": seconds}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
