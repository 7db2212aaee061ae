"""The few exceptions that a user can meet, and the words that help them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from enum import IntEnum

__all__ = [
    "ExitCode",
    "Interrupted",
    "NotYet",
    "Note",
    "Unfinished",
    "UserError",
    "abbreviated",
    "as_user_error",
    "collecting",
    "did_you_mean",
    "first_line",
    "is_for_memory",
    "kept_on_interrupt",
]

_LISTED = 12
"""Names that a message lists at most, of those that there are."""
_FOR_MEMORY = (
    "allocate memory",
    "out of memory",
    "not enough memory",
    "ALLOC_FAILED",
    "out of shared memory",
)
"""What torch's errors for want of memory say, where they are of no kind of their own."""


class ExitCode(IntEnum):
    """What the command line ends with; a signal ends it with 128 and the signal's number."""

    DONE = 0
    FAULT = 1
    """A traceback, which is a fault of saft's; or what reads standard output has gone away."""
    MISTAKE = 2
    """The user can mend it: one line for each problem, and nothing half-written."""
    INTERRUPTED = 130
    """Ctrl-C."""


class Note(UserWarning):
    """What is right, but may not be meant; the command line prints it, a function of Python's warns of it.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", Note)  # whoever means it
    """


class UserError(Exception):
    """A mistake that the user can mend: the command line prints it without a traceback and exits with 2.

    The message says what is wrong, where (file, key, tensor), what was found on both sides, and the cure.

    Args:
        *problems: one message, or several when everything wrong was found at once.

    Example:
        >>> print(UserError("a.yaml: rho: must be at least 0, but is -1", "b.yaml: not found"))
        a.yaml: rho: must be at least 0, but is -1
        b.yaml: not found
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Unfinished(UserError):
    """A part of it went wrong and the rest is done: the command line prints that before the problems.

    Args:
        *problems: one message for each part that went wrong.
        finished: what would have been returned, of the rest.
    """

    def __init__(self, *problems: str, finished: object) -> None:
        super().__init__(*problems)
        self.finished = finished


class Interrupted(KeyboardInterrupt):
    """Ctrl-C has come when a part was done: the command line prints that before it ends.

    Args:
        finished: what would have been returned, of that part.
    """

    def __init__(self, finished: object) -> None:
        super().__init__(finished)
        self.finished = finished


@contextmanager
def kept_on_interrupt(finished: Callable[[], object]) -> Iterator[None]:
    """Hand on what is done when Ctrl-C comes inside.

    Args:
        finished: returns what would have been returned, of that part; None where nothing is done.

    Raises:
        Interrupted: where a part is done.

    Example:
        >>> try:
        ...     with kept_on_interrupt(lambda: "one of two"):
        ...         raise KeyboardInterrupt
        ... except Interrupted as interrupt:
        ...     interrupt.finished
        'one of two'
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if (done := finished()) is None:
            raise
        raise Interrupted(done) from interrupt


class NotYet(Exception):
    """What cannot be known before the slow libraries are imported, and is reported then: saft.stand_ins."""


@contextmanager
def collecting(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Put what is wrong inside into a list, so that everything is reported at once.

    Args:
        problems: the list.
        prefix: begins every message that does not begin with it.

    Example:
        >>> problems = []
        >>> with collecting(problems, "rho: "):
        ...     raise UserError("must be at least 0")
        >>> problems
        ['rho: must be at least 0']
    """
    try:
        yield
    except NotYet:
        pass
    except UserError as error:
        problems += [text if text.startswith(prefix) else prefix + text for text in error.problems]


@contextmanager
def as_user_error(what: str) -> Iterator[None]:
    """Turn whatever a library raises inside about a file of the user's into a UserError.

    Libraries raise anything at a damaged file: KeyError, TypeError, errors of their own.

    Args:
        what: begins the message: what cannot be read, or loaded.

    Raises:
        UserError: a library raised anything but a lack of memory.

    Example:
        >>> with as_user_error("config.json: cannot be read"):
        ...     {}["model_type"]
        Traceback (most recent call last):
        saft.errors.UserError: config.json: cannot be read: KeyError: 'model_type'
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_for_memory(error):
            raise
        text = str(error).strip().split("\n")
        words = text[0] if not text[0].endswith(":") else " ".join(" ".join(text).split())
        kind = "" if words and isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
        raise UserError(f"{what}: {kind}{words[:300]}".removesuffix(": ")) from None


def is_for_memory(error: BaseException) -> bool:
    """Return whether an error is for want of memory, a GPU's too: nothing is wrong with what was read.

    Args:
        error: that Python, torch or the system raised.

    Example:
        >>> is_for_memory(MemoryError()), is_for_memory(RuntimeError("CUDA error: out of memory"))
        (True, True)
        >>> is_for_memory(RuntimeError("shapes cannot be multiplied"))
        False
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: torch is not imported for it
    words = str(error) if isinstance(error, RuntimeError) else ""
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or any(said in words for said in _FOR_MEMORY)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of a library says, or what it is where it says nothing.

    Example:
        >>> first_line(OSError("\\nno route\\nmore of it")), first_line(TimeoutError())
        ('no route', 'TimeoutError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(name: str, options: Iterable[str], otherwise: str = "choose from") -> str:
    """Return a clause that suggests the nearest of `options`, or lists the first when none is near.

    The only one that begins with what was written, or with which it begins, is the nearest.

    Args:
        name: what the user wrote.
        options: what there is.
        otherwise: begins the list.

    Returns:
        A clause to put after the name, with its punctuation.

    Example:
        >>> "unknown method 'teis'" + did_you_mean("teis", ["ties", "pcb"])
        "unknown method 'teis'; did you mean 'ties'?"
        >>> "unknown method 'xyz'" + did_you_mean("xyz", ["ties", "pcb"])
        "unknown method 'xyz'; choose from: pcb, ties"
        >>> "unknown method 'arcee'" + did_you_mean("arcee", ["arcee_fusion", "karcher"])
        "unknown method 'arcee'; did you mean 'arcee_fusion'?"
        >>> "unknown method 'ties_merging'" + did_you_mean("ties_merging", ["dare_linear", "ties"])
        "unknown method 'ties_merging'; did you mean 'ties'?"
    """
    options = sorted(options)
    lowered = {option.lower().replace("-", "_"): option for option in options}
    written = name.lower().replace("-", "_")
    pairs = ((option, *sorted((option, written), key=len)) for option in lowered)
    begun = [option for option, short, long in pairs if len(short) > 2 and long.startswith(short)]
    near = begun if len(begun) == 1 else get_close_matches(written, lowered, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{lowered[near[0]]}'?"
    more = f" and {len(options) - _LISTED} more" if len(options) > _LISTED else ""
    return f"; {otherwise}: {', '.join(options[:_LISTED])}{more}" if options else ""


def abbreviated(names: Collection[str], quote: str = "'") -> str:
    """Return the first three names between `quote`s, and how many more there are.

    Example:
        >>> abbreviated(["a", "b", "c", "d", "e"])
        "'a', 'b', 'c' and 2 more"
    """
    shown = ", ".join(f"{quote}{name}{quote}" for name in list(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"
