"""Giving up a pass undoes it without an error; an error of the undoing itself is seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from saft.optim.give_up import give_up


def test_contexts_are_left_as_after_an_error_the_last_first() -> None:
    left = []

    @contextmanager
    def undone(name: str) -> Iterator[None]:
        try:
            yield
            left.append(f"{name} finished")
        except Exception:
            left.append(f"{name} undone")
            raise

    stack = ExitStack()
    for name in ("outer", "inner"):
        stack.enter_context(undone(name))
    give_up(stack)
    assert left == ["inner undone", "outer undone"]


def test_an_error_of_the_undoing_is_raised() -> None:
    @contextmanager
    def broken() -> Iterator[None]:
        try:
            yield
        finally:
            raise OSError("the weights are gone")

    stack = ExitStack()
    stack.enter_context(broken())
    with pytest.raises(OSError, match="the weights are gone"):
        give_up(stack)
