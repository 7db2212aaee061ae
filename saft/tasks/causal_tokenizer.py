"""Texts in pieces as token numbers, for a model that continues texts."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saft.tasks.conversation import Segment
from saft.tasks.tokens import tokenized

__all__ = ["CausalTokenizer"]


@dataclass(frozen=True)
class CausalTokenizer:
    """Writes pieces of a text each by itself, so that what is generated goes on as what was learned did.

    Some tokenizers, such as Llama 2's, put a space in front of every text; a piece that goes on gets none.

    Args:
        tokenizer: of transformers.
        templated: whether the texts come from a chat template, which writes their begin and end itself.
    """

    tokenizer: Any
    templated: bool

    @property
    def start(self) -> list[int]:
        """What the tokenizer writes in front of a text."""
        first = self.tokenizer.bos_token_id
        begins = not self.templated and first is not None and first in self.tokenizer("")["input_ids"]
        return [first] if begins else []

    @property
    def end(self) -> list[int]:
        """What ends a text, and is learned as such."""
        last = self.tokenizer.eos_token_id
        return [] if self.templated or last is None else [last]

    def encode(self, texts: Sequence[Sequence[Segment]]) -> Iterator[tuple[list[int], list[bool]]]:
        """Yield the tokens of each whole text, and whether each token is learned."""
        start, end = self.start, self.end
        numbers = self._in_place([piece for pieces in texts for piece in _with_before(pieces)])
        for pieces in texts:
            parts = [(next(numbers), own) for _, own in pieces]
            tokens = [token for part, _ in parts for token in part]
            learned = [own for part, own in parts for _ in part]
            if tokens[: len(start)] != start:  # a template may have written it
                tokens, learned = start + tokens, [False] * len(start) + learned
            if tokens[-1:] != end:
                tokens, learned = tokens + end, learned + [True] * len(end)
            yield tokens, learned

    def endings(self, texts: Sequence[Sequence[Segment]]) -> list[list[int]]:
        """Return the tokens of the last pieces of texts, each with its end."""
        last, end = [_with_before(pieces)[-1] for pieces in texts], self.end
        return [numbers if numbers[-1:] == end else numbers + end for numbers in self._in_place(last)]

    def _in_place(self, pieces: Sequence[tuple[str, str]]) -> Iterator[list[int]]:
        """Yield the tokens of pieces, each with what stands before it."""
        marks = [self._mark(before) for before, _ in pieces]
        known = {mark: self._numbers([mark])[0] if mark else [] for mark in set(marks)}
        written = self._numbers([mark + piece for mark, (_, piece) in zip(marks, pieces, strict=True)])
        for mark, (_, piece), numbers in zip(marks, pieces, written, strict=True):
            start = len(known[mark])
            yield numbers[start:] if numbers[:start] == known[mark] else self._numbers([piece])[0]

    def _mark(self, before: str) -> str:
        """Return what a piece is written behind, to be left out again: what tells that it begins no text."""
        if not before or not self._begins_with_space:
            return ""
        special = self._special_end.search(before)  # behind these too some tokenizers put a space
        return special[0] if special else "\n"

    @functools.cached_property
    def _begins_with_space(self) -> bool:
        alone, line, behind = self._numbers(["a", "\n", "\na"])
        return behind != [*line, *alone]

    @functools.cached_property
    def _special_end(self) -> re.Pattern[str]:
        names = "|".join(map(re.escape, self.tokenizer.get_added_vocab())) or "(?!)"
        return re.compile(rf"({names})\s*\Z")

    def _numbers(self, texts: Sequence[str]) -> list[list[int]]:
        return tokenized(self.tokenizer, texts, add_special_tokens=False).inputs["input_ids"]


def _with_before(pieces: Sequence[Segment]) -> list[tuple[str, str]]:
    """Return what stands before each piece of a text, and the piece."""
    texts = [text for text, _ in pieces]
    return list(zip(["", *itertools.accumulate(texts)], texts, strict=False))
