"""Heads: what turns an input's vector into logits. A head belongs to one task; it is never merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from saft.errors import UserError
from saft.files.checkpoint import HEADS, MANIFEST
from saft.files.links import inside
from saft.model_config import POOLINGS, Pooling
from saft.progress import note

__all__ = [
    "LinearHead",
    "PrototypeHead",
    "StoredHead",
    "ZeroShotHead",
    "head_file",
    "load",
    "missing_trained_head",
    "note_made_anew",
    "save",
]

MADE_FOR = "made_for"


class ZeroShotHead(nn.Module):
    r"""Frozen classifier made of the base model's own embeddings of one description per label.

    .. math:: \text{logits} = s \cdot \frac{P h}{\lVert P h \rVert} W^\top, \qquad \lVert W_c \rVert = 1

    Only the trunk is trained and merged, as in the CLIP merging literature (Ilharco et al., 2023,
    arXiv 2212.04089), so every difference between two merged models is a difference of trunks.

    Args:
        label_embeddings: [labels, width]; normalized here.
        scale: s > 0, the inverse temperature; CLIP uses 100, sentence-transformers 20.
        projection: P, [width, features], of a model whose texts and images meet in a space of their own; None
            for the identity.

    Example:
        >>> head = ZeroShotHead(torch.eye(2), scale=20.0)
        >>> head(torch.tensor([[3.0, 0.0]]))
        tensor([[20.,  0.]])
    """

    label_embeddings: Tensor
    scale: Tensor
    projection: Tensor | None

    def __init__(self, label_embeddings: Tensor, scale: float, projection: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("label_embeddings", functional.normalize(label_embeddings, dim=-1))
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("projection", projection)

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> ZeroShotHead:
        """Return the head whose `state_dict()` this is, in the shapes that the class says."""
        return cls(state["label_embeddings"], float(state["scale"]), state.get("projection"))

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits, [batch, labels]."""
        if self.projection is not None:
            embedding = functional.linear(embedding, self.projection)
        return self.scale * functional.linear(functional.normalize(embedding, dim=-1), self.label_embeddings)


class PrototypeHead(nn.Module):
    r"""Frozen classifier made of the base model's own features: the mean of some examples of each label.

    .. math:: \text{logits} = s \cdot \frac{h - c}{\lVert h - c \rVert} W^\top, \qquad
       W_k = \frac{m_k - c}{\lVert m_k - c \rVert}

    m are the means of the labels and c the mean of these, or 0. As with a zero-shot head only the trunk is
    trained and merged; a model of images needs no text tower for it.

    Args:
        means: [labels, width].
        scale: s > 0, the inverse temperature.
        centred: subtract c: what all examples have in common tells no label from another.

    Example:
        >>> head = PrototypeHead(torch.tensor([[9.0, 1.0], [9.0, -1.0]]), scale=20.0, centred=True)
        >>> head(torch.tensor([[9.0, 0.5]]))
        tensor([[ 20., -20.]])

    Source: Snell et al., "Prototypical Networks for Few-shot Learning", NeurIPS 2017. Differs: by cosine, as
    zero-shot heads, instead of by distance.
    """

    prototypes: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, means: Tensor, scale: float, centred: bool) -> None:
        super().__init__()
        centre = means.mean(0) if centred else torch.zeros_like(means[0])
        self.register_buffer("prototypes", functional.normalize(means - centre, dim=-1))
        self.register_buffer("centre", centre)
        self.register_buffer("scale", torch.tensor(float(scale)))

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> PrototypeHead:
        """Return a head of the shapes of a `state_dict()`."""
        return cls(state["prototypes"], float(state["scale"]), centred=False)

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits, [batch, labels]."""
        return self.scale * functional.linear(
            functional.normalize(embedding - self.centre, dim=-1), self.prototypes
        )


class LinearHead(nn.Module):
    r"""Linear classifier, trained with the trunk: :math:`\text{logits} = h W^\top + b`, starting from zero.

    Starting from zero keeps the first steps from dragging the trunk towards a random direction per task.

    Args:
        width: size of an input's vector.
        labels: number of labels.

    Example:
        >>> LinearHead(width=3, labels=2)(torch.ones(1, 3))
        tensor([[0., 0.]], grad_fn=<AddmmBackward0>)
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        for name, shape in self.shapes(labels, width).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    @staticmethod
    def shapes(labels: int, width: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its weights, by name."""
        return {"weight": (labels, width), "bias": (labels,)}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> LinearHead:
        """Return a head of the shapes of a `state_dict()`."""
        return cls(state["weight"].shape[1], state["weight"].shape[0])

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the logits, [batch, labels]."""
        return functional.linear(embedding, self.weight, self.bias)


# The names in a head's file -> the head, and which of them has a row for each label.
_KINDS: dict[frozenset[str], tuple[Callable[[dict[str, Tensor]], nn.Module], str]] = {
    frozenset({"label_embeddings", "scale"}): (ZeroShotHead.of, "label_embeddings"),
    frozenset({"label_embeddings", "scale", "projection"}): (ZeroShotHead.of, "label_embeddings"),
    frozenset({"prototypes", "centre", "scale"}): (PrototypeHead.of, "prototypes"),
    frozenset({"weight", "bias"}): (LinearHead.of, "weight"),
}


@dataclass(frozen=True)
class StoredHead:
    """A head as a checkpoint folder holds it.

    Args:
        module: the head.
        labels: what its logits are, in order; None where the file does not say.
        pooling: of the features that it reads; None where the file does not say.
        folder: that holds it.
    """

    module: nn.Module
    labels: list[str] | None
    pooling: Pooling | None
    folder: Path


def save(
    head: nn.Module, folder: Path, task: str, labels: Sequence[str], pooling: Pooling | None = None
) -> None:
    """Write a head to `folder/heads/TASK.safetensors`, and with it what it was made for.

    Args:
        head: of this module's kinds.
        folder: the checkpoint folder.
        task: the task's name.
        labels: what the logits are, in order.
        pooling: of the token features that it reads; None where the trunk has one vector.

    Raises:
        UserError: the task's name is not the name of a file.
    """
    file = _file(folder, task)
    file.parent.mkdir(exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    made_for = {"labels": list(labels)} | ({} if pooling is None else {"pooling": pooling})
    # One entry only: safetensors writes several in an order that changes from process to process.
    save_file(state, file, metadata={MADE_FOR: json.dumps(made_for, ensure_ascii=False)})


def load(folder: Path, task: str, labels: Sequence[str]) -> StoredHead | None:
    """Return the head that a checkpoint folder holds for a task, or None if it holds none.

    Args:
        folder: the checkpoint folder.
        task: the task's name.
        labels: what its logits must be, in order.

    Raises:
        UserError: the file holds no head, one for other labels or for these in another order, or NaN or
            infinite values.
    """
    file = _file(folder, task)
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as content:
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
            made_for = _made_for(file, content.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{file}: is not a whole safetensors file: {error}") from None
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{file}: tensor {name} holds NaN or infinite values")
    make, rows = _KINDS.get(frozenset(state), (None, ""))
    if make is None or state[rows].ndim != 2:
        raise UserError(f"{file}: holds no head that saft knows, but {sorted(state)}")
    try:
        head = make(state)
        head.load_state_dict(state)  # the very bits: making a zero-shot head normalizes once more
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{file}: its tensors do not fit each other: {error}") from None
    count = len(state[rows])
    if count != len(labels):
        raise UserError(f"{file}: is a head for {count} labels, but task '{task}' has {len(labels)}")
    own = _labels(file, made_for)
    if own is not None and own != list(labels):
        raise UserError(
            f"{file}: its logits are, in order, {_listed(own)}, but the labels of task '{task}' are "
            f"{_listed(labels)}; give `labels` in the order of the head"
        )
    return StoredHead(head, own, _pooling(file, made_for), folder)


def head_file(folder: Path, task: str) -> Path:
    """Return where a checkpoint folder holds the head of a task, if it holds one.

    Args:
        folder: the checkpoint folder.
        task: the task's name.

    Example:
        >>> head_file(Path("runs/news"), "news").as_posix()
        'runs/news/heads/news.safetensors'
    """
    return folder / HEADS / f"{task}.safetensors"


def missing_trained_head(folder: Path, task: str) -> UserError:
    """Return the error that a checkpoint folder lacks the head of a task, which cannot be made again."""
    file = head_file(folder, task)
    return UserError(f"there is no {file}, and the head of this task is a trained one")


def note_made_anew(folder: Path, task: str, kind: str) -> None:
    """Print a note that a checkpoint of saft lacks a frozen head, which its own, changed weights make.

    Args:
        folder: the checkpoint folder; nothing is printed where it is not one of saft's.
        task: the task's name.
        kind: of the head, for the message.
    """
    if (folder / MANIFEST).is_file():
        file = head_file(folder, task)
        note(f"there is no {file}; its {kind} head is made by the weights of {folder} itself")


def _file(folder: Path, task: str) -> Path:
    if Path(task).name != task or task in ("", ".", ".."):
        raise UserError(f"task '{task}': names the file of its head; write it without '/'")
    return inside(folder, head_file(Path(), task))


def _made_for(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        made_for = json.loads(metadata.get(MADE_FOR, "{}"))
    except (ValueError, RecursionError):
        made_for = None
    if not isinstance(made_for, dict):
        raise UserError(f"{file}: what it was made for is not readable: {metadata[MADE_FOR][:80]!r}")
    return made_for


def _labels(file: Path, made_for: dict[str, Any]) -> list[str] | None:
    labels = made_for.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{file}: its list of labels is not readable: {str(labels)[:80]}")
    return labels


def _pooling(file: Path, made_for: dict[str, Any]) -> Pooling | None:
    if "pooling" not in made_for:
        return None
    for pooling in POOLINGS:
        if made_for["pooling"] == pooling:
            return pooling
    raise UserError(f"{file}: was made for an unknown pooling: {str(made_for['pooling'])[:80]!r}")


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:10]) + (" ..." if len(labels) > 10 else "")
