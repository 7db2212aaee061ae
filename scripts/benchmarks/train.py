"""What a training costs with its data: saft train, the Hugging Face Trainer, and a bare torch loop.

All train the same model, with random weights, on the same texts, in one process: in each round each of them
once, in a random order. What is measured lies between two calls for a batch, one after the unmeasured steps
and the last one; at both the device has done all that was asked of it. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from publish import add_competitors, add_options, check_competitors, markdown, protocol, publish
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from train_models import MODELS, pretrained, settings_of

import saft
from saft import tasks
from saft.progress import Bar
from saft.tasks import Batch, BoundTask, Limits, Splits
from saft.train import TrainConfig
from saft.training.fine_tuning import fine_tune

# name: what it is called, and the perturbation of what saft trains
COMPETITORS: dict[str, tuple[str, str | None]] = {
    "loop": ("torch loop, AdamW", None),
    "trainer": ("Hugging Face Trainer, AdamW", None),
    "adamw": ("saft train, AdamW", None),
    "sam": ("saft train, sam", "sam"),
    "norm_only": ("saft train, norm_only", "norm_only"),
    "momentum_sam": ("saft train, momentum_sam", "momentum_sam"),
    "sampled_shift": ("saft train, sampled_shift", "sampled_shift"),
}


class Watch:
    """Makes the batches, and takes down when it was asked for each and how long it took.

    Args:
        collate: makes a batch of the examples at some indices.
        device: that trains.
        warm: calls that are not measured.
        steps: all calls.
    """

    def __init__(
        self, collate: Callable[[list[int]], Batch], device: torch.device, warm: int, steps: int
    ) -> None:
        self.collate = collate
        self.device = device
        self.ends = {warm, steps - 1}
        self.warm = warm
        self.calls: list[tuple[float, float]] = []
        self.peak: int | None = None

    def __call__(self, indices: list[int]) -> Batch:
        if len(self.calls) in self.ends and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        begun = time.perf_counter()
        batch = self.collate(indices)
        self.calls.append((begun, time.perf_counter() - begun))
        return batch

    def figures(self, batch_size: int) -> dict[str, Any]:
        """Return examples a second, the share of that time that making the batches took, and bytes."""
        first, last = min(self.ends), max(self.ends)
        seconds = self.calls[last][0] - self.calls[first][0]
        data = sum(taken for _, taken in self.calls[first:last])
        return {
            "examples_per_second": (last - first) * batch_size / seconds,
            "data_share": data / seconds,
            "peak_bytes": self.peak,
        }


class WithLoss(nn.Module):
    """A task's model as the Hugging Face Trainer calls it."""

    def __init__(self, model: nn.Module, task: BoundTask) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        return {"loss": self.task.loss(self.model, Batch(inputs, labels))}


def with_loop(task: BoundTask, splits: Splits, settings: TrainConfig) -> None:
    """Train as one would write it by hand."""
    options, model = settings.training, task.model(task.load_trunk()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, fused=True)
    on_gpu = task.device.type != "cpu"
    for indices in splits.train.training_order(options.batch_size, options.steps, settings.seed):
        batch = splits.train.collate(indices).to(task.device)
        with torch.autocast(task.device.type, torch.bfloat16, enabled=on_gpu):
            loss = task.loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def with_trainer(task: BoundTask, splits: Splits, settings: TrainConfig) -> None:
    """Train with the Hugging Face Trainer."""
    import transformers

    def collate(indices: list[int]) -> dict[str, Tensor]:
        batch = splits.train.collate(indices)
        return {**batch.inputs, "labels": batch.labels}

    options, on_gpu = settings.training, task.device.type != "cpu"
    arguments = transformers.TrainingArguments(
        output_dir=settings.out, max_steps=options.steps, seed=settings.seed,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=options.batch_size, optim="adamw_torch_fused", bf16=on_gpu,
        use_cpu=not on_gpu, save_strategy="no", report_to=[], disable_tqdm=True, remove_unused_columns=False,
        dataloader_pin_memory=on_gpu, logging_strategy="no",
    )  # fmt: skip
    model = WithLoss(task.model(task.load_trunk()), task)
    dataset: Any = range(len(splits.train))
    transformers.Trainer(model, arguments, data_collator=collate, train_dataset=dataset).train()


def with_saft(task: BoundTask, splits: Splits, settings: TrainConfig) -> None:
    """Train with saft."""
    fine_tune(settings, overwrite=True, splits=splits, progress=Bar(1.0))


def bound(settings: TrainConfig, device: torch.device) -> BoundTask:
    """Return the task of a training."""
    task = tasks.build(settings.name, settings.task, "task")
    return task.bind(settings.name, settings.model, "task", device)


def once(name: str, settings: TrainConfig, splits: Splits, options: argparse.Namespace) -> dict[str, Any]:
    """Train once with a competitor; return its figures."""
    gc.collect()  # trainers are full of cycles, and hold the weights of the last training
    task = bound(settings, torch.device(options.device))
    watch = Watch(splits.train.collate, task.device, options.warm, options.steps)
    splits = dataclasses.replace(splits, train=dataclasses.replace(splits.train, collate=watch))
    {"loop": with_loop, "trainer": with_trainer}.get(name, with_saft)(task, splits, settings)
    return watch.figures(options.batch)


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table, which is Markdown when printed."""
    cells = []
    for row in rows:
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f} MiB"
        speed, ratio = f"{row['examples_per_second']:.0f}", f"{row['ratio']:.2f}"
        cells.append([row["label"], speed, ratio, f"{100 * row['data_share']:.1f} %", peak])
    return markdown(("examples/s", "time / torch loop", "waiting for data", "peak memory"), cells)


def summarized(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the median of every round, by competitor, and the time beside that of the first one."""
    rows: list[dict[str, Any]] = []
    for name, found in measured.items():
        row: dict[str, Any] = {"name": name, "label": COMPETITORS[name][0]}
        for key in ("examples_per_second", "data_share"):
            row[key] = statistics.median(one[key] for one in found)
        row["peak_bytes"] = found[-1]["peak_bytes"]
        row["ratio"] = (rows[0] if rows else row)["examples_per_second"] / row["examples_per_second"]
        rows.append(row)
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser("scripts/bench train", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, where all compute in bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=10, help="steps at the start that are not measured")
    parser.add_argument("--steps", type=int, default=50, help="steps in all")
    parser.add_argument("--batch", type=int, help="examples of a batch; by default the model's")
    add_options(parser)
    add_competitors(parser, COMPETITORS, always="loop")
    options = parser.parse_args(arguments)
    check_competitors(parser, options, COMPETITORS)
    if not 0 <= options.warm < options.steps - 1:
        parser.error("--steps: must be more than one above --warm")
    options.batch = options.batch or MODELS[options.model][-1][options.device != "cpu"]
    return options


def main() -> None:
    options, console = parse(), Console(stderr=True)
    names = [name for name in COMPETITORS if name == "loop" or name in options.competitors]
    if "trainer" in names and not util.find_spec("accelerate"):
        names.remove("trainer")
        console.print("without the Hugging Face Trainer: accelerate is not installed")
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    order = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as work:
        folder, out = pretrained(options.model, Path(work) / "base"), Path(work) / "out"
        settings = {name: settings_of(folder, out, options, COMPETITORS[name][1]) for name in names}
        splits = bound(settings["loop"], torch.device(options.device)).examples(Limits(validation=4, test=0))
        for _ in track(range(options.rounds), "rounds", console=console, transient=True):
            for name in order.sample(names, len(names)):
                measured[name].append(once(name, settings[name], splits, options))
    on_gpu = options.device != "cpu"
    device = torch.cuda.get_device_name(options.device) if on_gpu else platform.processor() or "CPU"
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "lightning")}
    where = {"device": device, "threads": torch.get_num_threads(), **packages, "saft": saft.__version__}
    figures = summarized(measured)
    print(f"{options.model}, batches of {options.batch}: " + ", ".join(f"{k} {v}" for k, v in where.items()))
    results = {"machine": where, "protocol": protocol(options), "rounds": measured, "figures": figures}
    publish(table(figures), results, options.json)


if __name__ == "__main__":
    main()
