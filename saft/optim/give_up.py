"""A pass that will not be finished: its contexts are left as after an error, which is not raised."""

from __future__ import annotations

from contextlib import ExitStack, suppress

__all__ = ["give_up"]


class _GivenUp(Exception):
    """Thrown into a pass that will not be finished."""


def give_up(stack: ExitStack) -> None:
    """Leave the contexts of a stack as if the pass inside had failed, so that each undoes what it did.

    Args:
        stack: open, with the contexts of a pass; an error of their own is raised.

    Example:
        >>> from contextlib import contextmanager
        >>> @contextmanager
        ... def perturbed():
        ...     try:
        ...         yield
        ...         print("finished")
        ...     finally:
        ...         print("restored")
        >>> stack = ExitStack()
        >>> _ = stack.enter_context(perturbed())
        >>> give_up(stack)
        restored
    """
    with suppress(_GivenUp):
        stack.__exit__(_GivenUp, _GivenUp(), None)
