"""The toy space of tests/oracles, and the same models written out."""

from __future__ import annotations

import pytest

from saft.interference.task_space import TaskSpace
from tests.oracles.toy_space import Dense, toy_space


@pytest.fixture
def space() -> TaskSpace:
    """Return a space of three tasks, whose merge is the sum of the task vectors."""
    return toy_space()


@pytest.fixture
def dense(space: TaskSpace) -> Dense:
    """Return the oracle of the space."""
    return Dense(space)
