from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from saft.optim.not_compiled import not_compiled, not_traced

SEEN: list[bool] = []


@not_compiled
@contextmanager
def noting() -> Iterator[None]:
    SEEN.append(torch.compiler.is_compiling())
    try:
        yield
    except ValueError:
        SEEN.append(torch.compiler.is_compiling())


@not_traced
def note() -> int:
    SEEN.append(torch.compiler.is_compiling())
    return 3


@pytest.mark.filterwarnings("ignore")
def test_entry_and_exit_run_as_written() -> None:
    def inside() -> int:
        with noting():
            pass
        return note()

    SEEN.clear()
    assert torch.compile(inside, backend="eager")() == 3
    assert SEEN == [False, False]


def test_exceptions_reach_the_context() -> None:
    SEEN.clear()
    with noting():
        raise ValueError
    assert SEEN == [False, False]
