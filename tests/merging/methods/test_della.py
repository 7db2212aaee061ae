from __future__ import annotations

import numpy as np
import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.della import Della
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import elementwise, merging


def dropped(task_vectors, uniform, method):
    """What is left of the task vectors, by the equations: float64 [n_tasks, n]."""

    def rows(tensors):
        if method.within == "row" and tensors.ndim > 2:
            return tensors.flatten(2).numpy()
        return tensors.reshape(len(tensors), 1, -1).numpy()

    left = []
    for task, drawn in zip(rows(task_vectors), rows(uniform), strict=True):
        found = []
        for row, numbers in zip(task, drawn, strict=True):
            probabilities = elementwise.della_probabilities(row, method.density, method.epsilon)
            kept = np.where(numbers < probabilities, row.astype(np.float64), 0)
            found.append(kept / probabilities if method.rescale == "probability" else kept)
        found = np.concatenate(found)
        if method.rescale == "norm" and abs(found).sum() > 0:
            found = found * abs(task.astype(np.float64)).sum() / abs(found).sum()
        left.append(found)
    return np.stack(left)


@pytest.mark.parametrize("shape", [(1,), (40,), (6, 20), (20, 1), (4, 3, 2, 5)])
@pytest.mark.parametrize("within", ["row", "tensor"])
@pytest.mark.parametrize("rescale", ["probability", "norm", "none"])
@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.9, 0.05), (0.3, 0.0), (1.0, 0.1)])
def test_the_sum_of_what_is_left_equals_the_equations(shape, within, rescale, density, epsilon):
    task_vectors = torch.randn(3, *shape, generator=torch.manual_seed(0))
    uniform = Block(task_vectors, torch.zeros(shape), seed=5).uniform()
    method = Della(density=density, epsilon=epsilon, within=within, rescale=rescale, merger="sum")
    expected = torch.from_numpy(dropped(task_vectors, uniform, method).sum(axis=0)).float()
    found = merge_task_vectors(method, task_vectors, seed=5)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_ties_merges_what_is_left(combine):
    task_vectors = torch.randn(3, 10, 30, generator=torch.manual_seed(0))
    uniform = Block(task_vectors, torch.zeros(10, 30)).uniform()
    method = Della(combine=combine)
    left = dropped(task_vectors, uniform, method).astype(np.float32)
    expected = torch.from_numpy(merging.ties(left, 1.0, combine)).view(10, 30)
    found = merge_task_vectors(method, task_vectors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.2, 0.1), (0.8, 0.2)])
def test_the_expectation_of_each_entry_is_that_entry(density, epsilon):
    row = torch.tensor([0.5, -4.0, 2.0, -1.0, 3.0])
    many = row.repeat(100_000, 1).unsqueeze(0)  # 100 000 equal rows
    found = merge_task_vectors(Della(density=density, epsilon=epsilon, merger="sum"), many)
    probabilities = torch.from_numpy(elementwise.della_probabilities(row.numpy(), density, epsilon)).float()
    deviation = row.abs() * ((1 - probabilities) / probabilities / 100_000).sqrt()
    assert ((found.mean(dim=0) - row).abs() <= 4 * deviation + 1e-6).all()
    shares = found.ne(0).float().mean(dim=0)
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=0.01)
    assert shares.argsort().tolist() == row.abs().argsort().tolist()


def test_the_window_is_made_smaller_where_it_does_not_fit():
    task_vectors = torch.randn(1, 30, 40, generator=torch.manual_seed(0))
    wide = Della(density=0.1, epsilon=0.5, merger="sum")
    assert merge_task_vectors(wide, task_vectors).equal(
        merge_task_vectors(Della(density=0.1, epsilon=0.1, merger="sum"), task_vectors)
    )
    smallest = task_vectors[0].abs().argmin(dim=1, keepdim=True)
    assert merge_task_vectors(wide, task_vectors).gather(1, smallest).count_nonzero() == 0
    everything = Della(density=1.0, epsilon=0.5, merger="sum")
    assert merge_task_vectors(everything, task_vectors).equal(task_vectors[0])


def test_rows_of_one_entry_are_kept_with_the_density():
    task_vector = torch.ones(1, 10_000, 1)
    found = merge_task_vectors(Della(density=0.3, merger="sum", rescale="none"), task_vector)
    assert abs(found.mean() - 0.3) < 0.02


@pytest.mark.parametrize("merger", ["sum", "ties"])
def test_each_tensor_draws_its_own_numbers_in_the_stream(checkpoints, base_tensors, task_tensors, merger):
    base, models = checkpoints
    method = Della(merger=merger)
    for name, found in stream(check(MergeConfig("della", base, models, {"merger": merger}, seed=3))):
        task_vectors = torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        assert found.shape == task_vectors.shape[1:]
        if not found.numel():
            continue
        uniform = Block(task_vectors, base_tensors[name], name, seed=3).uniform()
        expected = dropped(task_vectors, uniform, method)
        if merger == "ties":
            expected = merging.ties(expected.astype(np.float32), 1.0)
        else:
            expected = expected.sum(axis=0)
        torch.testing.assert_close(found.flatten(), torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-6)
