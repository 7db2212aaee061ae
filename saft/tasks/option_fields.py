"""What templates may hold of options: each in turn, its letter, all of a row, and what is around a blank."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Sequence

from saft.errors import UserError

__all__ = ["AFTER", "BEFORE", "LETTER", "OPTION", "OPTIONS", "around_blank", "filled_in", "option_fields"]

OPTION = "option"
"""The field of a template that each option is filled in for."""
LETTER = "letter"
"""The field for the letter of each option."""
OPTIONS = "options"
"""The field for all options of a row, each in a line with its letter."""
BEFORE, AFTER = "before", "after"
"""The fields for what is before and after the blank of a row's sentence."""


def filled_in(blank: str | None) -> set[str]:
    """Return the fields of templates that are no columns, where there are options.

    Args:
        blank: the column of sentences with a blank, if there is one.

    Example:
        >>> sorted(filled_in(None))
        ['letter', 'option', 'options']
    """
    return {OPTION, LETTER, OPTIONS} | (set() if blank is None else {BEFORE, AFTER})


def option_fields(options: Sequence[str], used: Collection[str], place: str) -> list[dict[str, str]]:
    """Return for each option of a row what the fields hold that are about options.

    Args:
        options: of the row.
        used: the fields that the templates hold.
        place: begins the message to the user: where the options are, and the row.

    Raises:
        UserError: a letter is to be filled in, but there are fewer than options.

    Example:
        >>> option_fields(["red", "blue"], ["options", "letter"], "t.options: row 1")[1]
        {'option': 'blue', 'letter': 'B', 'options': 'A. red\\nB. blue'}
    """
    letters = string.ascii_uppercase
    if len(options) > len(letters):
        if {LETTER, OPTIONS}.intersection(used):
            raise UserError(
                f"{place} has {len(options)} options, but there are {len(letters)} letters; "
                f"leave {{{LETTER}}} and {{{OPTIONS}}} out of the templates, or the row out of the file"
            )
        letters = letters.ljust(len(options))
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=False))
    return [
        {OPTION: option, LETTER: letter, OPTIONS: lines}
        for letter, option in zip(letters, options, strict=False)
    ]


def around_blank(sentence: str, place: str) -> dict[str, str]:
    """Return what is before and after the blank of a sentence.

    Args:
        sentence: with one blank: `_`, or a longer line.
        place: begins the message to the user: where the sentences are, and the row.

    Raises:
        UserError: there is no blank, or more than one.

    Example:
        >>> around_blank("It fits since the _ is big.", "t.blank: row 1")
        {'before': 'It fits since the ', 'after': ' is big.'}
    """
    parts = re.split("_+", sentence)
    if len(parts) != 2:
        blanks = "no blank" if len(parts) == 1 else f"{len(parts) - 1} blanks"
        raise UserError(
            f"{place} has {blanks} in {sentence!r:.80}; write one _ where an option is to stand, or leave "
            "the row out of the file"
        )
    return dict(zip((BEFORE, AFTER), parts, strict=True))
