"""Inner products of the inputs of every linear layer, over the tokens of each task's examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saft.calibration import COLLECTORS, Collector, Statistics
from saft.calibration.data import Advance, CalibrationData, model_bytes
from saft.merging.plan import Plan
from saft.models import Conv1D
from saft.tasks.examples import text_mask

__all__ = ["InputGram", "rows_that_count"]

# Conv1D is GPT-2's linear layer: its weight is [inputs, outputs], where that of nn.Linear is the transpose.
KINDS: dict[type[nn.Module], str] = {nn.Linear: "gram", Conv1D: "gram_of_rows"}


@COLLECTORS.register("gram")
class InputGram(Collector):
    """Collects the inner products of what every linear layer reads."""

    def memory(self, plan: Plan) -> int:
        """Return the bytes of one model and its products; at most: matrices that are no layer's count too."""
        shapes = [plan.base.headers[name].shape for name in plan.merged]
        return model_bytes(plan) + 4 * sum(shape[1] ** 2 for shape in shapes if len(shape) == 2)

    @torch.no_grad()
    def collect(self, data: CalibrationData, advance: Advance) -> Statistics:
        r"""Yield the mean over tokens of :math:`x x^\top` for each weight that is multiplied with inputs x.

        What is padding does not count, unless the method's parameter `padding` says so. A statistic is
        float32 [inputs, inputs]; `gram` belongs to weights [outputs, inputs], `gram_of_rows` to those that
        are [inputs, outputs]. It is zero of a layer that the task's examples do not reach, as an expert of a
        mixture: there the other tasks' inputs decide.

        Source:
            Jin et al. 2023, arXiv 2212.09849, section 3.
        """
        batch_size = data.plan.config.data.batch_size
        padded = data.plan.parameters.get("padding") == "counted"
        for name, model, examples in data.each_expert():
            with _watched(data) as (sums, counts, see):
                for batch in examples.batches(batch_size):
                    batch = batch.to(data.plan.device)
                    see(None if padded else text_mask(batch.inputs))
                    model.features(batch.inputs)
                    advance(len(batch))
            for kind, by_weight in sums.items():
                means = {weight: total / max(counts[weight], 1) for weight, total in by_weight.items()}
                yield name, kind, means


@contextmanager
def _watched(
    data: CalibrationData,
) -> Iterator[tuple[dict[str, dict[str, Tensor]], dict[str, int], Callable[[Tensor | None], None]]]:
    """Add up the inner products of what goes into the trunk's linear layers while the block runs.

    Yields:
        Kind -> name of the weight -> sum; name of the weight -> tokens; what to call with a batch's mask.
    """
    mask: Tensor | None = None
    sums: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS.values()}
    counts: dict[str, int] = {}

    def see(current: Tensor | None) -> None:
        nonlocal mask
        mask = current

    def watch(kind: str, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            rows = rows_that_count(inputs[0], mask)
            sums[kind][name] += rows.T @ rows
            counts[name] += len(rows)

        return hook

    with ExitStack() as hooks:
        for name, module in data.trunk.named_modules():
            own = data.names.get(f"{name}.weight")
            kind = KINDS.get(type(module))
            if own in data.plan.merged and kind is not None:
                width = module.weight.shape[1 if kind == "gram" else 0]
                sums[kind][own] = module.weight.new_zeros(width, width)
                counts[own] = 0
                hooks.enter_context(_closing(module.register_forward_pre_hook(watch(kind, own))))
        yield sums, counts, see


@contextmanager
def _closing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def rows_that_count(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return a layer's inputs as rows, without those of padding: float32 [tokens, width].

    Args:
        inputs: [..., width]; of each token where the dimensions before are those of the mask, or their
            product; else of something that has no padding, as a pooled text.
        mask: [batch, tokens], 1 for a token and 0 for padding; None where nothing is padded.

    Example:
        >>> rows_that_count(torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]]]), torch.tensor([[1, 1], [1, 0]]))
        tensor([[1.],
                [2.],
                [3.]])
    """
    rows = inputs.detach().float().reshape(-1, inputs.shape[-1])
    if mask is None or len(rows) != mask.numel():
        return rows
    return rows[mask.reshape(-1).bool()]
