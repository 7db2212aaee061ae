"""Everything that waits for a GPU: CUDA tests, trainings, merges on cuda and cpu, SAM steps and host waits.

One command, one GPU, no network, under 8 minutes. Each part is a process with a time limit of its own, and a
JSON of it in --out, so that a failure costs one part, and the same command goes on where the last one
stopped. Where nothing can be installed: PYTHONPATH=. python3 scripts/benchmarks/gpu.py --out DIR
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

import saft

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "lightning", "pytorch_optimizer")
COMPETITORS = ("saft-sam", "saft-asam", "saft-norm-only", "saft-momentum", "davda54", "pytorch-optimizer")
METHODS = {"elementwise": "ties,pcb", "svd": "tsv_m"}
SHORTEST = 10  # seconds; with fewer left no part is begun


@dataclass(frozen=True)
class Part:
    """A process to run.

    Args:
        title: for people.
        command: arguments of Python, from the root of the repository; JSON in it is where figures may go.
        seconds: after which it is ended.
        summary: makes one line of the figures that it wrote, or of its output where it wrote none.
    """

    title: str
    command: tuple[str, ...]
    seconds: int
    summary: Callable[[Any], str]


JSON = "{json}"


def tests(output: str) -> str:
    """Return pytest's last line."""
    return output.strip().splitlines()[-1].strip("= ") if output.strip() else ""


def steps(results: Mapping[str, Any]) -> str:
    """Return what a SAM step costs, and how often the host waits for the device in it."""
    rows = {row["name"]: row for row in results["figures"]}
    ratios = (f"{rows[name]['label']} {rows[name]['ratio_median']:.2f}" for name in rows if name != "adamw")
    waits = (f"{row['label']} {row['host_waits']}" for row in rows.values() if row["host_waits"])
    milliseconds = rows["adamw"]["milliseconds_median"]
    return (
        f"AdamW {milliseconds:.1f} ms; / AdamW: {', '.join(ratios)}; host waits: {', '.join(waits) or 'none'}"
    )


def trainings(results: Mapping[str, Any]) -> str:
    """Return how many examples a second each trains, beside the loop, and the share of waiting for data."""
    rows = (
        f"{row['label']} {row['examples_per_second']:.0f}/s (× {row['ratio']:.2f}, "
        f"{100 * row['data_share']:.0f} % waiting)"
        for row in results["figures"]
    )
    return ", ".join(rows)


def merges(results: Mapping[str, Any]) -> str:
    """Return the seconds of each merge."""
    return ", ".join(f"{row['name']} {row['merge_seconds_min']:.2f} s" for row in results["figures"])


def parts(installed: Callable[[str], object] = util.find_spec) -> dict[str, Part]:
    """Return every part by its name; without what cannot run because a package is not installed."""
    kept = [name for name in COMPETITORS if name != "pytorch-optimizer" or installed("pytorch_optimizer")]
    pytest = ("-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", "-W", "default", "-k", "gpu or cuda")
    pytest += ("-n", str(min(os.cpu_count() or 1, 12))) if installed("xdist") else ()
    found = {"tests": Part("tests that need CUDA", pytest, 150, tests)}
    for model, (title, rounds) in {
        "minilm": ("22 M", 2),
        "vit-b32": ("ViT-B/32", 1),
        "0.5b": ("0.5 B", 1),
    }.items():
        train = ("scripts/benchmarks/train.py", "--device", "cuda", "--model", model)
        train += ("--rounds", str(rounds), "--json", JSON)
        found[f"train-{model}"] = Part(f"trainings, {title}", train, 100, trainings)
    found |= _merges("cuda")
    models = {
        "0.5b": ("0.5 B", 3, kept[:1] + kept[2:4]),  # each takes a dozen GB
        "bert": ("22 M", 6, kept),
        "vit-b32": ("ViT-B/32", 6, kept),
    }
    for model, (title, rounds, names) in models.items():
        sam = ("scripts/benchmarks/sam.py", "--device", "cuda", "--model", model, "--rounds", str(rounds))
        sam += ("--warm", "2", "--steps", "4", "--competitors", ",".join(names), "--json", JSON)
        found[f"sam-{model}"] = Part(f"SAM steps, {title}", sam, 150, steps)
    return found | _merges("cpu")


def _merges(device: str) -> dict[str, Part]:
    merge = ("scripts/benchmarks/merge.py", "--model", "llama-120m", "--models", "2")
    merge += ("--rounds", "1", "--json", JSON)
    return {
        f"merge-{kind}-{device}": Part(
            f"merges ({kind}) on {device}", (*merge, "--device", device, "--methods", methods), 100, merges
        )
        for kind, methods in METHODS.items()
    }


def machine() -> dict[str, str]:
    """Return what runs where; a part that was run elsewhere, or by other code, is run again."""
    found = {"device": torch.cuda.get_device_name(), "CUDA": str(torch.version.cuda)}
    found |= {"CPU cores": str(os.cpu_count()), "Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {**found, "saft": f"{saft.__version__}, code {code(ROOT)}"}


def code(root: Path) -> str:
    """Return eight digits that another program or test would change; committed or not."""
    files = sorted(file for part in ("saft", "scripts", "tests") for file in (root / part).rglob("*.py"))
    texts = (f"{file.relative_to(root)}\n{file.read_text('utf-8')}" for file in files)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def run(name: str, part: Part, where: Mapping[str, str], out: Path, seconds: float) -> dict[str, Any]:
    """Return what came of a part: that of the file in `out` where it is done, else what it does now.

    Args:
        name: of the part, and of its file.
        part: what to run.
        where: `machine()`.
        out: folder of the files.
        seconds: that are left for all parts; the part gets no more.

    Returns:
        Its command, machine, seconds, returncode (None: it was ended), output, and the figures it wrote.
    """
    file, wanted = out / f"{name}.json", {"command": list(part.command), "machine": dict(where)}
    with contextlib.suppress(OSError, ValueError):
        before: dict[str, Any] = json.loads(file.read_text())
        if before["returncode"] == 0 and {key: before[key] for key in wanted} == wanted:
            return before
    written = out / f"{name}.figures"
    command = [sys.executable, *(str(written) if argument == JSON else argument for argument in part.command)]
    started = time.perf_counter()
    output, returncode = _run(command, min(part.seconds, seconds))
    result: dict[str, Any] = {**wanted, "seconds": time.perf_counter() - started, "returncode": returncode}
    result |= {"output": output, "figures": json.loads(written.read_text()) if written.exists() else None}
    written.unlink(missing_ok=True)
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(file)
    return result


def _run(command: Sequence[str], seconds: float) -> tuple[str, int | None]:
    # In a session of its own, so that what it has started ends with it. It finds saft in this tree.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "160"},
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=seconds)[0], process.returncode
    except subprocess.TimeoutExpired:
        returncode = None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0], returncode


def table(known: Mapping[str, Part], results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one row a part, which is Markdown when printed."""
    made = Table("part", "seconds", "what came out", box=box.MARKDOWN)
    for name, part in known.items():
        result = results.get(name)
        if result is None:
            made.add_row(part.title, "", "not run: no time left")
        elif result["returncode"] == 0:
            summary = part.summary(result["figures"] or result["output"])
            made.add_row(part.title, f"{result['seconds']:.0f}", summary)
        else:
            ended = (
                "it took too long" if result["returncode"] is None else f"exit code {result['returncode']}"
            )
            made.add_row(part.title, f"{result['seconds']:.0f}", f"failed: {ended}")
    return made


def report(
    where: Mapping[str, str], known: Mapping[str, Part], results: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return everything as Markdown: the machine, the table of parts, and what each part printed."""
    rows = io.StringIO()
    Console(width=400, file=rows).print(table(known, results))
    sections = [", ".join(f"{what} {value}" for what, value in where.items()), rows.getvalue()]
    for name, result in results.items():
        sections += [f"## {known[name].title}\n", f"```\n{result['output'].rstrip()}\n```\n"]
    return "\n".join(sections)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    names = list(parts())
    parser = argparse.ArgumentParser("scripts/bench gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".bench/gpu"), help="folder of the parts' files")
    parser.add_argument("--seconds", type=float, default=480, help="for all parts together")
    parser.add_argument(
        "--parts", type=lambda value: value.split(","), default=names, help=f"of {', '.join(names)}"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in names]:
        parser.error(f"unknown parts: {', '.join(unknown)}; known: {', '.join(names)}")
    return options


def main() -> int:
    options = parse()
    if not torch.cuda.is_available():
        print(f"scripts/bench gpu: torch {torch.__version__} finds no CUDA device", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    where, started = machine(), time.perf_counter()
    known = {name: part for name, part in parts().items() if name in options.parts}
    results: dict[str, dict[str, Any]] = {}
    for name, part in known.items():
        left = options.seconds - (time.perf_counter() - started)
        if left < SHORTEST:
            break
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        results[name] = run(name, part, where, options.out, left)
        print(f"{results[name]['seconds']:.0f} s, {results[name]['returncode']}", file=sys.stderr, flush=True)
        (options.out / "gpu.md").write_text(report(where, known, results))
    print((options.out / "gpu.md").read_text().partition("\n## ")[0])
    return int(any(result["returncode"] != 0 for result in results.values()) or len(results) < len(known))


if __name__ == "__main__":
    sys.exit(main())
