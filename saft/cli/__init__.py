"""The command line: one verb, one config, one result. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from saft.cli.any_encoding import print_in_any_encoding
from saft.cli.verbs import VERBS
from saft.cli.words import Words, parser, understood
from saft.errors import ExitCode, Interrupted, Unfinished, UserError, is_for_memory
from saft.signals import interrupts
from saft.stand_ins import stand_ins

__all__ = ["VERBS", "main"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_CURE = "take a smaller micro_batch_size or batch, gradient_checkpointing: true, or fewer models at once"


def main(words: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code; see `ExitCode`."""
    words = list(sys.argv[1:] if words is None else words)
    received: list[int] = []
    print_in_any_encoding(sys.stdout, sys.stderr)
    try:
        with interrupts(received):
            _run(understood(words))
            sys.stdout.flush()
    except UserError as error:
        return _complain(*error.problems)
    except BrokenPipeError:  # what reads our words, such as `head`, has had enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAULT
    except Exception as error:
        if is_for_memory(error):
            return _complain(f"there is not enough memory; {_CURE}")
        if not isinstance(error, OSError) or error.strerror is None:
            raise
        told = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        return _complain(f"{told}; make room ({_after(words)})" if error.errno in _FULL else told)
    except KeyboardInterrupt:
        _complain(f"interrupted; {_after(words)}")
        return ExitCode.INTERRUPTED if not received else 128 + received[0]
    return ExitCode.DONE


def _after(words: Sequence[str]) -> str:
    """Return what is to be said of a verb that did not come to its end."""
    return next((VERBS[word].interrupted for word in words[:1] if word in VERBS), "nothing was written")


def _run(words: Words) -> None:
    if words.verb is None:
        parser().print_help()
    elif words.help:
        from saft.cli.help import print_help

        with stand_ins():
            print_help(words.verb)
    elif words.only_lists:
        with stand_ins():
            _print(words.call())
    else:
        try:
            _print(words.call())
        except (Unfinished, Interrupted) as error:
            _print(error.finished)
            raise


def _print(result: object) -> None:
    """Print a table, or a text as it stands: a command in it can be copied."""
    page, tables = getattr(result, "page", None), getattr(result, "tables", None)
    result = result.table() if hasattr(result, "table") else result
    if hasattr(result, "__rich_console__") or hasattr(result, "__rich__"):
        from saft.console import show

        show(result)
    else:
        print(result)
    if page is not None:
        print(f"report: {page}; tables: {tables}")


def _complain(*problems: str) -> int:
    for problem in problems:
        print(f"saft: {problem}", file=sys.stderr)
    return ExitCode.MISTAKE
