from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.average import Average
from saft.merging.methods.linear import Linear
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import elementwise as oracle


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [(0.5, 0.25, 0.25), (1.0, 2.0, 3.0), (1.5, -0.5, 0.75)])
def test_the_result_is_the_weighted_average_of_the_models(weights, normalize):
    base, task_vectors = torch.randn(50), torch.randn(3, 50) * 0.1
    found = base + merge_task_vectors(Linear(weights=weights, normalize=normalize), task_vectors, base)
    expected = oracle.linear((base + task_vectors).numpy(), weights, normalize)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-6)


def test_equal_weights_give_the_average_to_the_bit():
    task_vectors = torch.randn(5, 1000)
    expected = merge_task_vectors(Average(), task_vectors)
    for weights in ((1.0,), (1.0,) * 5, (0.5,) * 5):
        assert merge_task_vectors(Linear(weights=weights), task_vectors).equal(expected)


def test_a_weight_for_each_model_or_one_for_all():
    assert Linear().problems(3) == Linear(weights=(1, 2, 3)).problems(3) == []
    (problem,) = Linear(weights=(1, 2)).problems(3)
    assert problem.startswith("weights: has 2 numbers, but there are 3 models; give one for each")
    with pytest.raises(UserError, match=r"weights: must be a list of numbers.*, but is 0.3; write \[0.3\]"):
        Linear.build({"weights": 0.3})


def test_weights_that_cancel_are_refused_unless_they_are_not_divided_by():
    assert "add up to zero" in Linear(weights=(0.1, 0.2, -0.3)).problems(3)[0]
    assert Linear(weights=(0.1, 0.2, -0.3), normalize=False).problems(3) == []


def test_weights_through_the_stream(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    config = MergeConfig("linear", base, models, {"weights": [1, 2, 0], "normalize": False})
    for name, found in stream(check(config)):
        expected = task_tensors["a"][name] + 2 * task_tensors["b"][name]
        torch.testing.assert_close(base_tensors[name] + found, expected, rtol=1e-5, atol=1e-6)
    config = MergeConfig("linear", base, models, {"weights": [1, 2]})
    with pytest.raises(UserError, match=r"weights: has 2 numbers, but there are 3 models"):
        check(config)
