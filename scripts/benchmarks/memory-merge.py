"""What a merge in memory costs: of models, of a peft model's adapters, and within a training.

Beside saft, mergekit and sentence-transformers merge models, peft merges adapters, and TRL's callback merges
the weights that are being trained. Every merge is a process of its own, which loads the models first; what is
measured is only the merge. In each round all run once, in a random order. All do the same work, as the rival
does it; how far the numbers differ is printed too. Prints a table for a README, and writes a JSON of every
figure.
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

KINDS = ("models", "adapters", "training")

COMPETITORS = {"mergekit": "models", "sentence-transformers": "models", "peft": "adapters", "trl": "training"}

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

RANK = 16  # of each adapter
TIES = {"method": "ties", "scaling": 1.0, "parameters": {"density": 0.2, "granularity": "tensor"}}
DARE = {"method": "dare", "scaling": 1.0, "parameters": {"density": 0.5}}
DARE_TIES = {**DARE, "parameters": {"density": 0.5, "merger": "ties", "trim": 1.0, "granularity": "tensor"}}
SUM = {"method": "task_arithmetic", "scaling": 1.0}
# a combination of peft's: its further options, and what saft is told; the masks of dare are each one's own
ADAPTERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "svd": ({}, SUM),
    "ties_svd": ({"density": 0.2}, TIES),
    "dare_linear_svd": ({"density": 0.5}, DARE),
    "dare_ties_svd": ({"density": 0.5}, DARE_TIES),
    "cat": ({}, {**SUM, "rank": "all"}),
    "linear": ({}, {**SUM, "by": "factors"}),
    "ties": ({"density": 0.2}, {**TIES, "by": "factors"}),
    "dare_linear": ({"density": 0.5}, {**DARE, "by": "factors"}),
    "dare_ties": ({"density": 0.5}, {**DARE_TIES, "by": "factors"}),
}
# a merge of TRL's callback, and what saft is told
TRAINING: dict[str, dict[str, Any]] = {
    "linear": {"method": "average"},
    "slerp": {"method": "slerp"},
}


def run_one(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seconds of a merge, and the bytes that it took beyond the models, in a new process."""
    workers = {"models": "memory_merge_worker", "adapters": "adapter_merge_worker"}
    name = workers.get(request["kind"], "training_merge_worker")
    worker = [sys.executable, str(Path(__file__).with_name(f"{name}.py"))]
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


def requests(options: argparse.Namespace, results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return work and tool -> what a process is asked to do."""
    asked: dict[tuple[str, str], dict[str, Any]] = {}
    for kind in options.kinds:
        folders = [str(folder) for folder in made(kind, options)]
        for method in (name for name in methods_of(kind) if name in options.methods):
            tools = [tool for tool in options.competitors if COMPETITORS[tool] == kind]
            for tool in ("saft", *tools):
                asked[f"{kind}: {method}", tool] = {
                    "kind": kind,
                    "tool": tool,
                    "method": method,
                    "threads": options.threads,
                    "device": options.device,
                    "out": str(results / f"{kind}-{method}-{tool}.safetensors"),
                    **of_kind(kind, method, tool, folders, options),
                }
    return asked


def made(kind: str, options: argparse.Namespace) -> list[Path]:
    """Return the folders of the models that a kind of merge works on: the base, and the others."""
    model = options.model or {"models": "bert-110m"}.get(kind, "llama-120m")
    return make(model, options.models, torch.float32, options.folder / f"{model}-float32")


def methods_of(kind: str) -> list[str]:
    """Return the names of a kind's methods."""
    known: dict[str, Mapping[str, Any]] = {"models": METHODS, "adapters": ADAPTERS, "training": TRAINING}
    return list(known[kind])


def of_kind(
    kind: str, method: str, tool: str, folders: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Return what only a process of this kind is told."""
    if kind == "models":
        with_base, parameters = METHODS[method]
        models = {str(at) if at else "base": folder for at, folder in enumerate(folders)}
        return {
            "parameters": parameters,
            "models": {name: x for name, x in models.items() if with_base or name != "base"},
        }
    if kind == "training":
        base, current, other, *_ = folders
        return {"parameters": TRAINING[method], "base": base, "current": current, "other": other}
    theirs, ours = ADAPTERS[method]
    parameters = dict(ours) if tool == "saft" else {"combination_type": method, **theirs}
    if parameters.get("rank") == "all":
        parameters["rank"] = RANK * options.models
    return {
        "parameters": parameters,
        "folder": folders[0],
        "adapters": options.models,
        "rank": RANK,
        "targets": options.targets,
    }


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
        if "parts" in runs[0]:
            row["parts"] = {name: min(run["parts"][name] for run in runs) for name in runs[0]["parts"]}
        if tool != "saft":
            own = min(run["seconds"] for run in measured[method, "saft"])
            row["of_saft_seconds"] = row["seconds_min"] / own
            row["difference"] = None if "dare" in method else differences[method, tool]  # masks are drawn
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table, which is Markdown when printed."""
    lines = []
    for row in rows:
        rival = "of_saft_seconds" in row
        lines.append(
            [
                f"{row['method']}, {row['tool']}",
                f"{row['seconds_min']:.2f} ({row['seconds_median']:.2f})",
                f"× {row['of_saft_seconds']:.1f}" if rival else "",
                "" if row["beyond_bytes"] is None else f"{row['beyond_bytes'] / 2**20:.0f}",
                f"{row['difference']:.1e}" if row.get("difference") is not None else "",
            ]
        )
    return markdown(("s", "saft's time", "MiB beyond the models", "largest difference from saft"), lines)


def describe(results: Mapping[str, Any]) -> str:
    """Return what was run, where and how, in sentences."""
    versions, told = results["versions"], results["protocol"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    model = MODELS[told["model"]][0] if told["model"] else "BERT (models) and LLaMA (adapters, training)"
    where = "there" if told["device"] != "cpu" else "resident"
    text = (
        f"{model}, float32, {told['models']} models or adapters (rank {RANK}, of"
        f" {', '.join(told['targets'])}), in a training 2; {told['device']}, {told['threads']} threads;"
        f" {libraries}.\n{told['rounds']} rounds in random order: minimum (median). {load_average(results)}"
        f" MiB beyond the models: the greatest {where} memory in the merge less that before it, the result"
        " included. The difference is of weights, of adapters' changes, in a training of the loss."
    )
    for row in results["figures"]:
        if row.get("parts"):
            parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row["parts"].items())
            text += f"\n{row['method']}, {row['tool']}: {parts}."
    return text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser("scripts/bench memory-merge", description=__doc__)
    parser.add_argument("--model", choices=MODELS, help="default: bert-110m for models, else llama-120m")
    parser.add_argument(
        "--models", type=int, default=4, help="fine-tuned models, beside the base, or adapters"
    )
    parser.add_argument(
        "--kinds",
        type=listed,
        default=["models"],
        help="comma-separated, what is merged: " + ", ".join(KINDS),
    )
    parser.add_argument(
        "--targets", type=listed, default=["q_proj", "v_proj"], help="modules that have adapters; peft's own"
    )
    parser.add_argument("--device", default="cpu", help="where the models lie: cpu, cuda or cuda:1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for each merge")
    parser.add_argument("--folder", type=Path, default=Path(".bench/merge"), help="for the models")
    parser.add_argument(
        "--methods",
        type=listed,
        help="comma-separated, by the rivals' names; default: all of "
        + "; ".join(", ".join(methods_of(kind)) for kind in KINDS),
    )
    add_options(parser)
    add_competitors(parser, COMPETITORS, always="saft")
    options = parser.parse_args(arguments)
    check_competitors(parser, options, COMPETITORS)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    known = [name for kind in options.kinds for name in methods_of(kind)]
    options.methods = options.methods or known
    if unknown := set(options.methods) - set(known):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    options.competitors = [tool for tool in options.competitors if COMPETITORS[tool] in options.kinds]
    return options


def listed(value: str) -> list[str]:
    """Return the words of a comma-separated option."""
    return value.split(",")


def main() -> None:
    options, console = parse(), Console(stderr=True)
    load = {"before": os.getloadavg()}
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        with console.status("making models"):
            asked = requests(options, Path(work))
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
    beneath = ["mergekit"] if {"sentence-transformers", "trl"} & {*options.competitors} else []
    libraries = dict.fromkeys(["torch", "transformers", *beneath, *options.competitors])
    results: dict[str, Any] = {
        "versions": {
            "Python": platform.python_version(),
            "saft": saft.__version__,
            **{name: metadata.version(name) for name in libraries},
        },
        "protocol": protocol(options),
        "load_average": load,
        "measured": {f"{method}, {tool}": found for (method, tool), found in measured.items()},
        "figures": figures(measured, differences),
    }
    print(describe(results))
    publish(table(results["figures"]), results, options.json)


if __name__ == "__main__":
    main()
