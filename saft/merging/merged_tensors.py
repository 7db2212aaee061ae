"""The tensors of a merge in memory: new ones, or those of a module that is filled in place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saft.errors import UserError, abbreviated, collecting
from saft.merging.inputs.class_names import names_in
from saft.merging.inputs.experts import views
from saft.merging.inputs.in_memory import tensors_of
from saft.merging.inputs.shared_memory import first_overlap
from saft.merging.inputs.tensor_names import rename
from saft.merging.plan import Plan
from saft.merging.stream import engine

__all__ = ["empty", "fill", "fill_in_place", "fitting", "merged_tensors"]


def merged_tensors(plan: Plan) -> dict[str, Tensor]:
    """Return the state dict of the result, each tensor on the base's device; tied ones are one.

    Args:
        plan: from `check`.

    Returns:
        Name -> tensor, in the base's shapes and the dtype of the merge.

    Raises:
        UserError: an input is not finite, or the result does not fit its dtype.
    """
    merged = empty(plan)
    fill(merged, plan)
    return merged


def empty(plan: Plan) -> dict[str, Tensor]:
    """Return the tensors of the result, without their numbers; those that are tied are one.

    Args:
        plan: from `check`.

    Returns:
        Name -> tensor, in the base's shapes and the dtype of the merge; of experts that the base has fused,
        the fused tensors and each expert's part of them.
    """
    fused = {}
    for name, header in plan.base.fused.items():
        part = next(iter(views(plan.base, {name: torch.empty(header.shape, device="meta")})))
        dtype, device = plan.layout[part][0], plan.base.tensor(part).device
        fused[name] = torch.empty(header.shape, dtype=dtype, device=device)
    tensors = views(plan.base, fused)
    for name, (dtype, shape) in plan.layout.items():
        if name not in tensors:
            tensors[name] = torch.empty(shape, dtype=dtype, device=plan.base.tensor(name).device)
    return fused | tensors | {name: tensors[other] for name, other in plan.base.tied.items()}


def fill(merged: Mapping[str, Tensor], plan: Plan) -> None:
    """Carry out the merge, into tensors that `empty` gave.

    Args:
        merged: name -> tensor to fill, in the base's shapes.
        plan: from `check`.

    Raises:
        UserError: an input is not finite, or the result does not fit its dtype.
    """
    for name in plan.layout:
        if name in plan.copied or not merged[name].numel():
            merged[name].copy_(engine.cast(name, plan.base.tensor(name), merged[name].dtype))
    flat, start, last = torch.empty(0), 0, ""
    for name, part in engine.weights(plan, device=plan.device):
        if name != last:
            flat, start, last = merged[name].view(-1), 0, name
        flat[start : start + part.numel()].copy_(part.reshape(-1))
        start += part.numel()


def fill_in_place(plan: Plan, to_fill: Mapping[str, Tensor]) -> None:
    """Carry out the merge, and fill tensors with it once it is complete.

    Args:
        plan: from `check`.
        to_fill: from `fitting`: name -> tensor, in the base's shapes.

    Raises:
        UserError: an input is not finite, the result does not fit its dtype, or two tensors to fill are one,
            where the merged ones differ. The tensors are as they were then.
    """
    merged = merged_tensors(plan)
    _refuse_shared(to_fill, merged)
    for name, tensor in to_fill.items():
        # Tensors that were made in inference mode change there only.
        with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
            tensor.copy_(merged[name])


def fitting(plan: Plan, out: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return name of a merged tensor -> the tensor to fill; tied ones too, where `out` has them.

    Args:
        plan: from `check`.
        out: to fill.

    Raises:
        UserError: a tensor is missing, or is of another shape or dtype than the merged one.
    """
    problems: list[str] = []
    with collecting(problems, "out: "):
        tensors = views(plan.base, tensors_of(out))
    if problems:
        raise UserError(*problems)
    stored = {**{name: name for name in plan.layout}, **plan.base.tied}
    names = rename(list(tensors), stored.keys())
    if not names.keys() >= plan.layout.keys():  # of a base in a folder, whose class may call them otherwise
        names = {own: name for name, own in names_in(plan.base, tensors).items()}
    missing = [name for name in plan.layout if name not in names]
    if missing:
        raise UserError(f"out: lacks {abbreviated(missing)}; give a module that is built like the base")
    to_fill = {name: tensors[names[name]] for name in stored if name in names}
    for name, tensor in to_fill.items():
        dtype, shape = plan.layout[stored[name]]
        if tuple(tensor.shape) != shape:
            raise UserError(f"out: '{name}' is {list(tensor.shape)}, the merged one {list(shape)}")
        if tensor.dtype != dtype:
            mine, other = (str(x).removeprefix("torch.") for x in (tensor.dtype, dtype))
            raise UserError(f"out: '{name}' is {mine}, the merged one {other}; write dtype='{mine}'")
    _refuse_overlaps(plan, to_fill)
    return to_fill


def _refuse_overlaps(plan: Plan, to_fill: Mapping[str, Tensor]) -> None:
    """Refuse tensors of which one changes where another is filled: a second one to fill, or an input's.

    As a whole a tensor may be an input's too.
    """
    read: dict[str, Tensor] = {}
    for what, source in {"base": plan.base, **{f"models.{x}": y for x, y in plan.models.items()}}.items():
        for name, header in source.headers.items():
            if header.stored is not None:
                read[f"{what}: {name}"] = header.stored
    pair = first_overlap(to_fill, read)
    if pair is None:
        return
    one, other = pair if pair[0] in to_fill else pair[::-1]
    if one == other:
        raise UserError(f"out: '{one}': is expanded, entries of it are one; give tensor.contiguous()")
    raise UserError(
        f"out: '{one}' and '{other}' share a part of their memory, where each would write over the other; "
        "give tensors that lie apart: tensor.clone()"
    )


def _refuse_shared(to_fill: Mapping[str, Tensor], merged: Mapping[str, Tensor]) -> None:
    """Refuse tensors to fill that are one, where the merged ones differ."""
    first: dict[tuple[int, torch.device], str] = {}
    for name, tensor in to_fill.items():
        other = first.setdefault((tensor.data_ptr(), tensor.device), name)
        if other != name and tensor.numel() and not merged[name].equal(merged[other]):
            raise UserError(
                f"out: '{other}' and '{name}' are one tensor, and two in the merge; give a module that is "
                "built like the base"
            )
