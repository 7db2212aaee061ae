from __future__ import annotations

import pytest
import torch

from saft.calibration.data import load_calibration_data
from tests.oracles import data as oracle


@pytest.mark.parametrize("variant", ["paper", "mergelm"])
def test_the_information_equals_that_of_the_jacobian(planned, collect, variant):
    plan = planned("fisher", {"variant": variant})
    found = collect(plan)["fisher"]
    assert list(found) == ["colour", "size"]
    material = load_calibration_data(plan)
    for task, classifier, examples in material.each_expert():
        weights = material.parameters()
        if variant == "paper":
            expected = oracle.fisher_information(classifier, examples, list(weights.values()))
        else:
            batches = [[0, 1], [2, 3], [4]]
            expected = oracle.squared_batch_gradient(classifier, examples, list(weights.values()), batches)
        for name, information in zip(weights, expected, strict=True):
            torch.testing.assert_close(found[task][name].double(), information, rtol=1e-3, atol=1e-9)
        assert sum(float(information.sum()) for information in expected) > 0


def test_every_merged_tensor_has_its_information_and_the_pooler_has_none(planned, collect):
    plan = planned("fisher")
    found = collect(plan)["fisher"]["size"]
    assert set(found) == set(plan.merged)
    assert found["pooler.dense.weight"].count_nonzero() == 0
    assert all((information >= 0).all() for information in found.values())


def test_two_estimates_differ(planned, collect):
    """The one of batches holds products of different examples: it is no mere multiple."""
    one, other = (collect(planned("fisher", {"variant": v}))["fisher"]["size"] for v in ("paper", "mergelm"))
    a, b = (found["embeddings.word_embeddings.weight"].flatten() for found in (one, other))
    assert torch.cosine_similarity(a, b, dim=0) < 0.999
