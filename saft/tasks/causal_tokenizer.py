"""Texts in pieces as token numbers, for a model that continues texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saft.tasks.conversation import Segment

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

    def encode(self, pieces: Sequence[Segment]) -> tuple[list[int], list[bool]]:
        """Return the tokens of a whole text, and whether each is learned."""
        tokens, learned = list(self.start), [False] * len(self.start)
        for part, own in [*((self._numbers(text), own) for text, own in pieces), (self.end, True)]:
            tokens += part
            learned += [own] * len(part)
        return tokens, learned

    def ending(self, text: str) -> list[int]:
        """Return the tokens of the last piece of a text, with its end."""
        return [*self._numbers(text), *self.end]

    def _numbers(self, text: str) -> list[int]:
        numbers: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return numbers
