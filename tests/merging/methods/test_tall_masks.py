from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods.tall_masks import TallMasks
from saft.merging.stream.engine import merge_task_vectors
from tests.oracles import parts as oracle

CASES = json.loads((Path(__file__).parents[2] / "golden" / "small_cases.json").read_text())
TASK_VECTORS = torch.tensor(CASES["small_3x5"]["inputs"]["task_vectors"])


@pytest.mark.parametrize("thresholds", [(0.4,), (0.0,), (0.2, 0.4, 0.6, 3.0)])
@pytest.mark.parametrize("count", [1, 8, 1001])
def test_every_threshold_equals_the_equations_to_the_bit(thresholds, count):
    task_vectors = torch.randn(4, count, generator=torch.manual_seed(count)) * 1e-2
    found = merge_task_vectors(TallMasks(thresholds=thresholds), task_vectors)
    each = thresholds if len(thresholds) == 4 else thresholds * 4
    assert found.equal(torch.from_numpy(oracle.tall_masks(task_vectors.numpy(), each)))


@pytest.mark.parametrize("threshold", [0.2, 0.4, 0.6])
def test_the_authors_own_result(threshold):
    found = merge_task_vectors(TallMasks(thresholds=(threshold,)), TASK_VECTORS)
    expected = CASES["small_3x5"]["outputs"]
    assert found.tolist() == expected[f"tall.lambda{threshold}.compressed_task_deltas"]
    assert found.ne(0).int().tolist() == expected[f"tall.lambda{threshold}.masks"]


def test_what_no_task_has_moved_is_masked():
    task_vectors = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert merge_task_vectors(TallMasks(thresholds=(0.0,)), task_vectors).tolist() == [[0, 2], [0, 2]]


def test_a_wrong_number_of_thresholds_is_told_before_a_weight_is_read(checkpoints):
    base, models = checkpoints
    config = MergeConfig("tall_masks", base, models, {"thresholds": [0.2, 0.4]})
    with pytest.raises(UserError, match=r"thresholds: has 2 numbers, but there are 3 models"):
        check(config)


def test_in_float64_a_threshold_has_all_its_digits():
    task_vectors = torch.tensor([[0.4 + 3e-9], [1.0]], dtype=torch.float64)  # float32 has 0.4 + 6e-9
    found = merge_task_vectors(TallMasks(), task_vectors, arithmetic=torch.float64)
    assert found.ne(0).tolist() == [[True], [True]]
