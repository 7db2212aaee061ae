"""The task that a checkpoint is for: the one that the user gives, or the one that its saft.json declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saft import tasks
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
    if name in given:
        task_name, task, place = name, tasks.build(name, given[name], "tasks"), f"tasks.{name}"
    else:
        task_name, task, place = tasks.own_task(name, folder, f"give tasks: {{{name}: {{...}}}}")
    task.check(place)
    return task.bind(task_name, ModelConfig(str(folder)), place, device)
