from __future__ import annotations

import pytest
import torch
from torch import nn

from saft.calibration.gram import rows_that_count
from saft.calibration.material import gathered
from saft.models import Conv1D
from tests.oracles import data as oracle


def test_the_products_are_those_of_the_examples_without_padding(planned, collect):
    plan = planned("regmean")
    found = collect(plan)
    assert not any(found["gram_of_rows"].values())
    material = gathered(plan)
    for task, classifier, examples in material.experts():
        linear = {
            f"{name}.weight": module
            for name, module in classifier.trunk.named_modules()
            if isinstance(module, nn.Linear)
        }
        expected = oracle.gram(classifier, examples, linear)
        assert set(found["gram"][task]) == set(expected)
        for name, product in expected.items():
            torch.testing.assert_close(found["gram"][task][name].double(), product, rtol=1e-4, atol=1e-5)


def test_the_linear_layers_of_gpt2_are_told_apart(planned, collect, monkeypatch):
    """A layer that is turned into the other kind, whose weight is the transpose, sees the same inputs."""
    plan = planned("regmean")
    expected = collect(plan)["gram"]
    name = "encoder.layer.1.intermediate.dense"

    def turned(plan):
        material = gathered(plan)
        linear = material.trunk.get_submodule(name)
        conv = Conv1D(linear.out_features, linear.in_features)

        class Turned(Conv1D):
            def forward(self, x):
                return nn.functional.linear(x, linear.weight, linear.bias)

        conv.__class__ = Turned
        parent = material.trunk.get_submodule(name.rpartition(".")[0])
        parent.dense = conv
        return material, conv

    material, conv = turned(plan)
    assert type(conv) is not Conv1D
    from saft.calibration import gram

    monkeypatch.setitem(gram.KINDS, type(conv), gram.KINDS[Conv1D])
    monkeypatch.setattr(type(material), "set_to", lambda self, source: None)
    found = {}
    for task, kind, tensors in gram.collect(material, lambda cost: None):
        found.setdefault(kind, {})[task] = tensors
    assert set(found["gram_of_rows"]["size"]) == {f"{name}.weight"}
    assert found["gram_of_rows"]["size"][f"{name}.weight"].shape == (32, 32)
    assert set(found["gram"]["size"]) == set(expected["size"]) - {f"{name}.weight"}


def test_excluded_layers_are_not_watched(planned, collect, tiny_model, experts):
    from saft.merging import engine
    from saft.merging.config import DataConfig, MergeConfig

    config = MergeConfig(
        "regmean", str(tiny_model), experts, exclude=["*.query.*", "pooler.*"], data=DataConfig(examples=2)
    )
    found = collect(engine.check(config))["gram"]["size"]
    assert found
    assert not [name for name in found if "query" in name or "pooler" in name]


@pytest.mark.parametrize("shape", [(2, 3, 4), (6, 4)])
def test_padding_does_not_count(shape):
    inputs = torch.arange(24.0).view(shape)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    expected = inputs.view(6, 4)[[0, 1, 4, 5]]
    assert rows_that_count(inputs, mask).equal(expected)
    assert rows_that_count(inputs, None).equal(inputs.view(6, 4))
    pooled = torch.ones(2, 4)
    assert rows_that_count(pooled, mask).equal(pooled)
