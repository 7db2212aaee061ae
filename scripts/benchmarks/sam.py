"""What a sharpness-aware step costs: saft beside two other implementations, and the floor under all of them.

Every competitor is a process of its own. In each round all of them take their steps, one after the other, in
a random order, so that whatever else the machine does meets all alike. Memory, checkpoints and reductions are
measured after that; on a CPU, where only the peak of a whole process is known, in further processes. Prints a
table for a README, and writes a JSON of every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from publish import add_competitors, add_options, check_competitors, load_average, markdown, protocol, publish
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sam_competitors import COMPETITORS
from sam_models import MODELS

# Tensors are given back to the system when they are freed, so that the peak is that of what is in use.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "1048576", "MALLOC_TOP_PAD_": "0"}
FACTS = ("memory", "checkpoint", "waits", "reductions")


class Process:
    """A competitor's process, which does what it is asked."""

    def __init__(self, competitor: str, options: argparse.Namespace, environment: Mapping[str, str]) -> None:
        settings = {name: getattr(options, name) for name in ("model", "device", "threads", "batch")}
        command = [sys.executable, str(Path(__file__).with_name("sam_worker.py"))]
        self._process = subprocess.Popen(
            [*command, json.dumps({"competitor": competitor, **settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(options.threads), **environment},
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to a request; see `sam_worker.Worker`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a competitor's process ended: its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def facts(process: Process) -> dict[str, Any]:
    """Return what is measured once, and end the process."""
    answers = [process.ask(do) for do in FACTS]
    process.close()
    return {key: value for answer in answers for key, value in answer.items()}


def every_fact(processes: Mapping[str, Process], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what is measured once, by competitor; on a GPU in the processes that took the steps."""
    at_once = 3
    if options.device == "cpu":
        at_once = max((os.cpu_count() or 1) // options.threads, 1)
        for process in processes.values():
            process.close()

    def of(name: str) -> dict[str, Any]:
        return facts(Process(name, options, GIVE_BACK) if options.device == "cpu" else processes[name])

    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(processes, pool.map(of, processes), strict=True))


def rounds(processes: Mapping[str, Process], options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Return what runs where, and the seconds of every step by competitor."""
    names = list(processes)
    versions = processes["adamw"].ask("versions")
    seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    order = random.Random(options.seed)
    for _ in track(range(options.rounds), "rounds", console=console, transient=True):
        for name in order.sample(names, len(names)):
            answer = processes[name].ask("round", warm=options.warm, steps=options.steps)
            for key, values in answer.items():
                seconds[name][key].extend(values)
    return {"versions": versions, "seconds": seconds}


def figures(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of one competitor, from everything that was measured."""
    seconds, known = results["seconds"], results["facts"]
    words = 4 * results["versions"]["n_parameters"]  # bytes of one copy of the parameters, in float32
    found: dict[str, Any] = {"name": name, "label": COMPETITORS[name].label, **known[name]}
    floor = seconds["adamw" if COMPETITORS[name].passes == 1 else "floor"]
    for kind, of in (("min", min), ("median", statistics.median)):
        mine, unit = of(seconds[name]["total"]), of(seconds["adamw"]["base"])
        found[f"milliseconds_{kind}"] = 1000 * mine
        found[f"ratio_{kind}"] = mine / of(seconds["adamw"]["total"])
        found[f"beyond_floor_{kind}"] = (mine - of(floor["total"])) / unit
        found[f"outside_passes_{kind}"] = (of(_outside(seconds[name])) - of(_outside(floor))) / unit
    found["memory_beyond"] = (known[name]["peak_bytes"] - known["adamw"]["peak_bytes"]) / words
    beyond = known[name]["checkpoint_bytes"] - known["adamw"]["checkpoint_bytes"]
    found["checkpoint_bytes_beyond"] = beyond
    found["checkpoint_beyond"] = beyond / words
    return found


def _outside(seconds: Mapping[str, Sequence[float]]) -> list[float]:
    return [total - passes for total, passes in zip(seconds["total"], seconds["passes"], strict=True)]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table, which is Markdown when printed."""
    with_waits = any(row["host_waits"] is not None for row in rows)
    headings = (
        *("ms a step", "/ AdamW", "beyond floor", "outside passes", "memory", "reductions", "checkpoint"),
        *(["waits"] if with_waits else []),
    )
    return markdown(
        headings,
        [[*_cells(row), *([str(row["host_waits"])] if with_waits else [])] for row in rows],
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["label"],
        f"{row['milliseconds_min']:.0f} ({row['milliseconds_median']:.0f})",
        f"{row['ratio_min']:.2f} ({row['ratio_median']:.2f})",
        f"{row['beyond_floor_min']:.2f} ({row['beyond_floor_median']:.2f})",
        f"{row['outside_passes_min']:.2f} ({row['outside_passes_median']:.2f})",
        f"{row['memory_beyond']:+.2f} P",
        f"{row['reductions']} ({row['reductions_alone']})",
        _size(row["checkpoint_bytes_beyond"], row["checkpoint_beyond"]),
    ]


def _size(n_bytes: int, in_parameters: float) -> str:
    return f"{n_bytes:+d} B" if abs(n_bytes) < 100_000 else f"{in_parameters:+.2f} P"


def describe(results: Mapping[str, Any]) -> str:
    """Return what was run, where and how, in sentences."""
    versions, protocol = results["versions"], results["protocol"]
    unit = [1000 * of(results["seconds"]["adamw"]["base"]) for of in (min, statistics.median)]
    shapes = ", ".join(f"{key} {shape}" for key, shape in versions["batch_shapes"].items())
    return (
        f"{MODELS[protocol['model']][0]} ({versions['n_parameters'] / 1e6:.1f} M parameters, {shapes});"
        f" {versions['device']}, {protocol['threads']} CPU threads; Python {versions['python']}, torch"
        f" {versions['torch']}, transformers {versions['transformers']}, pytorch_optimizer"
        f" {versions['pytorch_optimizer']}, saft {versions['saft']}.\n{protocol['rounds']} rounds in random"
        f" order, in each {protocol['warm']} steps unmeasured and {protocol['steps']} measured: minimum"
        f" (median). {load_average(results)}\nBeyond floor: time beyond as many passes"
        f" and AdamW, in fused AdamW steps of {unit[0]:.1f} ({unit[1]:.1f}) ms; outside passes: the same"
        " without the time inside the passes, which varies most. Memory: peak beyond AdamW's; checkpoint:"
        " size beyond AdamW's; P is one copy of the parameters. Reductions: of the whole gradient among"
        " replicas (with a first pass of each replica alone)."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser("scripts/bench sam", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="bert")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--warm", type=int, default=1, help="unmeasured steps at the start of each turn")
    parser.add_argument("--steps", type=int, default=3, help="measured steps in each turn")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, for each competitor")
    parser.add_argument("--batch", type=int, help="size of the batch; by default the model's")
    add_options(parser)
    add_competitors(parser, COMPETITORS, always="adamw and floor")
    options = parser.parse_args(arguments)
    check_competitors(parser, options, COMPETITORS)
    return options


def main() -> None:
    options = parse()
    console = Console(stderr=True)
    names = [name for name in COMPETITORS if name in {"adamw", "floor", *options.competitors}]
    load = {"before": os.getloadavg()}
    processes = {name: Process(name, options, {}) for name in names}
    results: dict[str, Any] = rounds(processes, options, console)
    load["after"] = os.getloadavg()
    with console.status("memory, checkpoints, reductions"):
        results["facts"] = every_fact(processes, options)
    malloc = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")}
    results.update(load_average=load, protocol={**protocol(options), "malloc": malloc})
    results["figures"] = [figures(name, results) for name in names]
    print(describe(results))
    publish(table(results["figures"]), results, options.json)


if __name__ == "__main__":
    main()
