"""Token features -> one vector per text, and the model that classifies a text by it."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.model_config import Pooling
from saft.progress import note
from saft.tasks.task import TaskModel, first_tried

__all__ = ["TextClassifier", "check_reading", "pool"]


def pool(features: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce token features to one vector per text.

    Args:
        features: [batch, tokens, width].
        attention_mask: [batch, tokens], 1 for a token and 0 for padding; padding may stand on either side.
        pooling: "mean" over the tokens, "cls" the first one, "last" the last one.

    Returns:
        [batch, width].

    Example:
        >>> features = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> [pool(features, torch.tensor([[1, 1, 0]]), p).item() for p in ("mean", "cls", "last")]
        [2.0, 1.0, 3.0]
    """
    if pooling == "mean":
        weight = attention_mask.unsqueeze(-1).to(features.dtype)
        return (features * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    index = (attention_mask if pooling == "cls" else attention_mask * positions).argmax(1)
    return features[torch.arange(features.shape[0], device=features.device), index]


class TextClassifier(TaskModel):
    """A trunk that reads tokens, the pooling of its features, and a head.

    Of an encoder-decoder only the encoder is run, so only it is trained; the decoder stays in the trunk as it
    is, so that the checkpoint is whole.

    Args:
        trunk: a transformers model that returns `last_hidden_state`.
        head: maps [batch, width] to logits [batch, labels].
        pooling: see `pool`.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, pooling: Pooling = "mean") -> None:
        super().__init__(trunk, head)
        self.pooling: Pooling = pooling
        self.reads_first_token = pooling == "cls"
        # Some tokenizers give more than their model takes, such as token types.
        self._taken = set(inspect.signature(self._reader().forward).parameters)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector per text, [batch, width]."""
        return pool(self.tokens(inputs), inputs["attention_mask"], self.pooling)

    def tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the vectors of the tokens, [batch, tokens, width]."""
        taken = {name: value for name, value in inputs.items() if name in self._taken}
        states: Tensor = self._reader()(**taken).last_hidden_state
        return states

    def _reader(self) -> nn.Module:
        config = getattr(self.trunk, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            encoder: nn.Module = self.trunk.get_encoder()  # type: ignore[operator]
            return encoder
        return self.trunk


@torch.no_grad()
def check_reading(model: TextClassifier, where: str) -> None:
    """Try whether every token has a vector, the first one has seen the others, and padding is not read.

    Args:
        model: in evaluation mode.
        where: the place in front of every message.

    Raises:
        UserError: tokens have no vectors, as in Funnel's base; or the first token is pooled, but sees no
            other, as in a decoder, so that texts that begin alike would be one to the head.
    """
    name, device = type(model.trunk).__name__, next(model.trunk.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 5, 4, 0, 0]], device=device)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], device=device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    with first_tried(model.trunk, where):
        vectors = model.tokens(inputs).shape[1]
    if vectors != ids.shape[1]:
        raise UserError(
            f"{where}.kind: {name} makes {vectors} vectors of {ids.shape[1]} tokens, and not one of each, to "
            "pool; take another model"
        )
    together = model.features(inputs)
    if model.pooling == "cls" and torch.equal(together[0], together[1]):
        raise UserError(
            f"{where}.pooling: in {name} the first token sees none of those after it, so `cls` tells no text "
            "from another; take last, or mean"
        )
    alone = model.features({key: value[1:, :3] for key, value in inputs.items()})[0]
    if (together[1] - alone).abs().max() > 1e-3 * alone.std():
        note(
            f"{where}: {name} reads the padding of a batch as text, so what it makes of a text depends on "
            "the longest beside it, and scores on the size of the batch"
        )
