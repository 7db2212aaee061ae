"""Batches of a causal model: what comes after each token is its label, where it is learned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from saft.tasks.examples import IGNORED, Batch
from saft.tasks.language_model import Parts, padded

__all__ = ["Encoded", "causal_batch", "continued", "last_turn", "prompts", "whole_turn", "with_labels"]

Encoded = tuple[list[int], list[int]]
"""Token ids, and for each the label: the token that follows it, or `IGNORED`."""


def with_labels(tokens: list[int], learned: Sequence[bool]) -> Encoded:
    """Return tokens with their labels.

    Example:
        >>> with_labels([5, 6, 7], [False, True, True])
        ([5, 6, 7], [6, 7, -100])
    """
    following = zip(tokens[1:], learned[1:], strict=True)
    return tokens, [*(token if own else IGNORED for token, own in following), IGNORED]


def causal_batch(rows: Sequence[Encoded], pad: int) -> Batch:
    """Return a batch of texts, padded on the right.

    Args:
        rows: the texts.
        pad: the padding token.

    Example:
        >>> causal_batch([([5, 6], [6, -100]), ([7], [-100])], pad=0).inputs["input_ids"].tolist()
        [[5, 6], [7, 0]]
    """
    ids = [tokens for tokens, _ in rows]
    mask = [[1] * len(tokens) for tokens in ids]
    inputs = {"input_ids": padded(ids, pad), "attention_mask": padded(mask, 0)}
    return Batch(inputs, padded([labels for _, labels in rows], IGNORED))


def last_turn(batch: Batch) -> list[Parts]:
    """Return what is learned last in each text, and all that is given before it.

    Example:
        >>> last_turn(causal_batch([([5, 6, 7, 8], [6, -100, 8, -100])], pad=0))
        [([5, 6, 7], [8])]
    """
    turns = []
    for ids, labels in zip(batch.inputs["input_ids"].tolist(), batch.labels.tolist(), strict=True):
        end = max(at for at, label in enumerate(labels) if label != IGNORED) + 1
        start = max((at + 1 for at, label in enumerate(labels[:end]) if label == IGNORED), default=0)
        turns.append((ids[: start + 1], labels[start:end]))
    return turns


def whole_turn(tokens: Sequence[int], learned: Sequence[bool], length: int) -> list[int]:
    """Return all of what is learned last in a text that is cut, with what of it is behind the cut.

    Args:
        tokens: of the whole text.
        learned: whether each is; one of the first `length` is, but for the very first.
        length: tokens that are kept.

    Example:
        >>> whole_turn([5, 6, 7, 8, 9], [False, True, True, True, False], length=2)
        [6, 7, 8]
    """
    start = max(at for at in range(1, length) if learned[at])
    end = start + 1
    while start > 1 and learned[start - 1]:
        start -= 1
    while end < len(tokens) and learned[end]:
        end += 1
    return list(tokens[start:end])


def continued(parts: Sequence[Parts], pad: int, longest: int) -> Batch:
    """Return a batch of texts, each with another ending, which is all that is learned.

    Args:
        parts: what is given, and the ending.
        pad: the padding token.
        longest: tokens of a text; what is too long loses its beginning.
    """
    rows = []
    for given, ending in parts:
        start = given[max(0, len(given) + len(ending) - longest) :]
        rows.append(with_labels([*start, *ending], [False] * len(start) + [True] * len(ending)))
    return causal_batch(rows, pad)


def prompts(parts: Sequence[Parts], pad: int, longest: int) -> dict[str, Tensor]:
    """Return what is given, as `generate` takes it: padded on the left, cut at the beginning.

    Args:
        parts: what is given and what follows, token numbers of each example.
        pad: the token that fills up.
        longest: tokens that are kept of what is given, its last ones.

    Returns:
        `input_ids` and `attention_mask`, each [examples, tokens].
    """
    given = [tokens[-longest:] for tokens, _ in parts]
    mask = padded([[1] * len(tokens) for tokens in given], 0, left=True)
    return {"input_ids": padded(given, pad, left=True), "attention_mask": mask}
