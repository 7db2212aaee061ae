"""How far the verdict of `saft measure` is right: what it reads on validation examples against test examples.

Takes the experts of a finished run that kept them. Of each cell, everything a verdict may rest on is measured
on few validation examples, and the same merges, at the same coefficient, are scored on test examples. Prints
for each measure how often the pair, or the model, that it names is the worst on test, beside chance, and the
rank correlation, mean over the cells. Figures of a cell lie in the folder of --out and are not made twice.
Nothing is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from publish import markdown, publish
from rich.console import Console
from rich.progress import track

from saft.checkpoint_tasks import task_of
from saft.files.staging import write_text
from saft.interference.feature_drift import FeatureDrift
from saft.interference.hurting import hurting_pairs
from saft.interference.leave_one_out import LeaveOneOut
from saft.interference.others_shift import OthersShift
from saft.interference.pairwise import Pairwise
from saft.interference.recovered import Recovered
from saft.interference.task_space import Point, Scored, TaskSpace
from saft.measure import weight_interference
from saft.measure_config import MergeToMeasure
from saft.measure_models import best_scaling, merge_to_measure
from saft.measure_probe import TaskProbe, task_space
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.tasks import BoundTask, Limits
from saft.tasks.estimate import spearman

Matrix = Mapping[str, Mapping[str, float]]


class TwoSplits(TaskSpace):
    """A space that scores a point on test examples too while it is there, so that no merge is made twice."""

    def __init__(self, space: TaskSpace, tests: Mapping[str, TaskProbe]) -> None:
        self.__dict__.update(space.__dict__)
        self.tests, self.on_test = tests, False
        self._on_test: dict[tuple[str, Point], Scored] = {}

    def _scored(self, task: str, point: Point) -> Scored:
        value = super()._scored(task, point)
        if (task, point) not in self._on_test:
            self.move(point)
            self._on_test[task, point] = self.tests[task].score()
        return self._on_test[task, point] if self.on_test else value


def rises(space: TaskSpace) -> dict[str, dict[str, float]]:
    """Return what pairwise merges do to the loss: task -> other -> rise over its own vector scaled."""
    rise: dict[str, dict[str, float]] = {}
    for task in space.tasks:
        alone = space.response(task, Point.of({task: space.scaling})).loss
        rise[task] = {}
        for other in space.tasks:
            if other != task:
                pair = [name for name in space.tasks if name in (task, other)]
                rise[task][other] = space.response(task, space.merged(pair)).loss - alone
    return rise


class Bench:
    """The tasks of a run, bound once, and the merge that is measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.base = options, str(options.folder / "base")
        first = self.folders(options.cells[0])
        self.bound: dict[str, BoundTask] = {name: task_of(name, at, {}, "cpu") for name, at in first.items()}
        limits = Limits(train=0, validation=options.examples, test=options.test_examples)
        self.splits = {name: task.examples(limits) for name, task in self.bound.items()}

    def folders(self, cell: str) -> dict[str, Path]:
        """Return task -> checkpoint folder of a cell."""
        return {path.name: path for path in sorted((self.options.folder / "experts" / cell).iterdir())}

    def measured(self, cell: str) -> dict[str, Any]:
        """Return what was measured of a cell's experts: `validation` is what a verdict sees, and `test`."""
        folders = self.folders(cell)
        paths = {name: str(path) for name, path in folders.items()}
        plan = check(MergeConfig("average", self.base, paths))
        merge = merge_to_measure(MergeToMeasure(self.options.method), plan, list(paths))
        validation = {name: parts.validation for name, parts in self.splits.items()}
        space = task_space(plan, self.bound, validation, folders, 100, merge.config)
        given = self.options.scaling
        space.scaling = best_scaling(space, list(merge.method.scaling_grid)) if given is None else given
        tests = {
            name: TaskProbe(task, space.probes[name].module, self.splits[name].test, 100)
            for name, task in self.bound.items()
        }
        both = TwoSplits(space, tests)
        seen: dict[str, Any] = {}
        for measure in (Pairwise(), LeaveOneOut(), Recovered(), FeatureDrift(), OthersShift(samples=1)):
            seen |= measure.values(both)
        seen["pair_rise"] = rises(both)
        of_weights = weight_interference(self.base, paths, 0.2).measured
        seen |= {name: of_weights[name] for name in ("cosine", "norm")}
        both.on_test = True
        truth: dict[str, Any] = {}
        for measure in (Pairwise(), LeaveOneOut(), Recovered()):
            truth |= measure.values(both)
        counts = {
            split: {name: len(getattr(parts, split)) for name, parts in self.splits.items()}
            for split in ("validation", "test")
        }
        return {"cell": cell, "scaling": space.scaling, "examples": counts, "validation": seen, "test": truth}


def pair_guesses(seen: Mapping[str, Any]) -> dict[str, Matrix]:
    """Return measure -> task -> other -> how much it foretells that the other hurts the task."""
    cosine = seen["cosine"]
    turned = {
        name: {t: {s: seen[name][s][t] for s in cosine if s != t} for t in cosine}
        for name in ("feature_drift", "changed_predictions")
    }
    return {
        "merge of the pair, score": seen["pair_harm"],
        "merge of the pair, loss": seen["pair_rise"],
        "rise of the loss by the other's vector": seen["shift_by_other"],
        "drift of features": turned["feature_drift"],
        "changed predictions": turned["changed_predictions"],
        "cosine": cosine,
        "size of the cosine": {t: {s: abs(value) for s, value in row.items()} for t, row in cosine.items()},
        "norm of the other": {t: dict(seen["norm"]) for t in cosine},
    }


def model_guesses(seen: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return measure -> model -> how much it foretells that the model hurts the others most."""
    pairs = pair_guesses(seen)
    by_pairs = {
        name: {s: fmean(row[s] for t, row in of.items() if t != s) for s in of} for name, of in pairs.items()
    }
    return {"merge without it, score": {j: fmean(row.values()) for j, row in seen["harm"].items()}} | by_pairs


def flat(matrix: Matrix) -> dict[tuple[str, str], float]:
    """Return the pairs of a matrix without its diagonal."""
    return {(t, s): value for t, row in matrix.items() for s, value in row.items() if s != t}


def judged(guesses: Mapping[Any, float], truth: Mapping[Any, float]) -> dict[str, float]:
    """Return how right one guess is: hit, what its first choice costs on test, the rank correlation."""
    keys = list(truth)
    named, worst = max(keys, key=lambda key: guesses[key]), max(truth.values())
    return {
        "hit": float(truth[named] == worst),
        "chance": sum(value == worst for value in truth.values()) / len(keys),
        "named": truth[named],
        "mean": fmean(truth.values()),
        "worst": worst,
        "rank correlation": spearman(*(torch.tensor([of[k] for k in keys]) for of in (guesses, truth))).value,
    }


def rows(cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each thing to be named and each measure that names it, over all cells."""
    kinds: dict[str, tuple[Callable[[Any], Mapping[str, Mapping[Any, float]]], Callable[[Any], Any]]] = {
        "pair": (
            lambda seen: {name: flat(of) for name, of in pair_guesses(seen).items()},
            lambda test: flat(test["pair_harm"]),
        ),
        "model": (model_guesses, lambda test: {j: fmean(row.values()) for j, row in test["harm"].items()}),
    }
    for kind, (guesses_of, truth_of) in kinds.items():
        for name in guesses_of(cells[0]["validation"]):
            each = [judged(guesses_of(c["validation"])[name], truth_of(c["test"])) for c in cells]
            means = {key: fmean(one[key] for one in each) for key in each[0]}
            yield {"names": kind, "measure": name, "cells": len(each), **means}


def claims(cells: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many pairs the verdict says will hurt, how many of them do on test, and of how many all."""
    counts = {"claimed": 0, "claimed and worse": 0, "pairs": 0, "worse": 0}
    for cell in cells:
        truth, counted = flat(cell["test"]["pair_harm"]), cell["examples"]["validation"]
        claimed = set(hurting_pairs(cell["validation"], counted))
        counts["claimed"] += len(claimed)
        counts["claimed and worse"] += sum(truth[pair] > 0 for pair in claimed)
        counts["pairs"] += len(truth)
        counts["worse"] += sum(value > 0 for value in truth.values())
    return counts


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of a finished saft run that kept its experts")
    parser.add_argument(
        "--cells",
        required=True,
        type=lambda text: text.split(","),
        help="comma-separated, such as limited/sam/seed0,limited/sam/seed1",
    )
    parser.add_argument("--examples", type=int, default=64, help="validation examples of each task")
    parser.add_argument("--test-examples", type=int, default=400, help="of each task, at most")
    parser.add_argument("--method", default="task_arithmetic", help="of the merges")
    parser.add_argument("--scaling", type=float, help="its coefficient; the best on validation unless given")
    parser.add_argument("--bf16", action="store_true", help="compute the passes in bfloat16 mixed precision")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures of each cell")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    return parser.parse_args(words)


def main() -> None:
    """Measure the cells that are not there yet, and print the table over all."""
    options = parse()
    files = {cell: options.out / f"{cell.replace('/', '+')}.json" for cell in options.cells}
    missing = [cell for cell, file in files.items() if not file.is_file()]
    bench = Bench(options) if missing else None
    for cell in track(missing, "cells", console=Console(stderr=True)):
        mixed = torch.autocast("cpu", torch.bfloat16) if options.bf16 else contextlib.nullcontext()
        with mixed:
            assert bench is not None
            write_text(files[cell], json.dumps(bench.measured(cell), indent=1) + "\n")
    cells = [json.loads(file.read_text()) for file in files.values()]
    made = list(rows(cells))
    lines = [
        [
            f"{row['names']}: {row['measure']}",
            str(row["cells"]),
            f"{100 * row['hit']:.0f}",
            f"{100 * row['chance']:.0f}",
            *(f"{100 * row[key]:.1f}" for key in ("named", "mean", "worst")),
            f"{row['rank correlation']:.2f}",
        ]
        for row in made
    ]
    headings = (
        "cells",
        "named the worst, %",
        "by chance, %",
        "named loses",
        "mean loss",
        "worst loses",
        "rank correlation",
    )
    counted = claims(cells)
    publish(markdown(headings, lines), {"claims": counted, "rows": made, "cells": cells}, options.json)
    print(", ".join(f"{key}: {count}" for key, count in counted.items()))


if __name__ == "__main__":
    main()
