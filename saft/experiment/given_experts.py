"""An arm whose experts are given and not trained: where they are, and whether they fit base and tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from saft.errors import UserError, collecting, did_you_mean
from saft.files.checkpoint import weight_files
from saft.files.fingerprints import fingerprint
from saft.files.locations import folder as local_folder
from saft.merging.inputs import peft_adapter
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.tasks import Task
from saft.tasks.heads import head_file

__all__ = ["check_experts", "content", "expert_folders", "given_experts"]


def given_experts(arm: str, keys: Mapping[str, Any], tasks: Collection[str]) -> dict[str, str] | None:
    """Return task -> location of the experts that an arm gives; None where it trains them.

    Args:
        arm: its name in the config.
        keys: what the config says of it.
        tasks: names of the tasks.

    Raises:
        UserError: a task has no expert, an expert has no task, or the arm trains as well.

    Example:
        >>> given_experts("published", {"experts": {"maths": "org/maths"}}, ["math"])
        Traceback (most recent call last):
        saft.errors.UserError: arms.published.experts.maths: there is no task 'maths'; did you mean 'math'?...
    """
    if "experts" not in keys:
        return None
    place, given = f"arms.{arm}.experts", keys["experts"]
    if not isinstance(given, Mapping) or not all(isinstance(where, str) for where in given.values()):
        raise UserError(f"{place}: must hold the folder or hub id of each task's expert, but is {given!r}")
    problems = [
        f"{place}.{task}: there is no task '{task}'{did_you_mean(str(task), tasks)}"
        for task in given
        if task not in tasks
    ]
    if missing := [task for task in tasks if task not in given]:
        problems.append(f"{place}: lacks an expert of {', '.join(missing)}; give its folder or hub id")
    problems += [
        f"arms.{arm}.{key}: experts that are given are not trained; leave it out, or `experts`"
        for key in keys
        if key not in ("description", "experts")
    ]
    if problems:
        raise UserError(*problems)
    return {task: given[task] for task in tasks}


def expert_folders(given: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Path]]:
    """Return arm -> task -> the folder of its expert; those on the hub are fetched.

    Args:
        given: arm -> task -> location.

    Raises:
        UserError: with every one that is not there.
    """
    problems: list[str] = []
    folders: dict[str, dict[str, Path]] = {arm: {} for arm in given}
    for arm, experts in given.items():
        for task, location in experts.items():
            with collecting(problems):
                folders[arm][task] = local_folder(location, f"arms.{arm}.experts.{task}")
    if problems:
        raise UserError(*problems)
    return folders


def check_experts(
    arm: str, folders: Mapping[str, Path], base: str, tasks: Mapping[str, Task], merges: Mapping[str, Any]
) -> None:
    """Check, by configs and headers alone, that given experts merge, and that their tasks have heads.

    Args:
        arm: its name.
        folders: task -> folder of the expert.
        base: location of the pretrained model.
        tasks: those of the experiment, as they are declared.
        merges: method -> its parameters.

    Raises:
        UserError: with everything that does not fit.
    """
    place = f"arms.{arm}.experts"
    problems = [
        f"{place}.{task}: {folder} has no {head_file(Path(), task)}, and the head of task '{task}' is a "
        "trained one; take a frozen head, or experts that saft has trained"
        for task, folder in folders.items()
        if tasks[task].trained_head and not head_file(folder, task).is_file()
    ]
    adapters = {name: of for name, of in merges.items() if METHODS.get(name).needs_adapters}
    models = {task: str(folder) for task, folder in folders.items()}
    for method, parameters in {"average": {}, **adapters}.items():
        try:
            check(MergeConfig(method, base, models, parameters=parameters))
        except UserError as error:
            problems += (f"{place}{text.removeprefix('models')}" if text.startswith("models.") else text
                         for text in error.problems)  # fmt: skip
    if problems:
        raise UserError(*dict.fromkeys(problems))


def content(folder: Path) -> str:
    """Return the digest of what an expert is, whichever files hold it, and wherever they lie.

    Args:
        folder: of a checkpoint, or of an adapter.

    Raises:
        UserError: it holds neither.
    """
    files = (
        [folder / peft_adapter.CONFIG, *sorted(folder.glob("adapter_model.*"))]
        if peft_adapter.is_adapter(folder)
        else weight_files(folder)
    )
    heads = sorted(folder.glob("heads/*.safetensors"))
    return hashlib.sha256(json.dumps([fingerprint(file) for file in [*files, *heads]]).encode()).hexdigest()
