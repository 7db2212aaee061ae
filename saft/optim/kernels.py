"""The arithmetic of an ascent step over lists of tensors: few passes over memory, no waiting for a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "TensorBlock",
    "ascend_",
    "bits",
    "blocks",
    "clear_unless_",
    "dot",
    "magnitudes",
    "norm",
    "norm_of_norms",
    "pieces",
    "safe_ratio",
]

# Temporaries of this many elements stay in a CPU's cache, and are not faulted in at every use.
_CPU_BLOCK = 1 << 18
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class TensorBlock(NamedTuple):
    """Parallel lists of tensors on one device: w, what becomes w + epsilon, and room for temporaries."""

    weights: list[Tensor]
    buffers: list[Tensor]
    room: Tensor | None

    def scratch(self) -> list[Tensor]:
        """Return uninitialized temporaries in the shapes of the weights."""
        if self.room is None:
            return [torch.empty_like(weight) for weight in self.weights]
        sizes = [weight.numel() for weight in self.weights]
        return list(torch.split(self.room[: sum(sizes)], sizes))


def norm(tensors: Sequence[Tensor]) -> Tensor:
    r"""Return $\|x\|_2$ over all tensors as a 0-dim tensor on the device of the first.

    On a CPU, long tensors are summed in pieces: one float32 sum over 10^7 squares is off by 2e-4, over 10^9
    by far more.

    Example:
        >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5.)
    """
    return norm_of_norms(torch._foreach_norm([piece for tensor in tensors for piece in _pieces(tensor)]))


def norm_of_norms(norms: Sequence[Tensor]) -> Tensor:
    """Return the norm over what some norms were taken of, on the device of the first.

    Example:
        >>> norm_of_norms([torch.tensor(3.0), torch.tensor(4.0)])
        tensor(5.)
    """
    device = norms[0].device
    total: Tensor = torch.linalg.vector_norm(torch.stack([n.to(device, non_blocking=True) for n in norms]))
    return total


def dot(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    r"""Return $\langle x, y \rangle$ over all tensors as a 0-dim tensor on the device of the first.

    Example:
        >>> dot([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])])
        tensor(11.)
    """
    device = xs[0].device
    return torch.stack(
        [
            (a * b).sum().to(device)
            for x, y in zip(xs, ys, strict=True)
            for a, b in pieces(x, y)  # of one order in memory, or whole
        ]
    ).sum()


def safe_ratio(numerator: Tensor | float, denominator: Tensor) -> Tensor:
    """Return numerator / denominator; 0 where that is not finite: no gradient, or one with inf or nan.

    Example:
        >>> safe_ratio(0.05, torch.tensor([0.5, 0.0, float("inf"), float("nan")]))
        tensor([0.1000, 0.0000, 0.0000, 0.0000])
    """
    return torch.nan_to_num(numerator / denominator, nan=0.0, posinf=0.0, neginf=0.0)


def blocks(weights: Sequence[Tensor], buffers: Sequence[Tensor]) -> Iterator[TensorBlock]:
    """Cut parallel lists into blocks: together they fit a CPU's cache; on other devices, all at once.

    Args:
        weights: of any shape.
        buffers: one for each weight, in its shape.
    """
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    pieces: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for weight, buffer in zip(weights, buffers, strict=True):
        if _on_cpu(weight) and weight.stride() == buffer.stride() and _in_memory_order(weight) is not None:
            pairs = zip(_pieces(weight), _pieces(buffer), strict=True)
            pieces.setdefault(weight.dtype, []).extend(pairs)
        else:
            group = groups.setdefault((weight.device, weight.dtype), ([], []))
            group[0].append(weight)
            group[1].append(buffer)
    for dtype, pairs_of_dtype in pieces.items():
        room = torch.empty(_CPU_BLOCK, dtype=dtype)
        block, free = TensorBlock([], [], room), _CPU_BLOCK
        for piece, part in pairs_of_dtype:
            if piece.numel() > free:
                yield block
                block, free = TensorBlock([], [], room), _CPU_BLOCK
            block.weights.append(piece)
            block.buffers.append(part)
            free -= piece.numel()
        yield block
    for ws, bs in groups.values():
        yield TensorBlock(ws, bs, None)


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut tensors of one shape alike: on a CPU into pieces that several operations in a row are quick on.

    Example:
        >>> [x.shape for x, y in pieces(torch.zeros(2, 3), torch.zeros(2, 3))]
        [torch.Size([6])]
    """
    first = tensors[0]
    if all(_on_cpu(t) and t.stride() == first.stride() for t in tensors):
        yield from zip(*map(_pieces, tensors), strict=True)
    else:
        yield tensors


def magnitudes(block: TensorBlock, eta: float) -> list[Tensor]:
    r"""Return $|w| + \eta$ for every weight; without eta w itself, where only the square or the norm matters.

    Example:
        >>> w = torch.tensor([-1.0, 2.0])
        >>> magnitudes(TensorBlock([w], [w], None), 0.5)
        [tensor([1.5000, 2.5000])]
    """
    if eta == 0:
        return block.weights
    result = block.scratch()
    if _on_cpu(result[0]):
        for weight, magnitude in zip(block.weights, result, strict=True):
            torch.abs(weight, out=magnitude).add_(eta)
    else:
        torch._foreach_copy_(result, block.weights)
        torch._foreach_abs_(result)
        torch._foreach_add_(result, eta)
    return result


def bits(tensor: Tensor) -> Tensor:
    """Return the memory of floating-point numbers as integers.

    Example:
        >>> bits(torch.tensor([0.0, -0.0])).tolist()
        [0, -2147483648]
    """
    return tensor.view(_INTEGERS[tensor.element_size()])


def clear_unless_(tensors: Sequence[Tensor], keep: Tensor) -> None:
    """Set all tensors to 0 unless `keep`, a 0-dim bool; whatever they hold, inf and nan too.

    Example:
        >>> x = torch.tensor([1.0, float("inf")])
        >>> clear_unless_([x], torch.tensor(False)); x
        tensor([0., 0.])
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        # 0 * inf is nan, so the bits are cleared, not the numbers multiplied.
        whole = bits(tensor)
        groups.setdefault((tensor.device, whole.dtype), []).append(whole)
    for (device, integers), members in groups.items():
        torch._foreach_mul_(members, keep.to(device, integers, non_blocking=True))


def ascend_(
    weights: Sequence[Tensor],
    buffers: Sequence[Tensor],
    scale: Tensor,
    *,
    along: Sequence[Tensor] | None = None,
) -> None:
    r"""Overwrite every buffer b with $w + s b$; with w where s is 0, whatever b holds (nan too).

    Args:
        weights: w.
        buffers: b, of the types and on the devices of the weights.
        scale: s, a 0-dim tensor.
        along: d: overwrite with $w + s d$.

    Example:
        >>> b = torch.tensor([1.0, float("nan")])
        >>> ascend_([torch.ones(2)], [b], torch.tensor(0.0)); b
        tensor([1., 1.])
    """
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}
    for row in zip(weights, buffers, buffers if along is None else along, strict=True):
        group = groups.setdefault((row[0].device, row[0].dtype), ([], [], []))
        for members, tensor in zip(group, row, strict=True):
            members.append(tensor)
    for (device, dtype), (ws, bs, directions) in groups.items():
        if _on_cpu(ws[0]):
            _ascend_on_cpu(ws, bs, scale.item(), directions)
            continue
        if along is not None:
            torch._foreach_copy_(bs, directions)
        here = scale.to(device, non_blocking=True)
        clear_unless_(bs, here != 0)
        torch._foreach_mul_(bs, here.to(dtype))
        torch._foreach_add_(bs, ws)


def _ascend_on_cpu(ws: list[Tensor], bs: list[Tensor], scale: float, directions: list[Tensor]) -> None:
    for weight, buffer, direction in zip(ws, bs, directions, strict=True):
        if scale == 0:
            buffer.copy_(weight)
        else:
            torch.add(weight, direction, alpha=scale, out=buffer)


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _in_memory_order(tensor: Tensor) -> Tensor | None:
    """Return a flat view in the order of memory, or None where the tensor has gaps."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    ordered = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return ordered.view(-1) if ordered.is_contiguous() else None


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Return flat pieces of a dense CPU tensor, in the order of its memory; anything else as it is."""
    if not _on_cpu(tensor):
        return (tensor,)
    flat = _in_memory_order(tensor)
    if flat is None or flat.numel() <= _CPU_BLOCK:
        return (tensor if flat is None else flat,)
    return torch.split(flat, _CPU_BLOCK)
