"""Heads: what turns a text's vector into logits. A head belongs to one task; it is never merged."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from saft.errors import UserError

__all__ = ["ZeroShotHead", "LinearHead", "load", "save"]


class ZeroShotHead(nn.Module):
    r"""Frozen classifier made of the base model's own embeddings of one description per label.

    .. math:: \text{logits} = s \cdot \frac{h}{\lVert h \rVert} W^\top, \qquad \lVert W_c \rVert = 1

    Only the trunk is trained and merged, as in the CLIP merging literature (Ilharco et al., 2023,
    arXiv 2212.04089), so every difference between two merged models is a difference of trunks.

    Args:
        label_embeddings: [labels, width]; normalized here.
        scale: s > 0, the inverse temperature; CLIP uses 100, sentence-transformers 20.

    Example:
        >>> head = ZeroShotHead(torch.eye(2), scale=20.0)
        >>> head(torch.tensor([[3.0, 0.0]]))
        tensor([[20.,  0.]])
    """

    label_embeddings: Tensor
    scale: Tensor

    def __init__(self, label_embeddings: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("label_embeddings", functional.normalize(label_embeddings, dim=-1))
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits, [batch, labels]."""
        return self.scale * functional.linear(functional.normalize(embedding, dim=-1), self.label_embeddings)


class LinearHead(nn.Module):
    r"""Linear classifier, trained with the trunk: :math:`\text{logits} = h W^\top + b`, starting from zero.

    Starting from zero keeps the first steps from dragging the trunk towards a random direction per task.

    Args:
        width: size of a text's vector.
        labels: number of labels.

    Example:
        >>> LinearHead(width=3, labels=2)(torch.ones(1, 3))
        tensor([[0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(labels, width))
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits, [batch, labels]."""
        return functional.linear(embedding, self.weight, self.bias)


def save(head: nn.Module, folder: Path, task: str) -> None:
    """Write a head to `folder/heads/TASK.safetensors`."""
    (folder / "heads").mkdir(exist_ok=True)
    state = {name: value.detach().contiguous() for name, value in head.state_dict().items()}
    save_file(state, folder / "heads" / f"{task}.safetensors", metadata={"format": "pt"})


def load(folder: Path, task: str, labels: int) -> nn.Module | None:
    """Return the head that a checkpoint folder holds for a task, or None if it holds none.

    Args:
        folder: the checkpoint folder.
        task: the task's name.
        labels: the number of labels it must have.

    Raises:
        UserError: the file holds no head, one with another number of labels, or NaN or infinite values.
    """
    file = folder / "heads" / f"{task}.safetensors"
    if not file.is_file():
        return None
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file}: is no whole safetensors file: {error}") from None
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{file}: tensor {name} holds NaN or infinite values")
    head: nn.Module
    if state.keys() == {"label_embeddings", "scale"}:
        head = ZeroShotHead(state["label_embeddings"], float(state["scale"]))
    elif state.keys() == {"weight", "bias"}:
        head = LinearHead(state["weight"].shape[1], state["weight"].shape[0])
    else:
        raise UserError(f"{file}: holds no head that saft knows, but {sorted(state)}")
    head.load_state_dict(state)  # the very bits: making a zero-shot head normalizes once more
    found = len(next(iter(state.values())))
    if found != labels:
        raise UserError(f"{file}: is a head for {found} labels, but task '{task}' has {labels}")
    return head
