"""What is right in a merge, but may not be meant: printed with the plan, before anything is computed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saft.errors import Note, abbreviated, did_you_mean
from saft.files.side_files import custom_code
from saft.files.tensorfile import TensorHeader
from saft.merging.inputs.alignment import beside_tower
from saft.merging.inputs.config_differences import config_notes
from saft.merging.inputs.factors import Factors
from saft.merging.inputs.same_numbers import equal_numbers, same_numbers
from saft.merging.inputs.source import Source
from saft.merging.plan import Plan

__all__ = ["identical", "identical_notes", "notes", "warn_of", "whole_numbers"]

_COMPARED = 256 * 2**20
"""Bytes of whole numbers that are read to compare them, of all models together."""
_NO_BASE = ("linear", "slerp", "karcher")
"""Methods to which the base is a model as any other."""
_COUNTED = "num_batches_tracked"
"""How many batches a batch norm has seen: other numbers in every training, on which no output depends."""


def notes(plan: Plan) -> Iterator[str]:
    """Yield what a user may not have meant, one note each.

    Args:
        plan: from `check`.
    """
    yield from identical_notes(plan, _COMPARED)
    for task, model in plan.models.items():
        yield from config_notes(f"models.{task}", plan.base, model)
    if beside := beside_tower(plan.base, plan.models.values()):
        yield (
            f"the models are a tower of {plan.base.location}; {abbreviated(sorted(beside))}, which they do "
            "not have, are the base's own"
        )
    yield from whole_numbers(plan)
    yield from _digits_lost(plan)
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


def _digits_lost(plan: Plan) -> Iterator[str]:
    """Yield which weights are read and written in more digits than are computed with."""
    headers, kept = plan.base.headers, plan.arithmetic.itemsize
    finer = [x for x in plan.merged if min(headers[x].dtype.itemsize, plan.layout[x][0].itemsize) > kept]
    if finer:
        yield (
            f"{abbreviated(finer)}: of float64, of which float32 keeps seven digits, also where no model has "
            "changed a weight; write arithmetic: float64 to keep all"
        )


def identical_notes(plan: Plan, most: float = math.inf) -> Iterator[str]:
    """Yield that models are the base, or each other.

    Args:
        plan: from `check`.
        most: bytes that are read of a model; see `identical`.
    """
    same, alike = identical(plan, most)
    if same and plan.config.method not in _NO_BASE and plan.parameters.get("center") != "zero":
        yield f"{abbreviated(same)} is the base itself: a task vector of zeros, counted as a task"
    for models in alike:
        yield f"{abbreviated(models)} are one and the same model, which counts {len(models)} times"


def identical(plan: Plan, most: float = math.inf) -> tuple[list[str], list[list[str]]]:
    """Return the models that are the base, and those that are each other, in groups: number by number.

    Two are compared from the smallest tensor on until one differs, as one soon does where they are different.

    Args:
        plan: from `check`.
        most: bytes that are read of a model to compare it with another; where these are all the same and
            there are more, the two count as different, unless they are the same files.
    """
    names = sorted(plan.merged, key=lambda name: plan.base.headers[name].nbytes)
    groups: list[tuple[Source, list[str]]] = [(plan.base, [])]
    for task, model in plan.models.items():
        same = next((own for other, own in groups if _same(names, plan, other, model, most)), None)
        groups.append((model, [task])) if same is None else same.append(task)
    (_, of_base), *others = groups
    return of_base, [own for _, own in others if len(own) > 1]


def _same(names: Iterable[str], plan: Plan, other: Source, model: Source, most: float) -> bool:
    base, earlier = plan.base, {one.name for one in plan.earlier}
    if model.files and _files(model) == _files(other):
        return True
    if earlier & {source.location.partition("+")[0] for source in (model, other)}:
        return False  # in a check their numbers are not there yet, and the base's stand for them
    for name in names:
        changing = [
            source for source in (model, other) if source is not base and not source.keeps(name, base)
        ]
        products = [factors for source in changing if (factors := source.factors(name, base)) is not None]
        if len(products) == len(changing):  # of adapters, which are not multiplied out
            if not _alike(products):
                return False
            continue
        most -= base.headers[name].nbytes
        if most < 0:
            return False
        if not equal_numbers(model.tensor(name).detach(), other.tensor(name).detach()):
            return False
    return True


def _alike(products: Sequence[Factors]) -> bool:
    """Return whether what is added to a tensor of the base, by some of two models, is the same."""
    adding = [one for one in products if one.scale and one.up.any() and one.down.any()]
    if len(adding) < 2:
        return not adding
    mine, its = adding
    return mine.scale == its.scale and mine.up.equal(its.up) and mine.down.equal(its.down)


def whole_numbers(plan: Plan) -> Iterator[str]:
    """Yield where the models' whole numbers and booleans are not the base's, which stay.

    The small ones are read first, up to 256 MiB of all models; of the others it is said that they were not.

    Args:
        plan: from `check`.
    """
    ours = plan.base.headers
    changed, unread, left = [], [], _COMPARED
    whole = (name for name in plan.copied if _is_whole(ours[name]) and not name.endswith(_COUNTED))
    for name in sorted(whole, key=lambda name: ours[name].nbytes):
        models = [
            model
            for model in plan.models.values()
            if name in model.headers and not model.keeps(name, plan.base)
        ]
        shapes_differ = any(model.headers[name].shape != ours[name].shape for model in models)
        left -= 0 if shapes_differ else sum(model.headers[name].nbytes for model in models)
        if not shapes_differ and left < 0:
            unread += [name] if models else []
        elif shapes_differ or not all(same_numbers(name, plan.base, model) for model in models):
            changed.append(name)
    if changed:
        yield (
            f"{abbreviated(changed)}: of whole numbers or booleans, which are not merged; the models' differ "
            "from the base's, which stay"
        )
    if unread:
        yield (
            f"{abbreviated(unread)}: of whole numbers or booleans, which are not merged; the base's stay and "
            f"are not compared with the models', since those are more than {_COMPARED >> 20} MiB"
        )


def warn_of(plan: Plan) -> None:
    """Warn of what `whole_numbers` tells, for a merge in memory: where it was called from.

    Args:
        plan: of the merge; the function that the user has called calls this one.
    """
    for note in whole_numbers(plan):
        warnings.warn(note, Note, stacklevel=3)


def _is_whole(header: TensorHeader) -> bool:
    """Return whether a tensor holds whole numbers or booleans."""
    return not (header.dtype.is_floating_point or header.dtype.is_complex)


def _files(model: Source) -> tuple[Path, ...]:
    """Return where the files of a model really lie: one folder can be written in many ways."""
    return tuple(file.resolve() for file in model.files)


def _filters(setting: Any) -> set[str]:
    """Return the parts of names that a setting, or any in a list of settings, filters by."""
    if isinstance(setting, Mapping):
        part = setting.get("filter")
        return {part} if isinstance(part, str) and part != "*" else set()
    return set().union(*map(_filters, setting)) if isinstance(setting, (list, tuple)) else set()
