"""From parameter groups to the slots of an ascent step, with every oddity of parameters and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from saft.errors import UserError
from saft.optim.ascent_options import AscentOptions, LowPrecision
from saft.optim.memory import Memory
from saft.optim.parameter_groups import ParameterGroups
from saft.optim.perturbations.base import Perturbation
from saft.optim.slots import Label, Layout, Slot

__all__ = ["gradient_slots", "has_replicas", "make_slots"]


def make_slots(
    groups: ParameterGroups,
    parameters: Sequence[Tensor],
    perturbation: Perturbation,
    memory: Memory,
    modules: Sequence[nn.Module],
    options: AscentOptions,
) -> list[Slot]:
    """Return the slots of those parameters that a perturbation selects.

    Args:
        groups: where the parameters are from.
        parameters: those to perturb, of any shape, with gradients if epsilon comes from the gradient; these
            give up their memory.
        perturbation: the recipe.
        memory: what the perturbation remembers, per parameter.
        modules: where the names of parameters are looked up.
        options: what to do with weights stored in 16 bits or fewer, and whether parameters may be pointed
            elsewhere.

    Raises:
        UserError: no gradient, nothing selected, no names, low precision, or an unusable sparse gradient.
    """
    if not parameters:
        raise UserError(
            "there is no gradient to ascend along: call backward() before perturbed() or first_step()"
        )
    labels = _labels(groups.current, modules) if perturbation.needs_labels else {}
    slots = []
    for parameter in parameters:
        label = _label(parameter, labels, perturbation)
        if perturbation.selects(label):
            gradient = parameter.grad if perturbation.replays else None
            slot = _slot(parameter, gradient, label, options, perturbation.shifts_in_place)
            if slot.rows is not None and (perturbation.has_memory or perturbation.uses_first_gradient):
                raise UserError(_sparse(parameter, label))
            slot.memory = memory.setdefault(parameter, {}) if perturbation.has_memory else {}
            slot.optimizer_state = groups.state_of(parameter)
            slots.append(slot)
    if not slots:
        raise UserError(
            f"{type(perturbation).__name__} selects none of the {len(parameters)} parameters with a gradient;"
            " train others, or take another perturbation"
        )
    return slots


def gradient_slots(
    groups: ParameterGroups, perturbation: Perturbation, memory: Memory, modules: Sequence[nn.Module]
) -> list[Slot]:
    """Return slots whose buffers are the gradients themselves, for writing the descent gradient.

    Args:
        groups: where the parameters are from; those without a gradient are passed over.
        perturbation, memory, modules: as of `make_slots`.

    Raises:
        UserError: a sparse gradient.
    """
    labels = _labels(groups.current, modules) if perturbation.needs_labels else {}
    slots = []
    for parameter in groups.trainable:
        gradient = parameter.grad
        if gradient is None:
            continue
        label = _label(parameter, labels, perturbation)
        if gradient.layout is not torch.strided:
            raise UserError(_sparse(parameter, label))
        weight, layout = _local(parameter)
        buffer = gradient if layout is None else gradient.to_local()  # type: ignore[attr-defined]
        if weight.is_complex():
            weight, buffer = torch.view_as_real(weight), torch.view_as_real(buffer)
        kept = memory.setdefault(parameter, {})
        slots.append(Slot(parameter, weight, buffer, label, memory=kept, layout=layout))
    return slots


def _labels(groups: Iterable[Mapping[str, Any]], modules: Iterable[nn.Module]) -> dict[int, Label]:
    """Return id(parameter) -> label, from the modules and from groups that were made of named parameters."""
    labels: dict[int, Label] = {}
    for module in modules:
        for prefix, layer in module.named_modules():
            for name, parameter in layer.named_parameters(prefix=prefix, recurse=False):
                labels.setdefault(id(parameter), Label(name, type(layer).__name__))
    for group in groups:
        for parameter, name in zip(group["params"], group.get("param_names", ()), strict=False):
            labels.setdefault(id(parameter), Label(name))
    return labels


def _label(parameter: Tensor, labels: Mapping[int, Label], perturbation: Perturbation) -> Label:
    if not perturbation.needs_labels:
        return Label()
    if id(parameter) not in labels:
        raise UserError(
            f"{type(perturbation).__name__} goes by names, and {_called(Label(), parameter)} has none: pass"
            " the model too (SAM: `model=`, Ascent: `modules=`), or make the base optimizer from"
            " `model.named_parameters()`"
        )
    return labels[id(parameter)]


def _slot(
    parameter: Tensor,
    gradient: Tensor | None,
    label: Label,
    options: AscentOptions,
    shifts_in_place: bool,
) -> Slot:
    """Return the slot of one parameter; without a gradient its buffer is new and not initialized."""
    movable = not options.fixed_storage and _is_plain(parameter) and _owns_its_storage(parameter)
    weight, layout = _local(parameter)
    rows = None
    if gradient is None:
        buffer = weight if shifts_in_place else torch.empty_like(weight)
    elif gradient.layout is not torch.strided:
        gradient = gradient.coalesce()
        if gradient.sparse_dim() != 1:
            raise UserError(
                f"{_called(label, parameter)}: a sparse gradient over {gradient.sparse_dim()} dimensions"
                " cannot be perturbed, only one over rows (a sparse embedding's): use a dense gradient here"
            )
        rows, movable = gradient.indices()[0], False
        weight, buffer = weight.index_select(0, rows), gradient.values()
    else:
        buffer = _local_gradient(gradient, layout)
        # Memory that others look at (a bucket of DDP, a gradient somebody keeps) is not ours to overwrite.
        if buffer.stride() != weight.stride() or not _owns_its_storage(buffer):
            buffer = torch.empty_like(weight, dtype=buffer.dtype).copy_(buffer)
    if weight.is_complex():
        weight, buffer, movable = torch.view_as_real(weight), torch.view_as_real(buffer), False
    if weight.element_size() < 4:
        if options.low_precision == "refuse" or not movable or shifts_in_place or has_replicas():
            raise UserError(_low_precision(label, parameter, options.low_precision))
        weight = weight.float()
    return Slot(parameter, weight, buffer.to(weight.dtype), label, layout=layout, rows=rows, movable=movable)


def _local(parameter: Tensor) -> tuple[Tensor, Layout | None]:
    """Return this rank's part of a parameter, as an alias, and how the parts make up the whole."""
    if not hasattr(parameter, "to_local"):
        return parameter.detach(), None
    sharded: Any = parameter
    return sharded.to_local().detach(), Layout(sharded.device_mesh, tuple(sharded.placements))


def _local_gradient(gradient: Tensor, layout: Layout | None) -> Tensor:
    if layout is None:
        return gradient
    sharded: Any = gradient
    local: Tensor = sharded.redistribute(layout.mesh, layout.placements).to_local()
    return local


def _is_plain(parameter: Tensor) -> bool:
    return type(parameter) in (Tensor, nn.Parameter) and parameter.layout is torch.strided


def _owns_its_storage(tensor: Tensor) -> bool:
    """Return whether nothing else uses the memory of a tensor: no view, bucket or alias."""
    storage = tensor.untyped_storage()
    if storage.nbytes() != tensor.numel() * tensor.element_size():
        return False
    count = getattr(torch._C, "_storage_Use_Count", None)
    # Two users: the tensor, and the Python storage just made.
    return count is None or count(storage._cdata) <= 2


def _sparse(parameter: Tensor, label: Label) -> str:
    return f"{_called(label, parameter)} has a sparse gradient; this perturbation needs dense ones"


def has_replicas() -> bool:
    """Return whether other processes train copies of the model."""
    # DDP hangs its reduction on the parameter's node in the graph, and a change of type makes a new node.
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _called(label: Label, parameter: Tensor) -> str:
    return f"parameter '{label.name}'" if label.name else f"a parameter of shape {tuple(parameter.shape)}"


def _low_precision(label: Label, parameter: Tensor, low_precision: LowPrecision) -> str:
    stored = str(parameter.dtype).removeprefix("torch.")
    fault = f"{_called(label, parameter)} is stored in {stored}, where most of the perturbation rounds away: "
    if low_precision == "refuse":
        return fault + (
            "keep the weights in float32 and compute under torch.autocast, or pass low_precision='float32'"
            " to replay on float32 copies"
        )
    return fault + (
        "low_precision='float32' points the parameter at a float32 copy, which this one does not allow"
        " (fixed_storage, in_place, DDP, FSDP, sparse or complex): keep the weights in float32 and compute"
        " under torch.autocast"
    )
