"""What a search of merges finds against an exhaustive grid: the checkpoints of one arm of a finished run.

Every search sees the same validation examples; what it chose is then scored on test examples, and compared
there with what the grid chose, paired. Prints a table for a README, and writes a JSON of every figure.
Nothing is timed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from publish import markdown, publish
from rich.console import Console
from rich.progress import track

from saft.experiment.halving import halving
from saft.experiment.paired import paired_gain
from saft.experiment.sampled_search import Interval, Tpe
from saft.experiment.selection import Trial, mean_normalized
from saft.experiment.weight_search import PLACES, weight_search, weights_of
from saft.experiment.weighted_trunk import with_weights
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.suggest_config import SuggestConfig
from saft.suggest_models import Half, MergedModels
from saft.suggest_result import in_words
from saft.tasks import Limits, Score


@dataclass
class Bench:
    """One model that becomes any merge, and the scores that it had, which no search asks for twice."""

    models: MergedModels
    experts: dict[Half, dict[str, float]]
    known: dict[str, dict[str, Score]] = dataclasses.field(default_factory=dict)
    asked: list[MergeConfig] = dataclasses.field(default_factory=list)

    def scores(self, merge: MergeConfig) -> dict[str, Score]:
        """Return task -> validation score, and note that it was asked for."""
        self.asked.append(merge)
        key = repr(merge)
        if key not in self.known:
            self.known[key] = self.models.scores(merge, "search")
        return self.known[key]

    def worth(self, merge: MergeConfig) -> float:
        """Return the mean over the tasks of the validation score in parts of the expert's."""
        return self.mean(self.scores(merge))

    def mean(self, scores: dict[str, Score], half: Half = "search") -> float:
        """Return the mean over the tasks of scores in parts of the experts'."""
        values = {task: score.value for task, score in scores.items()}
        return mean_normalized(values, self.experts[half], self.models.metrics)

    def at(self, method: str, scaling: float) -> MergeConfig:
        """Return a merge at a coefficient."""
        merge = self.models.merges[method]
        one = len(METHODS.get(method).scaling_grid) == 1
        return merge if one else dataclasses.replace(merge, scaling=scaling)


def grid(bench: Bench) -> None:
    """Try every coefficient of every method's grid."""
    for method in bench.models.merges:
        for scaling in METHODS.get(method).scaling_grid:
            bench.worth(bench.at(method, scaling))


def by_halving(bench: Bench, budget: int) -> None:
    """Do what saft suggest does."""
    kinds = {method: METHODS.get(method) for method in bench.models.merges}
    grids = {method: (kind.scaling, kind.scaling_grid) for method, kind in kinds.items()}
    halving(grids, lambda method, scaling: bench.worth(bench.at(method, scaling)), budget)


def by_tpe(bench: Bench, budget: int, seed: int) -> None:
    """Do what saft run does with search: tpe, with the same budget in all."""
    grids = {method: METHODS.get(method).scaling_grid for method in bench.models.merges}
    several = [method for method, values in grids.items() if len(values) > 1]
    for method in grids:
        if method not in several:
            bench.worth(bench.at(method, 1.0))
    share = (budget - len(grids) + len(several)) // len(several)
    for method in several:

        def worth(trial: Trial) -> float:
            return bench.mean(trial.validation)

        interval = Interval(min(grids[method]), max(grids[method]))
        Tpe({"scaling": interval}, worth, share, seed).trials(
            lambda candidate, method=method: bench.scores(bench.at(method, candidate["scaling"]))
        )


def by_weights(bench: Bench, start: MergeConfig, places: int, budget: int, seed: int) -> None:
    """Give each task weights, from the best coefficient of task arithmetic on."""
    tasks = list(bench.models.bound)
    assert start.scaling is not None
    search = weight_search(tasks, places, start.scaling, lambda t: bench.mean(t.validation), budget, seed)
    search.trials(lambda candidate: bench.scores(with_weights(start, weights_of(candidate, tasks))))


def rows(bench: Bench, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what each search asked for, and what it chose."""

    def searched(name: str, search: Callable[[], None]) -> dict[str, Any]:
        bench.asked = []
        search()
        best = max(bench.asked, key=lambda merge: bench.mean(bench.known[repr(merge)]))
        return {"search": name, "evaluations": len(bench.asked), "chosen": best}

    yield searched("every grid", lambda: grid(bench))
    sums = [merge for merge in bench.asked if merge.method == "task_arithmetic"]
    start = max(sums, key=lambda merge: bench.mean(bench.known[repr(merge)]))
    yield searched("halving (saft suggest)", lambda: by_halving(bench, options.budget))
    yield searched("TPE", lambda: by_tpe(bench, options.budget, options.seed))
    yield {"search": "task arithmetic's grid", "evaluations": len(sums), "chosen": start}
    for weights, budget in (("per_task", options.weights), ("per_layer", 2 * options.weights)):
        places = PLACES[weights]
        yield searched(
            f"its weights, {weights}",
            lambda places=places, budget=budget: by_weights(bench, start, places, budget, options.seed),
        )


def figures(bench: Bench, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of each row: validation, test, and the paired gain over its own grid."""
    made, against = [], None
    for row in track(list(rows(bench, options)), "test", console=Console(stderr=True)):
        merge = row["chosen"]
        groups = bench.models.by_group(merge)
        if "grid" in row["search"]:
            against = groups
        gain = paired_gain(groups, against, bench.experts["confirmation"], bench.models.metrics)
        made.append(
            {
                "search": row["search"],
                "evaluations": row["evaluations"],
                "chosen": in_words(merge),
                "validation": bench.mean(bench.known[repr(merge)]),
                "test": bench.mean(bench.models.scores(merge, "confirmation"), "confirmation"),
                "gain": list(gain.by_group),
                "gain_in_words": "" if against is groups else gain.written(),
            }
        )
    return made


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of a finished saft run that kept its experts")
    parser.add_argument("--cell", required=True, help="such as limited/sam/seed0")
    parser.add_argument("--examples", type=int, default=80, help="validation examples of each task")
    parser.add_argument("--test-examples", type=int, default=400, help="of each task, at most")
    parser.add_argument("--budget", type=int, default=20, help="evaluations of halving and of TPE")
    parser.add_argument(
        "--weights", type=int, default=40, help="evaluations of weights per task; per layer twice"
    )
    methods = "average,task_arithmetic,ties,pcb"
    parser.add_argument("--methods", default=methods, help="comma-separated, task_arithmetic among them")
    parser.add_argument("--seed", type=int, default=0, help="of the searches")
    parser.add_argument("--json", type=Path, help="where to write every figure")
    return parser.parse_args(words)


def load(options: argparse.Namespace) -> Bench:
    """Return the checkpoints of the cell, in which test examples stand in for those that confirm."""
    folders = sorted((options.folder / "experts" / options.cell).iterdir())
    methods: dict[str, dict[str, Any]] = {method: {} for method in options.methods.split(",")}
    checkpoints = {path.name: str(path) for path in folders}
    config = SuggestConfig(
        str(options.folder / "base"), checkpoints, methods=methods, examples=2 * options.examples
    )
    models = MergedModels.of(config)
    limits = Limits(train=0, validation=0, test=options.test_examples)
    test = {name: task.examples(limits).test for name, task in models.bound.items()}
    models.examples["confirmation"] = test
    halves: list[Half] = ["search", "confirmation"]
    experts = {half: {task: models.expert(task, half).value for task in models.bound} for half in halves}
    return Bench(models, experts)


def main() -> None:
    """Search in every way, and print the table."""
    options = parse()
    bench = load(options)
    made = figures(bench, options)
    lines = [
        [
            row["search"],
            str(row["evaluations"]),
            row["chosen"],
            f"{100 * row['validation']:.1f}",
            f"{100 * row['test']:.1f}",
            row["gain_in_words"],
        ]
        for row in made
    ]
    headings = ("evaluations", "chosen", "validation, %", "test, %", "test gain over its grid, points")
    results = {"cell": options.cell, "options": {k: str(v) for k, v in vars(options).items()}, "rows": made}
    publish(markdown(headings, lines), results, options.json)


if __name__ == "__main__":
    main()
