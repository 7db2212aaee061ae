"""The file that a verb writes when its work is done: where it cannot be written, the work is not lost."""

from __future__ import annotations

from pathlib import Path

from saft.errors import Unfinished, UserError
from saft.files.staging import write_text

__all__ = ["write_last"]


def write_last(file: str | Path, text: str, finished: object) -> None:
    """Write a text file, complete or absent, of which everything is known.

    Args:
        file: the file to make or replace.
        text: its content.
        finished: what would have been returned; the command line prints it also where the file fails.

    Raises:
        Unfinished: the file cannot be written.
    """
    try:
        write_text(Path(file), text)
    except UserError as error:
        raise Unfinished(*error.problems, finished=finished) from error
    except OSError as error:
        raise Unfinished(
            f"{file}: could not be written: {error.strerror or error}", finished=finished
        ) from error
