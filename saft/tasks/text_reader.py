"""How a task reads its texts: the tokenizer, where they are cut, and how they become one vector."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from saft.errors import UserError
from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig, Pooling
from saft.models import language_kind, sees_only
from saft.tasks import heads
from saft.tasks.bound_to_model import Declared
from saft.tasks.bound_with_head import BoundWithHead
from saft.tasks.examples import Examples
from saft.tasks.heads import LinearHead, StoredHead
from saft.tasks.pooling import TextClassifier, check_reading
from saft.tasks.table import Text
from saft.tasks.task import TaskModel, features_of_a_token
from saft.tasks.text_examples import cut_length, text_examples
from saft.tasks.tokenizer import load_tokenizer, table_size

__all__ = ["USUAL_LENGTH", "BoundTextTask", "TextReader"]

USUAL_LENGTH = 128
"""Tokens that texts are cut to where nobody says how long they may be."""


@dataclass(frozen=True)
class TextReader:
    """How a task with a head of its own reads texts by one model.

    Args:
        tokenizer: the model's.
        max_length: texts are cut to this many tokens.
        pooling: as the task or the model says; None where both leave it to the head.
        where: the place in front of every message.
        usual: the pooling where nobody says one: of a decoder-only model the last token, whose features alone
            have seen the whole text.
        is_told: whether a note says that texts are cut: not where that is what was asked for.
        token_types: that the model has weights for.
    """

    tokenizer: Any
    max_length: int
    pooling: Pooling | None
    where: str
    usual: Pooling = "mean"
    is_told: bool = True
    token_types: int = sys.maxsize

    @classmethod
    def of(cls, model: ModelConfig, max_length: int, pooling: Pooling | None, where: str) -> TextReader:
        """Load a model's tokenizer; no text is longer than the model's positions.

        Args:
            model: that reads the texts.
            max_length: tokens of a text, as the task says.
            pooling: as the task says; None takes the model's.
            where: the place in front of every message.

        Raises:
            UserError: the model takes images, or has no tokenizer.
        """
        folder = local_folder(model.path, "model.path")
        if (folder / "config.json").is_file() and sees_only(folder):
            raise UserError(
                f"{where}.kind: needs a model of texts, which {model.path} is not; "
                "kind: image_classification takes it"
            )
        tokenizer = load_tokenizer(model.path)
        decodes = (folder / "config.json").is_file() and language_kind(folder) == "causal"
        longest = cut_length(model, max_length, where)
        usual: Pooling = "last" if decodes else "mean"
        is_told = longest < max_length or max_length == USUAL_LENGTH
        token_types = table_size(folder, "type_vocab_size")
        return cls(tokenizer, longest, pooling or model.pooling, where, usual, is_told, token_types)

    @property
    def resolved(self) -> dict[str, Any]:
        """The pooling and the length that the model decided."""
        return {"pooling": self.pooling or self.usual, "max_length": self.max_length}

    def examples(self, texts: Sequence[Text], labels: Tensor, places: Sequence[str] = ()) -> Examples:
        """Return examples of texts or pairs, tokenized; see `text_examples`.

        Args:
            texts: one for each example, all single or all pairs.
            labels: [texts] or [texts, labels].
            places: of the texts, for a note if some are cut.

        Raises:
            UserError: a text has no tokens, so that there is nothing to pool, `max_length` leaves no room
                for one beside those that the tokenizer adds, or the model does not tell the two of a pair
                apart as the tokenizer does.
        """
        pairs = bool(texts) and not isinstance(texts[0], str)
        types = self.tokenizer(*("a", "b")[: 1 + pairs]).get("token_type_ids", [0])
        if max(types) >= self.token_types:
            raise UserError(
                f"{self.where}.data.{'pair' if pairs else 'text'}: the model's tokenizer writes token type "
                f"{max(types)}, but the model has weights for {self.token_types} only (type_vocab_size in "
                "config.json); copy the tokenizer files of its base model"
            )
        least = self.tokenizer.num_special_tokens_to_add(pair=pairs) + (2 if pairs else 1)
        if self.max_length < least:
            raise UserError(
                f"{self.where}.max_length: {self.max_length} token(s) hold no {'pair' if pairs else 'text'} "
                f"beside those that the tokenizer adds; raise it to {least} or more"
            )
        key = f"{self.where}.max_length" if self.is_told else None
        examples = text_examples(self.tokenizer, texts, labels, self.max_length, key, places)
        if 0 in examples.lengths:
            row = examples.lengths.index(0)
            raise UserError(
                f"{self.where}.data.text: {places[row] if places else f'text {row + 1}'} holds "
                f"{texts[row]!r:.60}, of which the model's tokenizer makes no token; leave it out of the file"
            )
        return examples

    def headless(self, trunk: nn.Module, stored: StoredHead | None, where: str) -> TextClassifier:
        """Return the trunk with the pooling of its features, and no head yet.

        Args:
            trunk: that reads texts.
            stored: the head that it will get, which may say what pooling it was made for; None for another.
            where: the place in front of every message.

        Raises:
            UserError: the head was made for another pooling than the task asks for.
        """
        own = None if stored is None else stored.pooling
        pooling = self.pooling or own or self.usual
        if stored is not None and own not in (None, pooling):
            raise UserError(
                f"{where}.pooling: is {pooling}, but the head in {stored.folder} was made for {own}"
            )
        return TextClassifier(trunk, nn.Identity(), pooling)


@dataclass(frozen=True)
class BoundTextTask(BoundWithHead[Declared]):
    """A task on one model that reads texts, and has a head of its own; see `saft.tasks.task.BoundTask`.

    Args:
        reader: how its texts are read.
    """

    trunk_kind = "a reader of texts"
    reader: TextReader

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The pooling and the length that the model decided."""
        return self.reader.resolved

    def model(self, trunk: nn.Module, head_from: str | Path | None = None) -> TaskModel:
        """Return the trunk with its head; how it reads is tried where it starts with its first one.

        Raises:
            UserError: it cannot be pooled; or there is no head, or none that fits the task.
        """
        model = super().model(trunk, head_from)
        if isinstance(model, TextClassifier) and head_from is None:
            check_reading(model, self.where)
        return model

    def save_head(self, model: TaskModel, folder: Path) -> None:
        """Write the head, what its logits are, in order, and the pooling of what it reads."""
        assert isinstance(model, TextClassifier)
        heads.save(model.head, folder, self.name, self.outputs, model.pooling)

    def _headless(self, trunk: nn.Module, stored: StoredHead | None = None) -> TextClassifier:
        return self.reader.headless(trunk, stored, self.where)

    def _first_head(self, model: TaskModel) -> nn.Module:
        """Return a linear head at zero, as wide as the features, for which a config may have other words."""
        width = features_of_a_token(model, self.where).shape[1]
        return LinearHead(width, len(self.outputs))
