from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.multi_slerp import MultiSlerp
from saft.merging.methods.slerp import Slerp
from saft.merging.stream.engine import merge_task_vectors, stream
from tests.oracles import matrix as oracle

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit"


def drawn(tasks, shape, spread=1.0):
    draw = torch.manual_seed(tasks)
    return torch.randn(shape, generator=draw), torch.randn(tasks, *shape, generator=draw) * spread


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (2.0, -0.5, 1.0)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("center", ["zero", "base"])
@pytest.mark.parametrize("shape", [(7,), (20, 30), (4, 3, 2, 2)])
def test_it_equals_the_way_through_the_tangent_space(weights, normalize, center, shape):
    base, task_vectors = drawn(3, shape)
    method = MultiSlerp(weights=weights, normalize=normalize, center=center)
    found = merge_task_vectors(method, task_vectors, base)
    weights = [weight / sum(weights) for weight in weights] if normalize else weights
    if center == "zero":
        expected = oracle.multi_slerp((base.double() + task_vectors).numpy(), weights) - base.double().numpy()
    else:
        expected = oracle.multi_slerp(task_vectors.double().numpy(), weights)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "method"),
    [
        ("multislerp", MultiSlerp(weights=(0.5, 0.3, 0.4))),
        ("multislerp_base", MultiSlerp(weights=(0.5, 0.3, 0.4), normalize=False, center="base")),
    ],
)
def test_the_numbers_are_mergekits(case, method):
    base, *models = (load_file(GOLDEN / name / "model.safetensors") for name in ("base", "a", "b", "c"))
    for name, expected in load_file(GOLDEN / f"{case}.safetensors").items():
        task_vectors = torch.stack([model[name] - base[name] for model in models])
        found = base[name] + merge_task_vectors(method, task_vectors, base[name])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_of_two_models_of_one_norm_it_is_the_middle_of_the_arc():
    task_vectors = torch.tensor([[3.0, 0.0, 4.0], [0.0, 5.0, 0.0]])
    expected = merge_task_vectors(Slerp(), task_vectors)
    torch.testing.assert_close(merge_task_vectors(MultiSlerp(), task_vectors), expected)


def test_where_the_mean_direction_is_zero_the_tensors_are_averaged():
    found = merge_task_vectors(MultiSlerp(), torch.tensor([[3.0, 0.0], [-1.0, 0.0]]))
    assert found.tolist() == [1.0, 0.0]


def test_a_tensor_of_zeros_has_no_direction_but_a_norm():
    found = merge_task_vectors(MultiSlerp(weights=(3.0, 1.0)), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    assert found.tolist() == [1.5, 0.0]


def test_weights_that_cancel_are_refused_unless_they_are_not_divided_by():
    assert "add up to zero" in MultiSlerp(weights=(1.0, -1.0)).problems(2)[0]
    assert MultiSlerp(weights=(1.0, -1.0), normalize=False).problems(2) == []


def test_through_the_stream(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    parameters = {"weights": [1, 2, 3]}
    for name, found in stream(check(MergeConfig("multi_slerp", base, models, parameters))):
        rows = torch.stack([tensors[name] - base_tensors[name] for tensors in task_tensors.values()])
        method = MultiSlerp(weights=(1, 2, 3))
        assert found.equal(merge_task_vectors(method, rows, base_tensors[name]))
