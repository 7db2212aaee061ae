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
    messages = [
        _with_text(tokenizer, message, f"{place}: message {number}")
        for number, message in enumerate(messages, start=1)
    ]
    written, pieces = "", list[Segment]()
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if at == 0:
            raise UserError(f"{place}: begins with the assistant, who answers nobody; begin with a user")
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
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in messages))
        raise UserError(
            f"{place}: no message has the role `assistant`, whose words are learned, but {roles}; write the "
            "roles user and assistant, or leave the row out of the file"
        )
    return pieces


def _written(tokenizer: Any, messages: Sequence[Any], place: str, **options: Any) -> str:
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except Exception as error:  # a template is a program, and may fail as any does
        kind = "" if isinstance(error, jinja2.TemplateError | ValueError) else f"{type(error).__name__}: "
        raise UserError(f"{place}: the model's chat template refuses it: {kind}{error}") from None
    return text


def _with_text(tokenizer: Any, message: Any, place: str) -> Mapping[str, Any]:
    """Return a message whose content is a text: a template would write the name of whatever else it is.

    Parts that are texts become one. No content is one where the template knows what else a message holds.
    """
    calls = isinstance(message, Mapping) and message.get("tool_calls")
    if not isinstance(message, Mapping) or "role" not in message or not ("content" in message or calls):
        raise UserError(
            f"{place} lacks `role` or `content`: {message!r:.80}; write {{role: ..., content: ...}}"
        )
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("text") for part in content):
        content = "".join(str(part["text"]) for part in content)
    are_known = calls and "tool_calls" in str(tokenizer.chat_template)
    if not (isinstance(content, str | int | float) or (content is None and are_known)):
        raise UserError(f"{place} holds no text as its content, but {content!r:.80}; write one")
    return {**message, "content": content}
