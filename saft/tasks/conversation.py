"""Conversations as a model's own template writes them, cut where what the assistant says begins and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from saft.errors import UserError

__all__ = ["Segment", "segments"]

Segment = tuple[str, bool]
"""A piece of a text, and whether it is learned."""


def segments(tokenizer: Any, messages: Sequence[Mapping[str, Any]], place: str) -> list[Segment]:
    """Return a conversation in pieces, of which those that the assistant says are learned.

    What follows the assistant's last message is left out: there is nothing to learn.

    Args:
        tokenizer: with a chat template, which transformers runs in a sandbox.
        messages: each with "role" and "content".
        place: begins every message to the user.

    Raises:
        UserError: a message lacks a key, the assistant says nothing, or the template refuses the conversation
            or writes earlier messages in another way once later ones follow.
    """
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise UserError(f"{place}: message {number} lacks `role` or `content`: {message!r:.80}")
    written, pieces = "", list[Segment]()
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _written(tokenizer, messages[:at], place, add_generation_prompt=True)
        after = _written(tokenizer, messages[: at + 1], place)
        if not (before.startswith(written) and after.startswith(before)):
            raise UserError(
                f"{place}: the model's chat template writes earlier messages in another way once message "
                f"{at + 1} follows, so what is learned cannot be told apart; end the conversation before it"
            )
        pieces += [(before.removeprefix(written), False), (after.removeprefix(before), True)]
        written = after
    if not pieces:
        raise UserError(f"{place}: no message has the role `assistant`, so there is nothing to learn")
    return pieces


def _written(tokenizer: Any, messages: Sequence[Any], place: str, **options: Any) -> str:
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise UserError(f"{place}: the model's chat template refuses it: {error}") from None
    return text
