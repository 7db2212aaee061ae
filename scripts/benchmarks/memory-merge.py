"""What a merge of models in memory costs: saft.merge_models, mergekit and sentence-transformers.

Every merge is a process of its own, which loads the models first; what is measured is only the merge. In each
round all run once, in a random order. saft follows mergekit's conventions here, so that all do the same work;
how far the numbers differ is printed too. Prints a table for a README, and writes a JSON of every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from merge_models import MODELS, make
from publish import add_competitors, add_options, check_competitors, load_average, markdown, protocol, publish
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file

import saft

COMPETITORS = ("mergekit", "sentence-transformers")

# method of mergekit's: whether it is told of the base, and its parameters
METHODS: dict[str, tuple[bool, dict[str, Any]]] = {
    "linear": (False, {"weight": 1.0}),
    "task_arithmetic": (True, {"weight": 1.0, "lambda": 0.4}),
    "ties": (True, {"weight": 1.0, "density": 0.2}),
    "breadcrumbs": (True, {"weight": 1.0, "density": 0.9, "gamma": 0.01}),
    "sce": (True, {"select_topk": 0.1}),
    "multislerp": (True, {"weight": 1.0}),
    "karcher": (False, {}),
    "model_stock": (True, {}),
}


def run_one(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seconds of a merge, and the bytes that it took beyond the models, in a new process."""
    worker = [sys.executable, str(Path(__file__).with_name("memory_merge_worker.py"))]
    # As a user's shell has it: scripts/environment tells the allocator to keep memory, for trainings.
    usual = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    settings = {"OMP_NUM_THREADS": str(request["threads"]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*worker, json.dumps(request)], capture_output=True, text=True, env=usual | settings
    )
    if done.returncode:
        raise SystemExit(f"{request['tool']}, {request['method']}: failed\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def requests(
    folders: Sequence[Path], options: argparse.Namespace, results: Path
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return method and tool -> what a process is asked to do."""
    asked = {}
    for method in options.methods:
        with_base, parameters = METHODS[method]
        models = {str(at) if at else "base": str(folder) for at, folder in enumerate(folders)}
        if not with_base:
            del models["base"]
        for tool in ("saft", *options.competitors):
            asked[method, tool] = {
                "tool": tool,
                "method": method,
                "parameters": parameters,
                "models": models,
                "threads": options.threads,
                "out": str(results / f"{method}-{tool}.safetensors"),
            }
    return asked


def difference(one: Path, other: Path) -> float:
    """Return the largest difference between two files of weights, tensor by tensor."""
    mine, theirs = load_file(one), load_file(other)
    if mine.keys() != theirs.keys():
        raise SystemExit(f"{one.name} and {other.name}: hold different tensors")
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine)


def figures(
    measured: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    differences: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """Return the figures of each row, from everything that was measured."""
    rows = []
    for (method, tool), runs in measured.items():
        beyond = [run["beyond"] for run in runs if run["beyond"] is not None]
        row = {
            "method": method,
            "tool": tool,
            "seconds_min": min(run["seconds"] for run in runs),
            "seconds_median": statistics.median(run["seconds"] for run in runs),
            "beyond_bytes": max(beyond) if beyond else None,
        }
        if tool != "saft":
            own = min(run["seconds"] for run in measured[method, "saft"])
            row["of_saft_seconds"] = row["seconds_min"] / own
            row["difference"] = differences[method, tool]
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table, which is Markdown when printed."""
    lines = []
    for row in rows:
        rival = "of_saft_seconds" in row
        lines.append(
            [
                f"{row['tool']} {row['method']}",
                f"{row['seconds_min']:.2f} ({row['seconds_median']:.2f})",
                f"× {row['of_saft_seconds']:.1f}" if rival else "",
                "" if row["beyond_bytes"] is None else f"{row['beyond_bytes'] / 2**20:.0f}",
                f"{row['difference']:.1e}" if rival else "",
            ]
        )
    return markdown(("s", "saft's time", "MiB beyond the models", "largest difference from saft"), lines)


def describe(results: Mapping[str, Any]) -> str:
    """Return what was run, where and how, in sentences."""
    versions, told = results["versions"], results["protocol"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{MODELS[told['model']][0]} (float32, {results['model_bytes'] / 2**20:.0f} MiB): a base and"
        f" {told['models']} models in memory; {told['threads']} threads; {libraries}.\n"
        f"{told['rounds']} rounds in random order: minimum (median). {load_average(results)}"
        " MiB beyond the models: the greatest resident memory in the merge less that before it, the"
        " result included."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser("scripts/bench memory-merge", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="bert-110m")
    parser.add_argument("--models", type=int, default=4, help="fine-tuned models, beside the base")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for each merge")
    parser.add_argument("--folder", type=Path, default=Path(".bench/merge"), help="for the models")
    parser.add_argument(
        "--methods",
        type=lambda value: value.split(","),
        default=list(METHODS),
        help="comma-separated, by mergekit's names: " + ", ".join(METHODS),
    )
    add_options(parser)
    add_competitors(parser, COMPETITORS, always="saft")
    options = parser.parse_args(arguments)
    check_competitors(parser, options, COMPETITORS)
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}; known: {', '.join(METHODS)}")
    return options


def main() -> None:
    options, console = parse(), Console(stderr=True)
    with console.status("making models"):
        place = options.folder / f"{options.model}-float32"
        folders = make(options.model, options.models, torch.float32, place)
    load = {"before": os.getloadavg()}
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        asked = requests(folders, options, Path(work))
        measured: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in asked}
        order = random.Random(options.seed)
        runs = [key for _ in range(options.rounds) for key in order.sample(list(asked), len(asked))]
        for key in track(runs, "merging", console=console, transient=True):
            measured[key].append(run_one(asked[key]))
        differences = {
            (method, tool): difference(Path(asked[method, "saft"]["out"]), Path(asked[method, tool]["out"]))
            for method, tool in asked
            if tool != "saft"
        }
    load["after"] = os.getloadavg()
    libraries = ("torch", "transformers", *options.competitors)
    results: dict[str, Any] = {
        "versions": {
            "Python": platform.python_version(),
            "saft": saft.__version__,
            **{name: metadata.version(name) for name in libraries},
        },
        "model_bytes": sum(file.stat().st_size for file in folders[0].glob("*.safetensors")),
        "protocol": protocol(options),
        "load_average": load,
        "measured": {f"{tool} {method}": found for (method, tool), found in measured.items()},
        "figures": figures(measured, differences),
    }
    print(describe(results))
    publish(table(results["figures"]), results, options.json)


if __name__ == "__main__":
    main()
