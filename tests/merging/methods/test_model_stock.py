from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.model_stock import ModelStock
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle

MEANS = pytest.mark.parametrize("mean_of", ["cosines", "angles"])


def drawn(tasks, shape, common=1.0):
    """Task vectors that have a part in common."""
    draw = torch.manual_seed(tasks)
    return torch.randn(shape, generator=draw) * common + torch.randn(tasks, *shape, generator=draw)


@MEANS
@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("common", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("shape", [(7,), (20, 30), (4, 3, 2, 2)])
def test_the_share_of_the_average_equals_the_equations(mean_of, tasks, common, shape):
    task_vectors = drawn(tasks, shape, common)
    found = merge_task_vectors(ModelStock(mean_of=mean_of), task_vectors)
    expected = oracle.model_stock(task_vectors.double().numpy(), mean_of)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-6)


@MEANS
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2)])
def test_by_row_each_row_is_merged_by_itself(mean_of, shape):
    task_vectors = drawn(3, shape)
    found = merge_task_vectors(ModelStock(mean_of=mean_of, filter_wise=True), task_vectors)
    for at in range(shape[0]):
        row = merge_task_vectors(ModelStock(mean_of=mean_of), task_vectors[:, at])
        torch.testing.assert_close(found[at], row)


@MEANS
def test_equal_models_are_kept_and_orthogonal_ones_dropped(mean_of):
    vector = torch.randn(10)
    torch.testing.assert_close(merge_task_vectors(ModelStock(mean_of=mean_of), vector.repeat(3, 1)), vector)
    found = merge_task_vectors(ModelStock(mean_of=mean_of), torch.eye(4))
    torch.testing.assert_close(found, torch.zeros(4))


def test_the_mean_of_the_angles_is_not_that_of_the_cosines():
    task_vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = [
        merge_task_vectors(ModelStock(mean_of=mean_of), task_vectors) for mean_of in ("cosines", "angles")
    ]
    assert not found[0].allclose(found[1], rtol=1e-2)


def test_directions_that_add_up_to_zero_give_the_base():
    third = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    assert merge_task_vectors(ModelStock(), third).equal(torch.zeros(2))


def test_short_task_vectors_have_an_angle():
    """mergekit takes vectors whose norms multiply to less than 1e-6 for nearly orthogonal."""
    vector = torch.full((1, 4), 1e-6)
    torch.testing.assert_close(merge_task_vectors(ModelStock(), vector.repeat(2, 1)), vector[0])


def test_one_model_is_not_enough(checkpoints):
    base, models = checkpoints
    with pytest.raises(UserError, match="this method merges 2 or more, but there are 1"):
        check(MergeConfig("model_stock", base, {"a": models["a"]}))
    assert all(found.isfinite().all() for _, found in stream(check(MergeConfig("model_stock", base, models))))
