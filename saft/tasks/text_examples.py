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
from saft.tasks.tokens import tokenized

__all__ = ["cut_length", "note_cut", "text_examples"]


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


def note_cut(key: str, tokens: int, places: Sequence[str], rows: int) -> None:
    """Say, once for each split of a task's data, that some of its rows are cut.

    Args:
        key: of the config, that says how long they may be, with the place in front of it.
        tokens: that are kept.
        places: of the rows that are cut.
        rows: how many there are, the others among them.
    """
    if places:
        note(
            f"{key}: {len(places)} of {rows} rows have more than {tokens} tokens and are cut, such as "
            + places[0],
            about=f"{key}: {places[0].partition(' of ')[2]}",
        )


def text_examples(
    tokenizer: Any, texts: Sequence[Text], labels: Tensor, max_length: int, key: str | None = None,
    places: Sequence[str] = (),
) -> Examples:  # fmt: skip
    """Return examples of texts or pairs, tokenized; of a pair the longer text is cut first, with a note.

    Args:
        tokenizer: of transformers.
        texts: one for each example, all single or all pairs.
        labels: [texts] or [texts, labels].
        max_length: tokens of an example at most.
        key: of the config, that says so, with the place in front of it, for the note; None makes none.
        places: of the texts, for the note; none are numbered.
    """
    made = tokenized(tokenizer, texts, max_length)
    encoded = made.inputs
    if key is not None:
        cut = [row for row, is_cut in enumerate(made.cut) if is_cut]
        note_cut(key, max_length, [places[row] if places else f"text {row + 1}" for row in cut], len(texts))

    def collate(indices: list[int]) -> Batch:
        part = {name: [values[index] for index in indices] for name, values in encoded.items()}
        return Batch(dict(tokenizer.pad(part, return_tensors="pt")), labels[indices])

    return Examples([len(ids) for ids in encoded["input_ids"]], collate)
