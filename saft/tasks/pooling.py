"""Token features -> one vector per text, and the model that classifies a text by it."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.model_config import Pooling
from saft.tasks.task import TaskModel

__all__ = ["TextClassifier", "check_first_token", "pool"]


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
        taken = {name: value for name, value in inputs.items() if name in self._taken}
        return pool(self._reader()(**taken).last_hidden_state, inputs["attention_mask"], self.pooling)

    def _reader(self) -> nn.Module:
        config = getattr(self.trunk, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            encoder: nn.Module = self.trunk.get_encoder()  # type: ignore[operator]
            return encoder
        return self.trunk


@torch.no_grad()
def check_first_token(model: TextClassifier, where: str) -> None:
    """Try whether the first token of a text has seen the others.

    Args:
        model: in evaluation mode, whose pooling is "cls".
        where: the place in front of the message.

    Raises:
        UserError: it has not, as in a decoder, so all texts that begin alike would be one to the head.
    """
    ids = torch.tensor([[1, 2, 3], [1, 4, 5]], device=next(model.trunk.parameters()).device)
    features = model.features({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    if torch.equal(features[0], features[1]):
        raise UserError(
            f"{where}.pooling: in {type(model.trunk).__name__} the first token sees none of those after it, "
            "so `cls` tells no text from another; take last, or mean"
        )
