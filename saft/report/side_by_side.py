"""Several runs as one set of results, where their figures say the same thing; else the reasons why not."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saft.errors import UserError
from saft.interference.quantity import Quantity
from saft.report.cell_result import BaseResult, CellResult
from saft.report.results import Protocol, Results, TaskFacts

__all__ = ["config_of", "configs_of_runs", "is_of_runs", "labels", "own_name", "side_by_side"]

SAME = 0.25  # of a standard error: what the pretrained model's scores may differ by between two devices


def side_by_side(runs: Mapping[str, Results]) -> Results:
    """Return the arms of all runs as those of one experiment: `arm (run)`.

    What was measured in two ways, such as a sharpness of two radii, is `quantity (run)` too.

    Args:
        runs: what each run is called -> its results; at least two.

    Raises:
        UserError: a figure of one would stand beside one of another that says something else, since tasks,
            metrics, splits, train sizes, the model or the parameters of a merge differ; with every reason.
    """
    pairs = itertools.combinations(runs.items(), 2)  # two may have what the first one lacks
    if problems := [problem for one, other in pairs for problem in _differences(*one, *other)]:
        raise UserError(*problems)
    every = list(runs.values())
    renamed = {name: _quantities(name, run, runs) for name, run in runs.items()}
    return Results(
        versions=_together([run.versions for run in every]),
        device="; ".join(dict.fromkeys(run.device for run in every)),
        config={"folders": {name: run.config for name, run in runs.items()}},
        protocol=_protocol([run.protocol for run in every]),
        arms={f"{arm} ({name})": facts for name, run in runs.items() for arm, facts in run.arms.items()},
        base={task: scores for run in reversed(every) for task, scores in run.base.items()},
        cells=[_cell(name, cell, renamed[name]) for name, run in runs.items() for cell in run.cells],
        quantities={
            renamed[name][quantity]: _named(quantity, what, renamed[name])
            for name, run in runs.items()
            for quantity, what in run.quantities.items()
        },
        arm_searches=[
            dataclasses.replace(search, arm=f"{search.arm} ({name})")
            for name, run in runs.items()
            for search in run.arm_searches
        ],
        paired_errors=[
            dataclasses.replace(error, arm=f"{error.arm} ({name})", baseline=f"{error.baseline} ({name})")
            for name, run in runs.items()
            for error in run.paired_errors
        ],
        failed=[
            dataclasses.replace(failed, arm=f"{failed.arm} ({name})")
            for name, run in runs.items()
            for failed in run.failed
        ],
    )


def labels(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Return what each folder is called -> its path: the end of the path that tells them apart.

    Args:
        folders: of runs, each once.

    Raises:
        UserError: a folder is given twice.

    Example:
        >>> list(labels(["runs/a/seed0", "runs/b/seed0"]))
        ['a/seed0', 'b/seed0']
    """
    paths = [Path(folder).resolve() for folder in folders]
    if twice := [folder for i, folder in enumerate(folders) if paths[i] in paths[:i]]:
        raise UserError(f"report: {twice[0]} is given twice; a comparison is of different runs")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return {name: Path(folder) for name, folder in zip(names, folders, strict=True)}


def _differences(first: str, one: Results, second: str, other: Results) -> Iterator[str]:
    """Yield, as people read it, what keeps two runs from being compared."""

    def told(what: str, mine: object, its: object) -> str:
        return f"{second} cannot stand beside {first}: {what}: {its} in {second}, {mine} in {first}"

    tasks, other_tasks = list(one.protocol.tasks), list(other.protocol.tasks)
    if set(tasks) != set(other_tasks):
        yield told("tasks", ", ".join(tasks), ", ".join(other_tasks))
    for task in tasks:
        if task in other.protocol.tasks:
            mine, its = one.protocol.tasks[task], other.protocol.tasks[task]
            for what, a, b in _of_task(mine, its):
                yield told(f"tasks.{task}.{what}", a, b)
    for task in one.protocol.held_out:
        if task in other.protocol.held_out:
            for what, a, b in _of_task(one.protocol.held_out[task], other.protocol.held_out[task]):
                yield told(f"held_out.{task}.{what}", a, b)
    if one.protocol.tests != other.protocol.tests:
        splits = {True: "test", False: "validation"}
        yield told("scores are of", splits[one.protocol.tests], splits[other.protocol.tests])
    sizes, other_sizes = one.protocol.train_sizes, other.protocol.train_sizes
    for size in sizes:
        if size in other_sizes and sizes[size] != other_sizes[size]:
            yield told(f"train size {size}", sizes[size], other_sizes[size])
    yield from (told(what, a, b) for what, a, b in _of_model(one, other))
    merges, other_merges = _merges(one.config), _merges(other.config)
    for name, options in merges.items():
        for what, mine in options.items():
            if (its := other_merges.get(name, options)[what]) != mine:
                yield told(f"merges.{name}.{what}", mine, its)


def _of_task(one: TaskFacts, other: TaskFacts) -> Iterator[tuple[str, object, object]]:
    for what in ("kind", "metric", "validation", "test", "labels"):
        a, b = getattr(one, what), getattr(other, what)
        if a != b:
            yield (what, a.name, b.name) if what == "metric" and a.name != b.name else (what, a, b)
    for name in dict.fromkeys([*one.facts, *other.facts]):
        if one.facts.get(name) != other.facts.get(name):
            yield name, one.facts.get(name), other.facts.get(name)
    for size in one.train:
        if size in other.train and one.train[size] != other.train[size]:
            yield f"train, {size}", one.train[size], other.train[size]


def _of_model(one: Results, other: Results) -> Iterator[tuple[str, object, object]]:
    """Yield differences of the pretrained models: by their scores, or where there are none by their names."""
    known, its_own = (run.protocol.tasks | run.protocol.held_out for run in (one, other))
    common = [task for task in one.base if task in other.base]
    for task in common:
        metric = known[task].metric
        if its_own[task].metric != metric:
            continue  # is told already, and the scores say different things
        if (pair := _scores_apart(one.base[task], other.base[task])) is not None:
            mine, its = (metric.format(value) for value in pair)
            yield f"the pretrained model or its examples: {metric.name} on {task}", mine, its
    if not common and one.config.get("model") != other.config.get("model"):
        yield "model", one.config.get("model"), other.config.get("model")


def _scores_apart(one: BaseResult, other: BaseResult) -> tuple[float, float] | None:
    for split in ("validation", "test"):
        a, b = getattr(one, split), getattr(other, split)
        if a is not None and b is not None:
            allowed = 1e-6 * abs(a.value) if a.standard_error is None else SAME * a.standard_error
            if abs(a.value - b.value) > allowed:
                return a.value, b.value
    return None


def _merges(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name of a merge -> its method and its parameters, as the configs of results have them."""
    merges = (of_run.get("merges") for of_run in configs_of_runs(config))
    each = {name: of for named in merges if isinstance(named, Mapping) for name, of in named.items()}
    known = {name: of if isinstance(of, Mapping) else {} for name, of in each.items()}
    return {
        name: {"method": of.get("method") or name, "parameters": of.get("parameters") or {}}
        for name, of in known.items()
    }


def _protocol(protocols: Sequence[Protocol]) -> Protocol:
    first = protocols[0]
    tasks = {
        task: dataclasses.replace(
            facts, train={size: n for p in protocols for size, n in p.tasks[task].train.items()}
        )
        for task, facts in first.tasks.items()
    }
    return dataclasses.replace(
        first,
        tasks=tasks,
        seeds=list(dict.fromkeys(seed for protocol in protocols for seed in protocol.seeds)),
        train_sizes={size: n for protocol in protocols for size, n in protocol.train_sizes.items()},
        coefficient=" ".join(dict.fromkeys(protocol.coefficient for protocol in protocols)),
        held_out={task: facts for p in reversed(protocols) for task, facts in p.held_out.items()},
        test_reads=" ".join(dict.fromkeys(protocol.test_reads for protocol in protocols)),
    )


def _quantities(name: str, run: Results, runs: Mapping[str, Results]) -> dict[str, str]:
    """Return quantity of a run -> its name among all: with the run's where another means something else."""

    def other_ways(quantity: str) -> bool:
        what = run.quantities.get(quantity)
        return any(other.quantities.get(quantity, what) != what for other in runs.values())

    return {
        quantity: f"{quantity} ({name})" if other_ways(quantity) or other_ways(what.error_of) else quantity
        for quantity, what in run.quantities.items()
    }


def configs_of_runs(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the configs that results hold: the one of a run, or each of several side by side.

    Args:
        config: of the results; a run whose own is damaged has an empty one.

    Example:
        >>> configs_of_runs({"folders": {"a": {"seeds": [0]}, "b": {"seeds": [1]}}})
        [{'seeds': [0]}, {'seeds': [1]}]
    """
    if not is_of_runs(config):
        return [config]
    every = (of_run if isinstance(of_run, Mapping) else {} for of_run in config["folders"].values())
    return [own for of_run in every for own in configs_of_runs(of_run)]  # one may be of several itself


def config_of(config: Mapping[str, Any], arm: str) -> Mapping[str, Any]:
    """Return the config of the run that an arm is of.

    Args:
        config: of the results; of several runs side by side, each under its name in "folders".
        arm: as the results name it.

    Example:
        >>> config_of({"folders": {"a": {"seeds": [0]}, "b": {"seeds": [1]}}}, "sam (b)")
        {'seeds': [1]}
    """
    if not is_of_runs(config):
        return config
    own = (of_run for name, of_run in config["folders"].items() if arm.endswith(f" ({name})"))
    return next((of_run for of_run in own if isinstance(of_run, Mapping)), {})


def is_of_runs(config: Mapping[str, Any]) -> bool:
    """Return whether results with this config are those of several runs side by side."""
    return isinstance(config.get("folders"), Mapping)


def own_name(name: str, quantities: Mapping[str, Quantity]) -> str:
    """Return the name of a quantity without that of its run.

    Args:
        name: under which results hold it.
        quantities: name -> what it is.

    Example:
        >>> harm = Quantity("how much it hurts", name="harm")
        >>> own_name("harm (runs/a)", {"harm (runs/a)": harm}), own_name("norm (l1)", {})
        ('harm', 'norm (l1)')
    """
    return (quantities[name].name if name in quantities else "") or name


def _named(quantity: str, what: Quantity, renamed: Mapping[str, str]) -> Quantity:
    """Return a quantity of a run as it is held among those of all: with its own name beside the run's."""
    if renamed[quantity] == quantity:
        return what
    return dataclasses.replace(what, name=quantity, error_of=renamed.get(what.error_of, what.error_of))


def _cell(name: str, cell: CellResult, renamed: Mapping[str, str]) -> CellResult:
    measured = {renamed[quantity]: value for quantity, value in cell.measured.items()}
    return dataclasses.replace(cell, arm=f"{cell.arm} ({name})", measured=measured)


def _together(versions: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for of_run in versions for name in of_run)
    return {n: ", ".join(dict.fromkeys(of_run[n] for of_run in versions if n in of_run)) for n in names}
