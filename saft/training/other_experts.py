"""The task vectors of other tasks' experts, summed: what merging will add to the expert in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.files.checkpoint import weight_files
from saft.files.fingerprints import fingerprint
from saft.files.locations import folder
from saft.tasks import BoundTask

__all__ = ["fingerprints", "sum_of_task_vectors"]


@torch.no_grad()
def sum_of_task_vectors(task: BoundTask, trunk: nn.Module, others: Sequence[str]) -> dict[str, Tensor]:
    r"""Return $\sum_j (w_j - w_0)$ of every parameter of a trunk, one checkpoint in memory at a time.

    Args:
        task: loads the checkpoints as it loads its own model.
        trunk: at the base, w0.
        others: checkpoint folders, j = 1 ...

    Returns:
        Name of a parameter in the trunk -> the sum, in its shape, on its device.

    Raises:
        UserError: a checkpoint cannot be loaded, or is not of the trunk's architecture.
    """
    base = dict(trunk.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in base.items()}
    for location in others:
        folder(location, "others")
        own = dict(task.load_trunk(location).named_parameters())
        if problem := next(_differences(own, base), None):
            raise UserError(
                f"others: {location}: is not an expert of this model: {problem}; all must be fine-tuned from"
                " the same base"
            )
        for name, parameter in own.items():
            total[name] += parameter - base[name]
    return total


def fingerprints(others: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of the weights of checkpoints, FOLDER/FILE -> digest.

    Args:
        others: checkpoint folders.

    Raises:
        UserError: one is missing, or holds no weights.
    """
    return {
        f"{location}/{file.name}": fingerprint(file)
        for location in others
        for file in weight_files(folder(location, "others"))
    }


def _differences(own: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Iterator[str]:
    for name in own.keys() ^ base.keys():
        yield f"{name} is in {'it' if name in own else 'the base'} only"
    for name in own.keys() & base.keys():
        if own[name].shape != base[name].shape:
            yield f"{name} is {list(own[name].shape)} in it, but {list(base[name].shape)} in the base"
