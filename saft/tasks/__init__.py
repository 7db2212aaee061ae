"""Data, inputs, head, loss and metric of a task, by kind; one file a kind. Tasks are declared in YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saft import config
from saft.errors import UserError, collecting, did_you_mean
from saft.files.checkpoint import MANIFEST, read_manifest
from saft.registry import Registry
from saft.tasks.examples import Batch, Examples, Limits, Splits
from saft.tasks.metric import Metric, Score
from saft.tasks.outcomes import Outcomes
from saft.tasks.task import BoundTask, Task, TaskModel

__all__ = [
    "TASKS",
    "Batch",
    "BoundTask",
    "Examples",
    "Limits",
    "Metric",
    "Outcomes",
    "Score",
    "Splits",
    "Task",
    "TaskModel",
    "build",
    "check_keys",
    "check_one_trunk",
    "declared_in",
    "own_task",
    "trained_heads",
]

TASKS: Registry[type[Task]] = Registry(Task, "task kind", "saft.tasks")


def build(name: str, mapping: Mapping[str, Any], where: str, trusted: bool = True) -> Task:
    """Make the task that a YAML mapping declares.

    Args:
        name: the task's name, for messages; "" where the mapping stands at `where` itself, as in `task:`.
        mapping: the mapping below `tasks: NAME:`; `kind` chooses the file in saft/tasks.
        where: the dotted place of the tasks in the config, for example "tasks".
        trusted: the user wrote it. A mapping from a checkpoint folder is not trusted: it may name what saft
            has, but no code (`module:name`).

    Raises:
        UserError: the kind is unknown, or a key or value does not belong to it.

    Example:
        >>> build("news", {"kind": "text_clasification"}, "tasks")
        Traceback (most recent call last):
        saft.errors.UserError: tasks.news.kind: unknown task kind 'text_clasification'; did you mean ...
    """
    place = f"{where}.{name}".rstrip(".")
    if not isinstance(mapping, Mapping):
        raise UserError(f"{place}: must hold the keys of a task, but holds {mapping!r}")
    options = dict(mapping)
    kind = options.pop("kind", None)
    if kind is None:
        raise UserError(f"{place}.kind: is required, but missing; choose from: {', '.join(TASKS.names())}")
    if kind not in TASKS.names() and not (":" in str(kind) and trusted):
        outside = " (code from elsewhere is only taken from your own config: give `tasks:` there)"
        raise UserError(
            f"{place}.kind: unknown task kind '{kind}'{outside if ':' in str(kind) else ''}"
            + did_you_mean(str(kind), TASKS.names())
        )
    try:
        declared = TASKS.get(kind)
    except UserError as error:
        raise UserError(f"{place}.kind: {error}") from None
    task = config.parse(declared, options, "", place)
    if not trusted and (problem := task.distrusted()):
        raise UserError(f"{place}.{problem}; give `tasks:` in your own config if it is meant")
    return task


def check_keys(mappings: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Check what the kinds of several tasks know of their keys.

    Args:
        mappings: name -> the mapping below it, from the user's own config.
        where: the dotted place of the tasks in the config.

    Raises:
        UserError: with everything that is wrong.
    """
    problems: list[str] = []
    for name, mapping in mappings.items():
        with collecting(problems):
            build(name, mapping, where)
    if problems:
        raise UserError(*problems)


def trained_heads(mappings: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Sequence[int]]:
    """Return what is trained of the heads of tasks, in words -> its shape; see `Task.trained_head`.

    Args:
        mappings: name -> the mapping below it; `check_keys` finds nothing wrong in them.
        where: the dotted place of the tasks in the config.

    Example:
        >>> score = {"kind": "text_regression", "data": {"path": "csv", "text": "text", "label": "score"}}
        >>> trained_heads({"score": score}, "tasks")
        {'the weight of the head of tasks.score': (1, 1), 'the bias of the head of tasks.score': (1,)}
    """
    return {
        f"the {part} of the head of {f'{where}.{name}'.rstrip('.')}": shape
        for name, mapping in mappings.items()
        for part, shape in build(name, mapping, where).trained_head.items()
    }


def check_one_trunk(bound: Mapping[str, Mapping[str, BoundTask]]) -> None:
    """Check that tasks load a model in one way, so that one trunk can serve all.

    Args:
        bound: key of the config -> name -> task.

    Raises:
        UserError: two load it differently.
    """
    kinds = {f"{key}.{name}": task.trunk_kind for key, of in bound.items() for name, task in of.items()}
    first = next(iter(kinds), None)
    for place, kind in kinds.items():
        if first is not None and kind != kinds[first]:
            raise UserError(
                f"{place}: takes the model as {kind}, but {first} as {kinds[first]}, so their "
                "experts have no tensors of the same names to merge; run tasks of these kinds apart"
            )


def declared_in(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Return task name -> mapping, as the saft.json of a checkpoint folder declares them; {} without one.

    Raises:
        UserError: saft.json is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return {}
    tasks = read_manifest(folder).get("tasks", {})
    if not isinstance(tasks, dict) or not all(isinstance(mapping, dict) for mapping in tasks.values()):
        raise UserError(f"{folder / MANIFEST}: tasks: must hold name -> keys of a task, but holds {tasks!r}")
    return tasks


def own_task(model: str, folder: Path, cure: str) -> tuple[str, Task, str]:
    """Return the task of a checkpoint, as its saft.json says: that of the model's name, or the only one.

    Args:
        model: its name in the config.
        folder: of the checkpoint.
        cure: what the user may write where saft.json does not decide it.

    Returns:
        The task's name, the task, and its place, for messages.

    Raises:
        UserError: saft.json says no task, or several of other names; or it does not declare it well.
    """
    declared = declared_in(folder)
    if len(declared) != 1 and model not in declared:
        why = f"{len(declared)} tasks, none of them called '{model}'" if declared else "no task"
        raise UserError(f"{folder}/{MANIFEST} says {why}; {cure}")
    name, where = model if model in declared else next(iter(declared)), f"{folder}/{MANIFEST}: tasks"
    return name, build(name, declared[name], where, trusted=False), f"{where}.{name}"
