"""What a merge costs: time and private memory of each method, beside reading and writing the same bytes.

Every merge is a process of its own. In each round all of them run once, one after the other, in a random
order, so that whatever else the machine does meets all alike. mergekit runs between them when asked for.
saft merges twice: the second time it remembers the digests of the inputs. Prints a table for a README, and
writes a JSON of every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from merge_models import MODELS, make
from publish import add_options, load_average, markdown, protocol, publish
from rich.console import Console
from rich.progress import track
from rich.table import Table

import saft
from saft.merging.dtypes import DTYPES
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig, size_in_bytes
from saft.merging.method import Elementwise
from saft.merging.methods import METHODS

OTHERS = ("karcher", "model_stock")  # methods of whole tensors that are measured too: those without an SVD
# What `--large` stands for: as many weights as fit in a test, in files as large models have them.
LARGE = {
    "model": "llama-1b",
    "dtype": "bfloat16",
    "shard_size": "1GB",
    "methods": ["task_arithmetic", "ties"],
    "rounds": 1,
    "check": True,
}
ON_PAPER = 70e9  # weights of a model that is merged on paper, with the rate that was measured
SAMPLED = 0.01  # seconds between two looks at a process's memory

# The methods that mergekit has too, as it is told to do what saft does by default.
COUNTERPARTS: dict[str, dict[str, Any]] = {
    "average": {"merge_method": "linear"},
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.4}},
    "ties": {"merge_method": "ties", "of_each": {"density": 0.2}},
    "dare": {"merge_method": "dare_linear", "of_each": {"density": 0.5}},
    "karcher": {"merge_method": "karcher"},
    "model_stock": {"merge_method": "model_stock"},
}


def measure(request: Mapping[str, Any], options: argparse.Namespace, out: Path) -> dict[str, float]:
    """Return what `run_one` does; and, of saft, the seconds of the same merge when it comes again.

    Before it comes what `saft merge --check` says of it, if that is asked for.
    """
    shutil.rmtree(out.with_name("cache"), ignore_errors=True)
    if request["tool"] != "saft":
        return run_one(request, options, out)
    checked = run_one({**request, "check": True}, options, out) if options.check else {}
    found = run_one(request, options, out)
    again = run_one(request, options, out)
    found |= {"again": again["merge"], "private": max(found["private"], again["private"])}
    if checked:
        found |= {name: checked[name] for name in ("promised_seconds", "promised_private")}
        found["check"] = checked["merge"]
    return found


def run_one(request: Mapping[str, Any], options: argparse.Namespace, out: Path) -> dict[str, float]:
    """Return the seconds of a merge, those of its whole process, and its greatest private memory in bytes."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()  # what the one before has left to be written
    command = [sys.executable, str(Path(__file__).with_name("merge_worker.py"))]
    # As a user's shell has it: scripts/environment tells the allocator to keep memory, for trainings.
    usual = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    before = time.perf_counter()
    process = subprocess.Popen(
        [*command, json.dumps({**request, "out": str(out), "threads": options.threads})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if request["tool"] == "mergekit" else None,
        text=True,
        env={
            **usual,
            "OMP_NUM_THREADS": str(options.threads),
            "HF_HUB_OFFLINE": "1",
            "XDG_CACHE_HOME": str(out.with_name("cache").resolve()),  # where saft remembers digests
        },
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _private_bytes(process.pid))
        time.sleep(SAMPLED)
    whole = time.perf_counter() - before
    answer, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{request['tool']}, {request['method']}: failed\n{errors or ''}")
    shutil.rmtree(out, ignore_errors=True)
    told: dict[str, float] = json.loads(answer)
    return {"merge": told.pop("seconds"), "process": whole, "private": peak, **told}


def _private_bytes(process: int) -> int:
    """Return the memory that only this process uses, RssAnon: not that of files, which can be dropped."""
    with suppress(OSError), open(f"/proc/{process}/status") as lines:
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)
    return 0


def requests(
    names: Sequence[str], folders: Sequence[Path], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Return label -> what a process is asked to do."""
    models = [str(folder) for folder in folders]
    found = {"read and write": {"tool": "copy", "method": "", "models": models}}
    for name in names:
        found[name] = {"tool": "saft", "method": name, "models": models, "device": options.device}
        found[name] |= {"shard_size": options.shard_size, "check": False}
        if options.mergekit and name in COUNTERPARTS:
            method = {**COUNTERPARTS[name], "dtype": options.dtype}
            found[f"mergekit {name}"] = {"tool": "mergekit", "method": method, "models": models}
    return found


def figures(
    name: str, asked: Mapping[str, Any], results: Mapping[str, Any], folders: Sequence[Path]
) -> dict[str, Any]:
    """Return the figures of one row, from everything that was measured."""
    measured = results["measured"][name]
    found: dict[str, Any] = {"name": name, "tool": asked["tool"], "passes": 1}
    if asked["tool"] == "saft":
        plan = check(MergeConfig(name, str(folders[0]), [str(folder) for folder in folders[1:]]))
        found["passes"] = plan.passes
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in folders]
    found["bytes"] = sum(sizes) * found["passes"] + sizes[0]
    for kind, of in (("min", min), ("median", statistics.median)):
        for what in ("merge", "process"):
            found[f"{what}_seconds_{kind}"] = of([one[what] for one in measured])
        if "again" in measured[0]:
            found[f"again_seconds_{kind}"] = of([one["again"] for one in measured])
        floor = of([one["merge"] for one in results["measured"]["read and write"]])
        found[f"floors_per_pass_{kind}"] = found[f"merge_seconds_{kind}"] / found["passes"] / floor
        found[f"bytes_per_second_{kind}"] = found["bytes"] / found[f"merge_seconds_{kind}"]
    found["private_bytes"] = max(one["private"] for one in measured)
    if "check" in measured[0]:
        for what in ("check", "promised_seconds", "promised_private"):
            found[what] = statistics.median(one[what] for one in measured)
    if other := results["measured"].get(f"mergekit {name}"):
        for what in ("merge", "process"):
            theirs = min(one[what] for one in other)
            found[f"faster_{what}"] = theirs / found[f"{what}_seconds_min"]
        found["faster_again"] = min(one["merge"] for one in other) / found["again_seconds_min"]
        found["of_its_memory"] = found["private_bytes"] / max(one["private"] for one in other)
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table, which is Markdown when printed."""
    compared = any("faster_merge" in row for row in rows)
    headings = ("passes", "s", "again", "with imports", "GB/s", "floors a pass", "private MiB")
    lines = []
    for row in rows:
        again = ""
        if "again_seconds_min" in row:
            again = f"{row['again_seconds_min']:.1f} ({row['again_seconds_median']:.1f})"
        cells = [
            f"{row['passes']}",
            f"{row['merge_seconds_min']:.1f} ({row['merge_seconds_median']:.1f})",
            again,
            f"{row['process_seconds_min']:.1f} ({row['process_seconds_median']:.1f})",
            f"{row['bytes_per_second_min'] / 1e9:.2f}",
            f"{row['floors_per_pass_min']:.2f} ({row['floors_per_pass_median']:.2f})",
            f"{row['private_bytes'] / 2**20:.0f}",
        ]
        if compared and "faster_merge" in row:
            cells += [
                f"× {row['faster_merge']:.1f}, {row['faster_again']:.1f} ({row['faster_process']:.1f})",
                f"× {1 / row['of_its_memory']:.1f}",
            ]
        lines.append([row["name"], *cells])
    return markdown(headings + (("mergekit", "its memory") if compared else ()), lines)


def describe(results: Mapping[str, Any]) -> str:
    """Return what was run, where and how, in sentences."""
    versions, protocol, sizes = results["versions"], results["protocol"], results["sizes"]
    bound = 350 + (protocol["models"] + 3) * sizes["largest_bytes"] / 2**20
    text = (
        f"{MODELS[protocol['model']][0]} ({sizes['n_parameters'] / 1e6:.1f} M parameters,"
        f" {protocol['dtype']}): a base and {protocol['models']} models; {versions['processor']},"
        f" {protocol['threads']} threads, saft's merges on {protocol['device']}; Python"
        f" {versions['python']}, torch {versions['torch']}, saft {versions['saft']}.\n"
        f"{protocol['rounds']} rounds in random order: minimum (median). "
        f"{load_average(results)} The inputs are in the page cache. What is written is synced by"
        " saft and by the floor, not by mergekit.\ns: only the merge, from the check to the folder under"
        " its name, the BLAKE3 of every input included; again: the same merge once more, when the BLAKE3 of"
        " its inputs is remembered; with imports: the whole process of the first. GB/s: bytes read in all"
        " passes, and written. Floors: reading every model's bytes once and writing the base's, by one"
        f" thread. Private MiB: greatest RssAnon, looked at every {1000 * SAMPLED:.0f} ms, imports included;"
        f" saft's bound for elementwise methods is {bound:.0f}."
    )
    if protocol["mergekit"]:
        rival = f"mergekit {metadata.version('mergekit')}"
        text += f"\n{rival}: its time / saft's, / saft's again (with imports), and its memory / saft's."
    return text


def in_advance(results: Mapping[str, Any]) -> str:
    """Return what `saft merge --check` said before each merge, and a merge of a large model on paper."""
    models, text = results["protocol"]["models"], ""
    for row in results["figures"]:
        if "check" not in row:
            continue
        read = 2 * ON_PAPER * ((models + 1) * row["passes"] + 1)
        hours = read / row["bytes_per_second_min"] / 3600
        promised, took = row["promised_private"] / 2**20, row["private_bytes"] / 2**20
        text += (
            f"\n{row['name']}: --check took {row['check']:.1f} s and promised"
            f" {row['promised_seconds']:.1f} s and at most {promised:.0f} MiB; it took"
            f" {row['merge_seconds_min']:.1f} s and {took:.0f} MiB. At this rate {models} models of"
            f" {ON_PAPER / 1e9:.0f} B weights in bfloat16 take {hours:.1f} hours:"
            f" {read / 1e12:.1f} TB read and written."
        )
    return text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser("scripts/bench merge", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="llama-120m")
    parser.add_argument(
        "--large",
        action="store_true",
        help="4 models of 1.2 B weights in bfloat16, in shards, checked first; needs 17 GB of disk:"
        + "".join(f" --{name.replace('_', '-')} {value}" for name, value in LARGE.items()),
    )
    parser.add_argument("--shard-size", help="of the files of weights, read and written, such as 1GB")
    parser.add_argument("--check", action="store_true", help="check each merge first, and say what that says")
    parser.add_argument("--models", type=int, default=4, help="fine-tuned models, beside the base")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the models")
    parser.add_argument("--device", default="cpu", help="of saft's merges: cpu, cuda or cuda:1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for each merge")
    add_options(parser)
    parser.add_argument("--folder", type=Path, default=Path(".bench/merge"), help="for the models")
    parser.add_argument(
        "--mergekit", action="store_true", help="compare with mergekit, where it has the method"
    )
    parser.add_argument(
        "--methods",
        type=lambda value: value.split(","),
        help="comma-separated; by default every elementwise method, and " + ", ".join(OTHERS),
    )
    if parser.parse_known_args(arguments)[0].large:
        parser.set_defaults(**LARGE)
    return parser.parse_args(arguments)


def methods(options: argparse.Namespace) -> list[str]:
    """Return the methods that were asked for, or those that are measured by default."""
    if options.methods:
        for name in options.methods:
            METHODS.get(name)
        return list(options.methods)
    return [
        name
        for name, kind in METHODS.items()
        if (issubclass(kind, Elementwise) or name in OTHERS)
        and not name.startswith("mergekit")  # the dialect's own methods: they do what the counterparts do
        and kind.gives == "one model"
        and not kind.calibration
        and kind.min_models <= options.models <= kind.max_models
    ]


def main() -> None:
    options = parse()
    console = Console(stderr=True)
    names = methods(options)
    with console.status("making models"):
        shards = options.shard_size and size_in_bytes("--shard-size", options.shard_size)
        in_shards = f"-{options.shard_size}" if shards else ""
        place = options.folder / f"{options.model}-{options.dtype}{in_shards}"
        folders = make(options.model, options.models, DTYPES[options.dtype], place, shards)
    asked = requests(names, folders, options)
    floor, out = asked["read and write"], place / "out"
    run_one(floor, options, out)  # brings the files into the page cache
    load = {"before": os.getloadavg()}
    measured: dict[str, list[dict[str, float]]] = {label: [] for label in asked}
    order = random.Random(options.seed)
    runs = [label for _ in range(options.rounds) for label in order.sample(list(asked), len(asked))]
    for label in track(runs, "merging", console=console, transient=True):
        measured[label].append(measure(asked[label], options, out))
    load["after"] = os.getloadavg()
    plan = check(MergeConfig("average", str(folders[0]), [str(folders[1])]))
    counts = {name: header.count for name, header in plan.base.headers.items()}
    results: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "saft": saft.__version__,
            "processor": platform.processor() or platform.machine(),
        },
        "sizes": {"n_parameters": sum(counts.values()), "largest_bytes": 4 * max(counts.values())},
        "protocol": protocol(options),
        "load_average": load,
        "measured": measured,
    }
    results["figures"] = [figures(label, asked[label], results, folders) for label in asked]
    print(describe(results) + in_advance(results))
    publish(table(results["figures"]), results, options.json)


if __name__ == "__main__":
    main()
