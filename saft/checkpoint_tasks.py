"""The task that a checkpoint is for: the one that the user gives, or the one that its saft.json declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saft import tasks
from saft.errors import UserError
from saft.files.checkpoint import MANIFEST
from saft.model_config import ModelConfig
from saft.tasks import BoundTask

__all__ = ["task_of"]


def task_of(name: str, folder: Path, given: Mapping[str, Mapping[str, Any]], device: str) -> BoundTask:
    """Return the task of a checkpoint, bound to it.

    Args:
        name: of the checkpoint.
        folder: of the checkpoint.
        given: name -> keys of a task, from the user's config under `tasks`; these go first.
        device: where trunks and heads are put.

    Raises:
        UserError: neither says which task it is, its data are not there, or it does not fit the checkpoint.
    """
    task_name, where, mapping = name, "tasks", given.get(name)
    if mapping is None:
        declared = tasks.declared_in(folder)
        if len(declared) != 1 and name not in declared:
            why = f"{len(declared)} tasks, none of them called '{name}'" if declared else "no task"
            raise UserError(f"{folder}/{MANIFEST} says {why}; give tasks: {{{name}: {{...}}}}")
        task_name = name if name in declared else next(iter(declared))
        mapping, where = dict(declared[task_name]), f"{folder}/{MANIFEST}: tasks"
    task, place = tasks.build(task_name, mapping, where, trusted=where == "tasks"), f"{where}.{task_name}"
    task.check(place)
    return task.bind(task_name, ModelConfig(str(folder)), place, device)
