"""A merge of models in memory: modules, state dicts and adapters, by the engine that merges folders."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import torch
from torch import Tensor, nn

from saft.errors import UserError, as_user_error, did_you_mean
from saft.merging.inputs.in_memory import OneAdapter, adapter_in_memory, has_adapters, in_memory, tensors_of
from saft.merging.inputs.peft_adapter import read_input
from saft.merging.inputs.source import Source
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.merged_tensors import empty, fill, fill_in_place, fitting
from saft.merging.methods import METHODS
from saft.merging.notes import warn_of
from saft.merging.per_task import PerTaskMethod
from saft.merging.plan import Plan

__all__ = ["Model", "by_task", "merge_models", "plan_of"]

Model: TypeAlias = nn.Module | Mapping[str, Tensor] | OneAdapter | str | Path
M = TypeVar("M", bound="nn.Module | dict[str, Tensor]")
T = TypeVar("T")

Models: TypeAlias = Mapping[str, Model] | Sequence[Model]

_OF_A_FOLDER = ("adapter_rank", "interventions", "output", "shard_size", "upload")


@overload
def merge_models(base: Model, models: Models, method: str, *, out: M, **options: Any) -> M: ...
@overload
def merge_models(base: M, models: Models, method: str, *, out: None = None, **options: Any) -> M: ...
@overload
def merge_models(base: Model, models: Models, method: str, *, out: None = None, **options: Any) -> Any: ...


def merge_models(
    base: Model,
    models: Models,
    method: str,
    *,
    out: nn.Module | dict[str, Tensor] | None = None,
    **options: Any,
) -> Any:
    r"""Merge fine-tuned models of one base that are in memory, without a file.

    .. math:: \theta = \theta_0 + \lambda\, m(\tau_1, \dots, \tau_K), \qquad \tau_t = \theta_t - \theta_0

    Everything is checked before anything is computed. The engine is that of `saft.merge`, so are the bits on
    a CPU; it works where the base lies, on the CPU or a GPU. The inputs stay as they are.

    Args:
        base: the base model: a module, a state dict, or a folder, which is read tensor by tensor.
        models: the fine-tuned ones, as {task: model} or as a list; the order is the order of summation. Each
            is a module, a state dict, a folder, or a model of peft's, of which the active adapter counts.
        method: name of a merge method that gives one model; `saft methods` lists them.
        out: a module or a state dict, of the base's shapes, to fill in place, once the merge is complete; it
            may be one of the inputs. Its names may differ by a prefix, and it may have further tensors.
        **options: further keys of a merge file, such as `parameters`, `scaling`, `exclude`, `seed`, `lines`,
            `dtype` ("bfloat16" or torch.bfloat16 ...) or `device`; see `MergeConfig`.

    Returns:
        `out`, if given. Else of a base that is a module its copy with the merged weights, on the base's
        device; of any other base a state dict.

    Raises:
        UserError: with every problem that was found. `out` is as it was then.

    Warns:
        Note: of whole numbers that differ, and stay the base's.

    Example:
        >>> base, a, b = (nn.Linear(1, 1, bias=False) for _ in range(3))
        >>> for model, weight in ((base, 1.0), (a, 2.0), (b, 1.5)):
        ...     _ = nn.init.constant_(model.weight, weight)
        >>> merge_models(base, {"a": a, "b": b}, "task_arithmetic", scaling=1.0).weight.item()
        2.5
    """
    plan = plan_of(base, models, method, options)
    if out is not None:
        to_fill = fitting(plan, out)
        warn_of(plan)
        fill_in_place(plan, to_fill)
        return out
    if has_adapters(base):
        raise UserError(
            "base: holds adapters, which would stay on the merged weights; saft.integrations.peft merges them"
        )
    warn_of(plan)
    merged = empty(plan)
    copied: nn.Module | None = None
    if isinstance(base, nn.Module):  # before the merge: not all modules can be copied
        with as_user_error("base: cannot be copied; give a module to fill as out, or base.state_dict()"):
            copied = _copy_with(base, merged)
    fill(merged, plan)
    return merged if copied is None else copied


def by_task(models: Mapping[str, T] | Sequence[T], what: str = "models") -> dict[str, T]:
    """Return task -> model; those of a list are called by their places, from 1.

    Args:
        models: as for `merge_models`.
        what: they are called in messages.

    Raises:
        UserError: it is a single model, or none.

    Example:
        >>> by_task(["one", "two"])
        {'1': 'one', '2': 'two'}
        >>> by_task(nn.Sequential(nn.Linear(1, 1)))
        Traceback (most recent call last):
        saft.errors.UserError: models: is a single model, a Sequential; give [model], or {task: model}
    """
    given: object = models  # whatever the user has written
    is_state = isinstance(given, Mapping) and any(isinstance(entry, Tensor) for entry in given.values())
    if is_state or isinstance(given, nn.Module | OneAdapter | str | Path):
        kind = "state dict" if is_state else type(given).__name__
        raise UserError(f"{what}: is a single model, a {kind}; give [model], or {{task: model}}")
    if isinstance(given, Tensor) or not isinstance(given, Iterable):
        raise UserError(f"{what}: is {given!r:.60}; give {{task: model}}, or a list of models")
    return dict(models) if isinstance(models, Mapping) else {str(at): x for at, x in enumerate(models, 1)}


def plan_of(
    base: Model,
    models: Models,
    method: str,
    options: Mapping[str, Any],
    adapter_rank: int | None = None,
) -> Plan:
    """Return the plan of a merge of models in memory, once all that can be wrong has been looked for.

    Args:
        base: see `merge_models`, as for the others.
        models: the fine-tuned ones.
        method: its name.
        options: further keys of a merge file.
        adapter_rank: of the adapter that the caller makes of the plan; None is for whole weights.

    Raises:
        UserError: with every problem that was found.
    """
    if problems := list(_not_here(method, options)):
        raise UserError(*problems)
    given = by_task(models)
    named: dict[str, Model] = {"base": base, **{f"models.{task}": model for task, model in given.items()}}

    def read(location: str, what: str, base: Source | None) -> Source:
        return _source(named[what], what, base)

    locations = {what: _location(model) for what, model in named.items()}
    settings = {"device": _device(base), **options, "adapter_rank": adapter_rank}
    settings |= {
        key: str(value).removeprefix("torch.")
        for key, value in settings.items()
        if isinstance(value, torch.dtype | torch.device)
    }
    config = MergeConfig(
        method, locations["base"], {task: locations[f"models.{task}"] for task in given}, **settings
    )
    return check(config, read=read)


def _not_here(method: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what no merge does, and what only one of folders does."""
    of_method: list[str] = []
    with suppress(UserError):  # there is no such method: `check` tells it, with all else that is wrong
        kind = METHODS.get(method)
        of_method = [item.name for item in kind.parameter_infos()]
        if kind.calibration or issubclass(kind, PerTaskMethod):
            why = "reads examples of each task" if kind.calibration else "gives more than one model"
            yield (
                f"method: '{method}' {why}; merge folders by it, with saft.merge, or take a method that "
                "`saft methods` lists under 'Needs base, models; gives one model', such as ties"
            )
    known = [item.name for item in dataclasses.fields(MergeConfig)]
    keys = [key for key in known if key not in ("method", "base", "models", *_OF_A_FOLDER)]
    for key in options:
        if key in of_method and key not in known:
            yield f"{key}: is a parameter of {method}; write parameters={{'{key}': {options[key]!r:.40}}}"
        elif key not in known:
            yield f"{key}: unknown key{did_you_mean(key, keys)}"
    for key in _OF_A_FOLDER:
        if options.get(key) is not None:
            or_else = ", or an adapter with saft.integrations.peft" if key == "adapter_rank" else ""
            yield f"{key}: is of a folder, and here is none; write one with saft.merge{or_else}"


def _source(model: Model, what: str, base: Source | None) -> Source:
    if isinstance(model, (str, Path)):
        return read_input(str(model), what, base)
    if isinstance(model, OneAdapter):
        if base is None:
            raise UserError("is an adapter; give the model below it")
        return adapter_in_memory(model.model, model.name, base)
    if base is not None and isinstance(model, nn.Module) and has_adapters(model):
        return adapter_in_memory(model, None, base)
    return in_memory(model, is_base=base is None)


def _location(model: Model) -> str:
    return str(model) if isinstance(model, (str, Path)) else f"<{type(model).__name__} in memory>"


def _device(base: Model) -> torch.device:
    """Return where the base is, on which it is merged."""
    held: Iterable[Any] = ()
    if isinstance(base, nn.Module):
        held = chain(base.parameters(), base.buffers())
    elif isinstance(base, Mapping):
        held = base.values()
    tensors = (tensor for tensor in held if isinstance(tensor, Tensor))  # what else there is `check` tells
    return next((x.device for x in tensors if x.device.type == "cuda"), torch.device("cpu"))


def _copy_with(base: nn.Module, merged: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a module that has the merged tensors in the place of its own, which are not copied."""
    taken: dict[int, Any] = {}
    for name, tensor in tensors_of(base).items():
        is_parameter = isinstance(tensor, nn.Parameter)
        new = nn.Parameter(merged[name], tensor.requires_grad) if is_parameter else merged[name]
        taken[id(tensor)] = new
    copied = copy.deepcopy(base, taken)
    for name, tensor in tensors_of(copied).items():
        if tensor.data_ptr() != merged[name].data_ptr():  # of a module that copies itself in a way of its own
            tensor.data = merged[name]
    return copied
