from __future__ import annotations

import pytest
import torch

from saft.merging.methods.magmax import MagMax
from saft.merging.stream.engine import merge_task_vectors
from tests.oracles import elementwise as oracle


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_the_largest_entry_counts(tasks):
    task_vectors = torch.randn(tasks, 200, generator=torch.manual_seed(tasks)).mul(4).round() / 4
    expected = torch.from_numpy(oracle.magmax(task_vectors.numpy()))
    assert merge_task_vectors(MagMax(), task_vectors).equal(expected)


def test_of_equal_magnitudes_the_later_counts_as_in_the_authors_code():
    found = merge_task_vectors(
        MagMax(), torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, 0.25], [1.0, 1.0, -0.5]])
    )
    assert found.tolist() == [1.0, 2.0, -0.5]
