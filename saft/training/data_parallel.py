"""Several devices, each with the whole model and a part of every batch: their gradients are added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from saft.errors import UserError
from saft.optim.batch_norm import has_batch_norms
from saft.tasks import Score

__all__ = ["Replicas", "is_divided", "sum_gradients", "total"]


class Replicas(DDPStrategy):
    """Lightning's DDP without torch's wrapper: the module adds up its gradients itself, once a pass.

    The wrapper reduces while a backward runs, one backward for each forward, of parameters that all have a
    gradient. A step here has two passes of several micro-batches, and poolers that nothing reads.
    """

    def configure_ddp(self) -> None:
        """Give every process the weights of the first.

        Raises:
            UserError: a batch norm would see a part of each batch, and so train other weights.
        """
        assert self.model is not None
        if has_batch_norms(self.model):
            raise UserError(
                f"trainer.devices: is {self.num_processes}, but the model has batch norms, each of which "
                "would see its device's part of a batch instead of the batch; train on one device"
            )
        for tensor in self.model.state_dict().values():
            dist.broadcast(tensor, 0)

    def finish(self, score: Callable[[], Score]) -> Score | None:
        """End the group, and return how well the model does; None but for the first process.

        Args:
            score: evaluates the model; torchmetrics would ask the whole group, if it were still there.
        """
        dist.destroy_process_group()
        return score() if self.is_global_zero else None


def is_divided() -> bool:
    """Return whether several processes train this model."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; the tensor itself where there is one process.

    Args:
        value: of the same shape in every process.

    Returns:
        The sum, in that shape.
    """
    if not is_divided():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    r"""Replace gradients by their sums over all processes: $g = \sum_r g_r$.

    A parameter that has a gradient in one process has one in all afterwards; one that has it in none keeps
    none, as on one device, where an optimizer leaves it alone. Where weights are divided (FSDP2), a backward
    pass leaves every process its share of the mean, of which this makes the sum.

    Args:
        parameters: of any shape, the same in every process, in the same order.
    """
    if not is_divided():
        return
    asking = []
    for parameter in parameters:
        if not hasattr(parameter, "full_tensor"):
            asking += [parameter] if parameter.requires_grad else []
        elif parameter.grad is not None:
            parameter.grad.mul_(dist.get_world_size())
    if not asking:
        return
    held = torch.tensor([parameter.grad is not None for parameter in asking], dtype=torch.int32)
    counts = total(held.to(asking[0].device)).tolist()
    works = []
    for parameter, count in zip(asking, counts, strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            works.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in works:
        work.wait()
