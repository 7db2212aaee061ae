from __future__ import annotations

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.consensus import Consensus
from saft.merging.methods.task_arithmetic import TaskArithmetic
from saft.merging.methods.ties import Ties
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import elementwise as oracle


@pytest.mark.parametrize("at_least", [0, 1, 2, 4])
@pytest.mark.parametrize("merger", ["sum", "ties"])
@pytest.mark.parametrize("thresholds", [(0.4,), (0.2, 0.3, 0.6, 0.5)])
def test_what_helps_enough_tasks_is_kept(at_least, merger, thresholds):
    generator = torch.manual_seed(0)
    base, task_vectors = torch.randn(400, generator=generator), torch.randn(4, 400, generator=generator) * 0.1
    method = Consensus(at_least=at_least, merger=merger, thresholds=thresholds, trim=0.5)
    inner = Ties(density=0.5, combine="sum") if merger == "ties" else TaskArithmetic()
    vector = merge_task_vectors(inner, task_vectors)
    each = thresholds * 4 if len(thresholds) == 1 else thresholds
    expected = oracle.consensus(base.numpy(), task_vectors.numpy(), vector.numpy(), each, at_least)
    found = merge_task_vectors(method, task_vectors, base)
    assert found.equal(torch.from_numpy(expected))
    if at_least == 0:
        assert found.equal(vector)
    if at_least >= 2:
        assert 0 < found.count_nonzero() < vector.count_nonzero()


def test_an_entry_at_its_threshold_helps_nobody():
    exactly = torch.tensor([[0.25], [0.5]])  # the others add 0.5 to the first: 0.25 > 0.5 * 0.5 is false
    assert merge_task_vectors(Consensus(thresholds=(0.5,)), exactly).tolist() == [0.0]
    assert merge_task_vectors(Consensus(thresholds=(0.5,), at_least=1), exactly).tolist() == [0.75]


def test_one_task_is_all_that_can_be_helped():
    task_vector = torch.randn(1, 50)
    assert merge_task_vectors(Consensus(at_least=1), task_vector).equal(task_vector[0])
    assert merge_task_vectors(Consensus(), task_vector).equal(task_vector[0])
    assert Consensus().problems(1) == []


def test_a_threshold_for_each_model():
    (problem,) = Consensus(thresholds=(0.2, 0.3)).problems(3)
    assert problem.startswith("thresholds: has 2 numbers, but there are 3 models")


def test_through_the_stream(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    for name, found in stream(check(MergeConfig("consensus", base, models))):
        rows = torch.stack([(t[name] - base_tensors[name]).flatten() for t in task_tensors.values()])
        expected = merge_task_vectors(Consensus(), rows, base_tensors[name].flatten())
        assert found.flatten().equal(expected)
