"""What a training costs with its data: saft train, the Hugging Face Trainer, and a bare torch loop.

All train the same model, with random weights, on the same batches, in one process: in each round each of them
once, in a random order. What is measured lies between two calls for a batch, one after the unmeasured steps
and the last one; at both the device has done all that was asked of it. Ends with exit code 1 where those that
take the same steps had other losses. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from publish import add_competitors, add_options, check_competitors, markdown, protocol, publish
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data.dataloader import _BaseDataLoaderIter
from train_competitors import ASKED, COMPETITORS, PLAIN
from train_models import MODELS, settings_of, workers_of

import saft
from saft import tasks
from saft.tasks import BoundTask, Limits, Splits
from saft.train import TrainConfig
from saft.training.peak_memory import peak, reset_peak

# How far losses of the same steps may be apart: rounding, in bfloat16 where sums are taken in any order.
TOLERANCE = {"32-true": 1e-4, "bf16-mixed": 2e-2}


class Watch:
    """Takes down when a training asks its loader for a batch, how long it waits, and what it learns.

    Args:
        device: that trains.
        warm: calls that are not measured.
        steps: all calls, but for the one that finds the loader at its end.
    """

    def __init__(self, device: torch.device, warm: int, steps: int) -> None:
        self.device = device
        self.ends = (warm, steps - 1)
        self.calls: list[tuple[float, float]] = []
        self.losses: list[Tensor] = []
        self.peak: int | None = None

    @contextlib.contextmanager
    def watching(self, task: BoundTask) -> Iterator[None]:
        """Watch whatever trains on a task: all loaders are torch's, and all losses the task's."""
        fetch, loss_of = _BaseDataLoaderIter.__next__, type(task).loss

        def fetched(loader: Any) -> Any:
            self._begin()
            begun = time.perf_counter()
            try:
                return fetch(loader)
            finally:
                self.calls.append((begun, time.perf_counter() - begun))

        def loss(task: Any, *inputs: Any) -> Tensor:
            made: Tensor = loss_of(task, *inputs)
            self.losses.append(made.detach())
            return made

        with (
            mock.patch.object(_BaseDataLoaderIter, "__next__", fetched),
            mock.patch.object(type(task), "loss", loss),
        ):
            yield

    def _begin(self) -> None:
        if len(self.calls) not in self.ends:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if len(self.calls) == self.ends[1]:
            self.peak = peak(self.device)
        else:
            reset_peak(self.device)

    def figures(self, batch_size: int) -> dict[str, Any]:
        """Return examples a second, the share of that time that was spent waiting, peak, and losses."""
        first, last = self.ends
        seconds = self.calls[last][0] - self.calls[first][0]
        waited = sum(taken for _, taken in self.calls[first:last])
        return {
            "examples_per_second": (last - first) * batch_size / seconds,
            "data_share": waited / seconds,
            "peak_bytes": self.peak,
            "losses": [float(loss) for loss in self.losses],
        }


def bound(settings: TrainConfig, device: torch.device) -> BoundTask:
    """Return the task of a training."""
    task = tasks.build(settings.name, settings.task, "task")
    return task.bind(settings.name, settings.model, "task", device)


def once(name: str, settings: TrainConfig, splits: Splits, options: argparse.Namespace) -> dict[str, Any]:
    """Train once with a competitor; return its figures."""
    gc.collect()  # trainers are full of cycles, and hold the weights of the last training
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what they held would count as this one's
    task = bound(settings, torch.device(options.device))
    watch = Watch(task.device, options.warm, options.steps)
    with watch.watching(task):
        COMPETITORS[name].train(task, splits, settings)
    return watch.figures(options.batch)


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table, which is Markdown when printed."""
    cells = []
    for row in rows:
        peak_bytes = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f} MiB"
        ratios = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio", "ratio_adamw"))
        loss = f"{row['loss']:.5f}" if row["name"] in PLAIN else ""
        speed, share = f"{row['examples_per_second']:.1f}", f"{100 * row['data_share']:.1f} %"
        cells.append([row["label"], speed, *ratios, share, peak_bytes, loss])
    return markdown(
        (
            "examples/s",
            "time / torch loop",
            "time / saft AdamW",
            "waiting for data",
            "peak memory",
            "last loss",
        ),
        cells,
    )


def summarized(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the median of every round, by competitor, and its time beside those of two of them."""
    rows: dict[str, dict[str, Any]] = {}
    for name, rounds in measured.items():
        row: dict[str, Any] = {"name": name, "label": COMPETITORS[name].label}
        for key in ("examples_per_second", "data_share"):
            row[key] = statistics.median(one[key] for one in rounds)
        row |= {"peak_bytes": rounds[-1]["peak_bytes"], "loss": rounds[-1]["losses"][-1]}
        rows[name] = row
    for row in rows.values():
        ours = bool(COMPETITORS[row["name"]].training)
        for key, beside in (("ratio", "loop"), ("ratio_adamw", "adamw" if ours else "")):
            other = rows.get(beside)
            row[key] = other and other["examples_per_second"] / row["examples_per_second"]
    return list(rows.values())


def apart(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Return how far the losses of the same steps are from the loop's: the largest relative difference."""
    expected = torch.tensor(measured["loop"][0]["losses"])
    furthest = {}
    for name in (name for name in PLAIN if name in measured):
        losses = torch.tensor([one["losses"] for one in measured[name]])
        furthest[name] = float(((losses - expected).abs() / expected.abs()).max())
    return furthest


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line; what is left open is as the model says for the device."""
    parser = argparse.ArgumentParser("scripts/bench train", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--precision", choices=TOLERANCE, help="by default bf16-mixed, on a CPU 32-true")
    parser.add_argument("--workers", type=int, help="processes that make the batches")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--warm", type=int, help="steps at the start that are not measured")
    parser.add_argument("--steps", type=int, help="steps in all")
    parser.add_argument("--batch", type=int, help="examples of a batch")
    add_options(parser)
    add_competitors(parser, COMPETITORS, always="loop", asked=ASKED)
    options = parser.parse_args(arguments)
    check_competitors(parser, options, COMPETITORS)
    workload, on_gpu = MODELS[options.model], options.device != "cpu"
    left_open = {
        "precision": "bf16-mixed" if on_gpu else "32-true",
        "workers": workers_of(workload, options.device),
        **vars(workload.gpu if on_gpu else workload.cpu),
    }
    for key, value in left_open.items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    # The Trainer asks for a batch ahead: its second call comes before its first step.
    if not 2 <= options.warm < options.steps - 1:
        parser.error("--warm: must be at least 2, and --steps more than one above it")
    return options


def machine(device: torch.device) -> dict[str, Any]:
    """Return what trained where."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "lightning")}
    return {"device": chip, "threads": torch.get_num_threads(), **packages, "saft": saft.__version__}


def told(options: argparse.Namespace, where: Mapping[str, Any], examples: int, seconds: float) -> str:
    """Return what was trained, and where, in words."""
    return (
        f"{MODELS[options.model].title}; batches of {options.batch}, made by "
        f"{options.workers or 'no'} processes of their own; {options.precision}; {options.rounds} rounds of "
        f"{options.steps} steps, the first {options.warm} not measured; {examples} examples, read in "
        f"{seconds:.1f} s; " + ", ".join(f"{what} {value}" for what, value in where.items())
    )


def main() -> int:
    options, console = parse(), Console(stderr=True)
    names = [name for name in COMPETITORS if name == "loop" or name in options.competitors]
    if "trainer" in names and not util.find_spec("accelerate"):
        names.remove("trainer")
        console.print("without the Hugging Face Trainer: accelerate is not installed")
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    order, device = random.Random(options.seed), torch.device(options.device)
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = work  # saft keeps decoded images there: these are of no use to anybody
        settings = settings_of(options, Path(work) / "base")
        begun = time.perf_counter()
        splits = bound(settings({}), device).examples(Limits(validation=4, test=0))
        read = time.perf_counter() - begun
        for _ in track(range(options.rounds), "rounds", console=console, transient=True):
            for name in order.sample(names, len(names)):
                config = settings(COMPETITORS[name].training)
                measured[name].append(once(name, config, splits, options))
    where, furthest = machine(device), apart(measured)
    print(told(options, where, len(splits.train), read))
    results = {"machine": where, "protocol": protocol(options), "seconds_to_read": read, "rounds": measured}
    results |= {"figures": summarized(measured), "losses_apart": furthest}
    publish(table(results["figures"]), results, options.json)
    print("Losses of the same steps are apart from the loop's by at most, relatively:", end=" ")
    print(", ".join(f"{name} {value:.1e}" for name, value in furthest.items() if name != "loop"))
    return int(any(value > TOLERANCE[options.precision] for value in furthest.values()))


if __name__ == "__main__":
    sys.exit(main())
