"""`saft tasks`, `arms` and `measures`: what there is to train on and with, and to measure, with its keys."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saft import config
from saft.cli.plain_math import with_plain_math
from saft.errors import UserError, did_you_mean
from saft.interference.quantity import DIFFERENCE, IN_LOSS, IN_METRIC, MEASURES, Measure
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation
from saft.parametrizations import PARAMETRIZATIONS
from saft.penalties import PENALTIES
from saft.registry import Registry
from saft.tasks import TASKS
from saft.training.optimizer import OWNED_BY_TRAINING, check_keys, optimizer_class, torch_optimizers
from saft.trajectory import AVERAGINGS

__all__ = ["arms", "kinds", "measures", "tasks"]

ARMS: dict[str, Registry[Any]] = {
    "perturbation": PERTURBATIONS,
    "penalty": PENALTIES,
    "parametrization": PARAMETRIZATIONS,
    "averaging": AVERAGINGS,
}

NEEDS = {
    "weights": "of the weights, streamed",
    "functions": "of what the models give for examples",
    "loss": "of the loss around each model",
    "merge": "of a merge",
}


def tasks(name: str | None = None) -> RenderableType:
    """Return the kinds of tasks, or everything about the one called `name`, to be printed by rich."""
    after = "saft tasks NAME gives the keys that a kind takes below `task:`, beside `kind: NAME`."
    return _overview(TASKS, after) if name is None else _written(_in_full(TASKS, name))


def arms(name: str | None = None) -> RenderableType:
    """Return what an arm can have, or everything about the one called `name`, to be printed by rich.

    Raises:
        UserError: there is nothing of this name.
    """
    if name is None:
        tables = [
            part for key, parts in ARMS.items() for part in (Text(f"{key}:", "bold"), _table(parts), "")
        ]
        return Group(
            *tables,
            Text("optimizer:", "bold"),
            _optimizers(),
            "",
            "saft arms NAME gives its options and source. In a config: training: {perturbation: {name:"
            " NAME}}, or penalty, parametrization, averaging, optimizer, with the options beside the name; an"
            " arm with none of them is plain AdamW on all weights. An optimizer is any module:Class of"
            " torch's form. Several values are tried by choices: {perturbation.rho: [0.01, 0.02]}"
            " in an arm of saft run, which takes those that merge best on validation data. An arm with"
            " first_round: {steps: 67} and start: {method: tsv_m} trains every task, merges, and trains on"
            " from the merge.",
        )
    for parts in ARMS.values():
        if name in parts:
            return _written(_in_full(parts, name))
    if ":" in name:
        return _written(_optimizer_in_full(name))
    known = [known for parts in ARMS.values() for known in parts.names()]
    optimizers = torch_optimizers()
    known += [f"torch.optim:{known}" for known in optimizers]
    meant = f"torch.optim:{name}" if name.lower() in map(str.lower, optimizers) else name
    raise UserError(f"arms: nothing is called '{name}'{did_you_mean(meant, known)}")


def measures(name: str | None = None) -> RenderableType:
    """Return what can be measured, or everything about one measure, to be printed by rich.

    Args:
        name: of a measure, or of a figure that one gives, as tables print it or with underscores.

    Raises:
        UserError: there is no measure of this name.
    """
    if name is not None:
        figure = name.replace(" ", "_")
        gives = (m for m, kind in MEASURES.items() if m not in (name, figure) and _gives(kind(), figure))
        return _written(_measure_in_full(name if name in MEASURES.names() else next(gives, name)))
    groups = [(needs, words, dict[str, Any]()) for needs, words in NEEDS.items()]
    for known, kind in MEASURES.items():
        next(of for needs, _, of in groups if needs == kind.needs)[known] = kind
    tables = [part for _, words, of in groups for part in (Text(f"{words}:", "bold"), _table(of), "")]
    marked = ", ".join(known for known, kind in MEASURES.items() if kind.standard)
    after = (
        "saft measures NAME gives its figures, equations, passes and options. In a config: measures: "
        f"[standard], [all], or names, an entry with options as {{name: NAME, ...}}. standard is {marked}."
    )
    return Group(*tables, after)


def _gives(measure: Measure, figure: str) -> bool:
    return figure in measure.quantities or figure in measure.variants


def _measure_in_full(name: str) -> Iterator[str]:
    yield from _in_full(MEASURES, name)
    measure = MEASURES.get(name)()
    yield "\nFigures:"
    for figure, quantity in measure.quantities.items():
        in_metric = dict.fromkeys((IN_METRIC, DIFFERENCE), ", in the metric of the tasks")
        own = {"": "", IN_LOSS: ", in the unit of the tasks' loss", **in_metric}
        unit = own.get(quantity.unit, f", {quantity.unit}")
        yield f"  {figure}{unit}: {quantity.meaning}"
        if quantity.axes:
            yield f"      axes: {', '.join(quantity.axes)}"
        yield f"      {quantity.definition}" + (f"  ({quantity.source})" if quantity.source else "")
    if measure.variants:
        yield "\nTold besides, trimmed to the largest entries (density), and of each layer:"
    for figure, quantity in measure.variants.items():
        yield f"  {figure}: {quantity.meaning}"
    cost = measure.cost(4)
    yield (
        f"\nOf 4 tasks at most: {cost.forward:g} passes forward and {cost.backward:g} forward and backward "
        f"over a task's examples, {cost.merges:g} merges"
    )


def kinds(registry: Registry[Any], key: str) -> Iterator[config.Key]:
    """Yield the keys that each registered kind of thing takes below `key`."""
    for name, kind in registry.items():
        yield config.Key(f"{key}.kind", "word", name, _summary(kind))
        yield from config.describe(kind, f"{key}.")


def _overview(registry: Registry[Any], after: str) -> RenderableType:
    return Group(_table(registry), "", after)


def _table(registry: Registry[Any] | dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, kind in registry.items():
        table.add_row(name, Text(_summary(kind)))
    return table


def _optimizers() -> Text:
    return Text(", ".join(f"torch.optim:{name}" for name in torch_optimizers()))


def _optimizer_in_full(name: str) -> Iterator[str]:
    check_keys(name)
    kind = optimizer_class(name)
    yield f"{name}: {_summary(kind)}\n\nKeys:"
    for parameter in list(inspect.signature(kind).parameters.values())[1:]:
        ours = OWNED_BY_TRAINING.get(parameter.name)
        if ours is not None:
            yield f"  {parameter.name}: is training.{ours}"
        elif parameter.default is not inspect.Parameter.empty:
            yield f"  {parameter.name}: {config.dump(parameter.default, in_one_line=True)}"
        elif parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            yield f"  {parameter.name}: must be given"


def _in_full(registry: Registry[Any], name: str) -> Iterator[str]:
    kind = registry.get(name)
    documentation, _, below = inspect.cleandoc(kind.__doc__ or "").partition("\nExample:")
    source = below.partition("\n\n")[2]  # what follows the example
    yield f"{name}: {documentation.rstrip()}"
    if source:
        yield f"\n{source.rstrip()}"
    keys = list(config.describe(kind)) if is_dataclass(kind) and isinstance(kind, type) else []
    if issubclass(kind, Perturbation):
        keys = [key for key in keys if key.name not in kind.not_for_configs()]
    if keys:
        yield "\nKeys:"
    for key in keys:
        yield f"  {key.name}: {key.default}  ({key.type})"
        if key.documentation:
            yield f"      {key.documentation}"


def _summary(kind: type[Any]) -> str:
    return with_plain_math(inspect.cleandoc(kind.__doc__ or "").split("\n")[0])


def _written(lines: Iterator[str]) -> Text:
    return Text(with_plain_math("\n".join(lines)))
