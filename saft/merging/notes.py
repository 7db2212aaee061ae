"""What is right in a merge, but may not be meant: printed with the plan, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saft.errors import abbreviated, did_you_mean
from saft.files.side_files import custom_code
from saft.merging.inputs.alignment import beside_tower, same_numbers
from saft.merging.inputs.config_differences import config_notes
from saft.merging.inputs.source import Source
from saft.merging.plan import Plan

__all__ = ["notes"]


def notes(plan: Plan) -> Iterator[str]:
    """Yield what a user may not have meant, one note each.

    Args:
        plan: from `check`.
    """
    same = [task for task, model in plan.models.items() if _files(model) == _files(plan.base)]
    if same:
        yield f"{abbreviated(same)} is the base itself: a task vector of zeros, counted as a task"
    tasks: dict[tuple[Path, ...], list[str]] = {}
    for task, model in plan.models.items():
        tasks.setdefault(_files(model), []).append(task)
    for alike in tasks.values():
        if len(alike) > 1 and alike != same:
            yield f"{abbreviated(alike)} are one and the same model, which counts {len(alike)} times"
    for task, model in plan.models.items():
        yield from config_notes(f"models.{task}", plan.base, model)
    if beside := beside_tower(plan.base, plan.models.values()):
        yield (
            f"the models are a tower of {plan.base.location}; {abbreviated(sorted(beside))}, which they do "
            "not have, are the base's own"
        )
    changed = [name for name in plan.copied if _is_whole(plan, name) and not _is_same_in_all(plan, name)]
    if changed:
        yield (
            f"{abbreviated(changed)}: of whole numbers or booleans, which are not merged; the models' differ "
            "from the base's, which stay"
        )
    code = custom_code(plan.base.folder)
    if code and plan.output.is_model:
        yield (
            f"{plan.base.location} has code of its own ({', '.join(code)}), which is not copied, nor named "
            "in the result; copy it by hand if the model cannot be loaded without it"
        )
    for parameter, setting in plan.config.varying.items():
        for part in sorted(_filters(setting)):
            if not any(part in name for name in plan.merged):
                near = did_you_mean(part, {piece for name in plan.merged for piece in name.split(".")})
                yield f"varying.{parameter}: the filter '{part}' matches no tensor{near}"


def _is_whole(plan: Plan, name: str) -> bool:
    """Return whether a tensor holds whole numbers or booleans."""
    dtype = plan.base.headers[name].dtype
    return not (dtype.is_floating_point or dtype.is_complex)


def _is_same_in_all(plan: Plan, name: str) -> bool:
    """Return whether a tensor is the base's in every model that has it."""
    models = (model for model in plan.models.values() if name in model.headers)
    return all(same_numbers(name, plan.base, model) for model in models)


def _files(model: Source) -> tuple[Path, ...]:
    """Return where the files of a model really lie: one folder can be written in many ways."""
    return tuple(file.resolve() for file in model.files)


def _filters(setting: Any) -> set[str]:
    """Return the parts of names that a setting, or any in a list of settings, filters by."""
    if isinstance(setting, Mapping):
        part = setting.get("filter")
        return {part} if isinstance(part, str) and part != "*" else set()
    return set().union(*map(_filters, setting)) if isinstance(setting, (list, tuple)) else set()
