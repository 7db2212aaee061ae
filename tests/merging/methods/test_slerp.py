from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.slerp import Slerp
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle


def expected(base, task_vectors, t):
    first, second = (base.double() + task_vectors.double()).numpy()
    return torch.as_tensor(oracle.slerp(first, second, t)) - base


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 10.0])  # from nearly parallel to nearly orthogonal
@pytest.mark.parametrize("shape", [(), (5,), (30, 40), (4, 3, 2, 2)])
def test_the_result_is_on_the_arc(t, spread, shape):
    draw = torch.manual_seed(0)
    base, task_vectors = torch.randn(shape, generator=draw), torch.randn(2, *shape, generator=draw) * spread
    found = merge_task_vectors(Slerp(t=t), task_vectors, base)
    torch.testing.assert_close(found.double(), expected(base, task_vectors, t), rtol=1e-4, atol=1e-5 * spread)


def test_the_ends_of_the_arc_are_the_models_to_the_bit():
    base, task_vectors = torch.randn(20, 30), torch.randn(2, 20, 30)
    for t in (0, 1):
        assert merge_task_vectors(Slerp(t=float(t)), task_vectors, base).equal(task_vectors[t])


@pytest.mark.parametrize(
    "task_vectors", [[[1.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [-1.0, -2.0]], [[0.0] * 2] * 2]
)
def test_without_an_angle_the_arc_is_a_line(task_vectors):
    first, second = torch.tensor(task_vectors)
    found = merge_task_vectors(Slerp(t=0.25), torch.stack([first, second]))
    torch.testing.assert_close(found, 0.75 * first + 0.25 * second)


def test_two_models_are_merged_neither_more_nor_fewer(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    with pytest.raises(UserError, match="this method merges 2, but there are 3"):
        check(MergeConfig("slerp", base, models))
    two = {task: models[task] for task in ("a", "b")}
    for name, found in stream(check(MergeConfig("slerp", base, two, {"t": 0.2}))):
        rows = torch.stack([task_tensors[task][name] - base_tensors[name] for task in two])
        assert found.equal(merge_task_vectors(Slerp(t=0.2), rows, base_tensors[name]))
