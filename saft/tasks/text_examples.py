"""Texts, or pairs of them, as examples for a model that reads tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from saft.files.locations import folder as local_folder
from saft.model_config import ModelConfig
from saft.models import max_tokens
from saft.progress import note
from saft.tasks.examples import Batch, Examples
from saft.tasks.table import Text

__all__ = ["cut_length", "text_examples"]


def cut_length(model: ModelConfig, wanted: int, where: str) -> int:
    """Return to how many tokens texts are cut: as wanted, or to a model's positions, with a note.

    Args:
        model: that reads the texts.
        wanted: tokens, as the task says.
        where: the place in front of the message.

    Raises:
        UserError: the model's config.json cannot be read.
    """
    longest = max_tokens(local_folder(model.path, "model.path"), wanted)
    if longest < wanted:
        note(
            f"{where}.max_length: {wanted} is more than the {longest} positions of {model.path}; texts are "
            f"cut to {longest} tokens"
        )
    return longest


def text_examples(tokenizer: Any, texts: Sequence[Text], labels: Tensor, max_length: int) -> Examples:
    """Return examples of texts or pairs, tokenized; of a pair the longer text is cut first.

    Args:
        tokenizer: of transformers.
        texts: one for each example, all single or all pairs.
        labels: [texts] or [texts, labels].
        max_length: tokens of an example at most.
    """
    columns = zip(*([text] if isinstance(text, str) else text for text in texts), strict=True)
    encoded: Any = {"input_ids": []}
    if texts:
        encoded = tokenizer(*map(list, columns), truncation=True, max_length=max_length)

    def collate(indices: list[int]) -> Batch:
        part = {name: [values[index] for index in indices] for name, values in encoded.items()}
        return Batch(dict(tokenizer.pad(part, return_tensors="pt")), labels[indices])

    return Examples([len(ids) for ids in encoded["input_ids"]], collate)
