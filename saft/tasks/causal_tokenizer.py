"""Texts in pieces as token numbers, for a model that continues texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from saft.tasks.conversation import Segment
from saft.tasks.tokens import tokenized

__all__ = ["CausalTokenizer"]


@dataclass(frozen=True)
class CausalTokenizer:
    """Writes pieces of a text each by itself, so that what is generated goes on as what was learned did.

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
        numbers = iter(self._numbers([text for pieces in texts for text, _ in pieces]))
        for pieces in texts:
            tokens, learned = list(start), [False] * len(start)
            for part, own in [*((next(numbers), own) for _, own in pieces), (end, True)]:
                tokens += part
                learned += [own] * len(part)
            yield tokens, learned

    def endings(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of the last pieces of texts, each with its end."""
        end = self.end
        return [[*numbers, *end] for numbers in self._numbers(texts)]

    def _numbers(self, texts: Sequence[str]) -> list[list[int]]:
        return tokenized(self.tokenizer, texts, add_special_tokens=False).inputs["input_ids"]
