"""How a task reads its texts: the tokenizer, where they are cut, and how they become one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from saft.errors import UserError
from saft.model_config import ModelConfig, Pooling
from saft.tasks import heads
from saft.tasks.examples import Examples
from saft.tasks.pooling import TextClassifier
from saft.tasks.table import Text
from saft.tasks.text_examples import cut_length, text_examples
from saft.tasks.tokenizer import load_tokenizer

__all__ = ["TextReader"]


@dataclass(frozen=True)
class TextReader:
    """How a task with a head of its own reads texts by one model.

    Args:
        tokenizer: the model's.
        max_length: texts are cut to this many tokens.
        pooling: as the task or the model says; None where both leave it to the head.
    """

    tokenizer: Any
    max_length: int
    pooling: Pooling | None

    @classmethod
    def of(cls, model: ModelConfig, max_length: int, pooling: Pooling | None, where: str) -> TextReader:
        """Load a model's tokenizer; no text is longer than the model's positions.

        Args:
            model: that reads the texts.
            max_length: tokens of a text, as the task says.
            pooling: as the task says; None takes the model's.
            where: the place in front of every message.
        """
        tokenizer = load_tokenizer(model.path)
        return cls(tokenizer, cut_length(model, max_length, where), pooling or model.pooling)

    @property
    def resolved(self) -> dict[str, Any]:
        """The pooling and the length that the model decided."""
        return {"pooling": self.pooling or "mean", "max_length": self.max_length}

    def examples(self, texts: Sequence[Text], labels: Tensor) -> Examples:
        """Return examples of texts or pairs, tokenized; see `text_examples`."""
        return text_examples(self.tokenizer, texts, labels, self.max_length)

    def headless(self, trunk: nn.Module) -> TextClassifier:
        """Return the trunk with the pooling of its features, and no head yet."""
        return TextClassifier(trunk, nn.Identity(), self.pooling or "mean")

    def with_stored_head(
        self, trunk: nn.Module, folder: Path, name: str, labels: Sequence[str], where: str
    ) -> TextClassifier | None:
        """Return the trunk with the head that a folder holds for a task, on its device; None without one.

        Args:
            trunk: that reads texts.
            folder: the checkpoint folder.
            name: the task's name.
            labels: what the head's logits must be, in order.
            where: the place in front of every message.

        Raises:
            UserError: the head does not fit, or was made for another pooling.
        """
        stored = heads.load(folder, name, labels)
        if stored is None:
            return None
        pooling = self.pooling or stored.pooling or "mean"
        if stored.pooling not in (None, pooling):
            raise UserError(
                f"{where}.pooling: is {pooling}, but the head in {folder} was made for {stored.pooling}"
            )
        return TextClassifier(trunk, stored.module.to(next(trunk.parameters()).device), pooling)
