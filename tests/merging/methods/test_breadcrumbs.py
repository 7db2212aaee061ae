from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.breadcrumbs import Breadcrumbs
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import elementwise, merging


def masked(task_vectors, method):
    """The task vectors without noise and outliers, row after row: [n_tasks, n]."""
    rows = task_vectors.reshape(len(task_vectors), 1, -1)
    if method.within == "row" and task_vectors.ndim > 2:
        rows = task_vectors.flatten(2)
    found = [
        [
            torch.from_numpy(elementwise.breadcrumbs(row.numpy(), method.density, method.outliers))
            for row in task
        ]
        for task in rows
    ]
    return torch.stack([torch.cat(task) for task in found])


@pytest.mark.parametrize("shape", [(1,), (40,), (6, 20), (20, 1), (4, 3, 2, 5)])
@pytest.mark.parametrize("density", [0.01, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("outliers", [0.0, 0.006, 0.1, 0.9])
@pytest.mark.parametrize("within", ["row", "tensor"])
def test_the_middle_of_the_magnitudes_is_kept(shape, density, outliers, within):
    task_vectors = torch.randn(3, *shape, generator=torch.manual_seed(0))
    method = Breadcrumbs(density=density, outliers=outliers, within=within)
    expected = torch.from_numpy(merging.in_order(masked(task_vectors, method).numpy()))
    assert merge_task_vectors(method, task_vectors).flatten().equal(expected)


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_ties_merges_what_is_kept(combine):
    task_vectors = torch.randn(4, 10, 30, generator=torch.manual_seed(0)).mul(8).round() / 8
    task_vectors += torch.arange(300).view(10, 30) * 1e-6 * task_vectors.sign()  # no two are equal
    method = Breadcrumbs(density=0.4, outliers=0.1, merger="ties", combine=combine)
    expected = torch.from_numpy(merging.ties(masked(task_vectors, method).numpy(), 1.0, combine))
    found = merge_task_vectors(method, task_vectors)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-6, atol=0)


def test_the_fractions_are_of_each_row_or_of_the_tensor():
    task_vector = torch.randn(1, 50, 1000, generator=torch.manual_seed(0))
    by_row = merge_task_vectors(Breadcrumbs(), task_vector)
    assert by_row.count_nonzero(dim=1).tolist() == [150] * 50
    whole = merge_task_vectors(Breadcrumbs(within="tensor"), task_vector)
    assert whole.count_nonzero() == 7500
    assert whole.count_nonzero(dim=1).unique().numel() > 1
    dropped = task_vector[0][by_row == 0].abs()
    assert (dropped > by_row.abs().max()).any()
    assert (dropped < by_row.abs()[by_row != 0].min()).any()


def test_a_tensor_with_less_than_one_outlier_keeps_its_largest_where_mergekit_keeps_nothing():
    task_vector = torch.arange(1.0, 11.0).view(1, 10)
    found = merge_task_vectors(Breadcrumbs(density=0.3, outliers=0.01), task_vector)
    assert found.tolist() == [0.0] * 7 + [8.0, 9.0, 10.0]


def test_all_that_is_tied_is_kept():
    task_vector = torch.tensor([[1.0, -1.0, 1.0, -1.0, 0.5, 2.0]])
    found = merge_task_vectors(Breadcrumbs(density=0.2, outliers=0.2), task_vector)
    assert found.tolist() == [1.0, -1.0, 1.0, -1.0, 0.0, 0.0]


def test_weights():
    task_vectors = torch.tensor([[1.0, 1.0], [-2.0, 2.0]])
    everything = {"density": 1.0, "outliers": 0.0, "weights": (4.0, 1.0)}
    assert merge_task_vectors(Breadcrumbs(**everything), task_vectors).tolist() == [2.0, 6.0]
    assert merge_task_vectors(Breadcrumbs(merger="ties", **everything), task_vectors).tolist() == [4.0, 6.0]


@pytest.mark.parametrize("merger", ["sum", "ties"])
def test_through_the_stream(checkpoints, base_tensors, task_tensors, merger):
    base, models = checkpoints
    found = dict(stream(check(MergeConfig("breadcrumbs", base, models, {"merger": merger}))))
    method = Breadcrumbs(merger=merger)
    for name, merged in found.items():
        task_vectors = torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        assert merged.shape == task_vectors.shape[1:]
        if merged.numel():
            assert merged.equal(merge_task_vectors(method, task_vectors))
