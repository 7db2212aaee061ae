from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saft.tasks.examples import Batch, Examples, permutation


def numbered(count: int) -> Examples:
    """Return examples whose label and only input are their number."""

    def collate(indices: list[int]) -> Batch:
        values = torch.tensor(indices)
        return Batch({"x": values.unsqueeze(1)}, values)

    return Examples([1 + index % 3 for index in range(count)], collate)


@given(
    count=st.integers(1, 40), batch_size=st.integers(1, 16), steps=st.integers(1, 20), seed=st.integers(0, 9)
)
@settings(deadline=None, derandomize=True)
def test_training_order_sees_every_example_equally_often(
    count: int, batch_size: int, steps: int, seed: int
) -> None:
    order = numbered(count).training_order(batch_size, steps, seed)
    assert [len(batch) for batch in order] == [batch_size] * steps
    seen = Counter(index for batch in order for index in batch)
    assert set(seen) <= set(range(count))
    assert max(seen.values()) - min(seen.get(index, 0) for index in range(count)) <= 1


def test_training_order_depends_on_the_seed_alone() -> None:
    examples = numbered(20)
    assert examples.training_order(4, 10, 0) == examples.training_order(4, 10, 0)
    assert examples.training_order(4, 10, 0)[:5] == list(examples.training_order(4, 5, 0))
    assert list(examples.training_order(4, 10, 0)) != list(examples.training_order(4, 10, 1))


def test_a_batch_of_any_step_is_that_of_the_epochs_in_a_row() -> None:
    in_a_row = [index for epoch in range(9) for index in permutation(7, 3, epoch)]
    order = numbered(7).training_order(5, 12, 3)
    for step in (11, 0, 5, 6):
        assert order[step] == in_a_row[5 * step : 5 * step + 5]
    with pytest.raises(IndexError):
        order[12]


def test_a_training_of_any_length_takes_no_memory_beforehand() -> None:
    assert len(numbered(7).training_order(7, 10**9, 0)[10**9 - 1]) == 7


@given(count=st.integers(0, 40), batch_size=st.integers(1, 16))
@settings(deadline=None, derandomize=True)
def test_batches_hold_every_example_once(count: int, batch_size: int) -> None:
    seen = [label for batch in numbered(count).batches(batch_size) for label in batch.labels.tolist()]
    assert sorted(seen) == list(range(count))


def test_a_batch_splits_into_micro_batches() -> None:
    batch = numbered(7).collate(list(range(7)))
    parts = list(batch.split(3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.inputs["x"] for part in parts]), batch.inputs["x"])
    assert [len(part) for part in batch.split(None)] == [7]


def test_permutations_of_different_streams_differ() -> None:
    assert sorted(permutation(50, 0)) == list(range(50))
    assert permutation(50, 0, 0) != permutation(50, 0, 1)
    assert permutation(0, 0) == []


def test_a_number_to_be_learned_is_not_taken_for_a_label_that_is_ignored() -> None:
    """A regression of -100 counted as no target, so that its batch weighed less than its examples."""
    temperatures = Batch({}, torch.tensor([-100.0, 20.0, -100.0]))
    assert int(temperatures.targets) == 3
    assert int(Batch({}, torch.tensor([-100, 20])).targets) == 1
    assert temperatures.targets.dtype == torch.long
