from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from saft.calibration.data import load_calibration_data
from saft.calibration.input_gram import InputGram, rows_that_count
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig, MergeConfig
from saft.models import Conv1D
from tests.oracles import data as oracle


def test_the_products_are_those_of_the_examples_without_padding(planned, collect):
    plan = planned("regmean")
    found = collect(plan)
    assert not any(found["gram_of_rows"].values())
    material = load_calibration_data(plan)
    for task, classifier, examples in material.each_expert():
        linear = {
            f"{name}.weight": module
            for name, module in classifier.trunk.named_modules()
            if isinstance(module, nn.Linear)
        }
        expected = oracle.gram(classifier, examples, linear)
        assert set(found["gram"][task]) == set(expected)
        for name, product in expected.items():
            torch.testing.assert_close(found["gram"][task][name].double(), product, rtol=1e-4, atol=1e-5)


def test_a_layer_that_a_task_does_not_reach_has_products_of_zero(planned):
    """So that the other task's inputs decide there."""
    material = load_calibration_data(planned("regmean"))
    none = SimpleNamespace(batches=lambda size: [])
    material = dataclasses.replace(material, examples={**material.examples, "size": none})
    found = {(task, kind): each for task, kind, each in InputGram().collect(material, lambda cost: None)}
    assert found["size", "gram"].keys() == found["colour", "gram"].keys()
    assert not any(product.any() for product in found["size", "gram"].values())


def test_padding_counts_where_it_is_asked_for(planned, collect):
    plan = planned("regmean", {"padding": "counted"}, batch_size=5)  # all in one, padded to the longest
    found, without = collect(plan)["gram"], collect(planned("regmean", batch_size=5))["gram"]
    for task, classifier, examples in load_calibration_data(plan).each_expert():
        name = "encoder.layer.0.attention.self.query.weight"
        linear = {name: dict(classifier.trunk.named_modules())[name.removesuffix(".weight")]}
        expected = oracle.gram(classifier, examples, linear, [range(5)])[name]
        torch.testing.assert_close(found[task][name].double(), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found[task][name], without[task][name], rtol=1e-2)


def test_the_linear_layers_of_gpt2_are_those_of_their_rows(tiny_model, tiny_tasks, collect, tmp_path):
    """GPT-2's weights are [inputs, outputs]: the products belong to the rows."""
    torch.manual_seed(0)
    options = transformers.GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    shutil.copytree(tiny_model, tmp_path / "gpt2")  # for the tokenizer
    transformers.GPT2Model(options).save_pretrained(tmp_path / "gpt2")
    folder = str(tmp_path / "gpt2")
    data = DataConfig(tasks={"colour": tiny_tasks["colour"] | {"pooling": "last"}}, examples=3)
    plan = check(MergeConfig("regmean", folder, {"colour": folder}, data=data))
    found = collect(plan)
    assert not found["gram"]["colour"]
    material = load_calibration_data(plan)
    linear = {
        material.names[f"{name}.weight"]: module
        for name, module in material.trunk.named_modules()
        if isinstance(module, Conv1D)
    }
    expected = oracle.gram(material.model("colour"), material.examples["colour"], linear)
    assert len(expected) == 8
    for name, product in expected.items():
        torch.testing.assert_close(found["gram_of_rows"]["colour"][name].double(), product)
        assert len(product) == len(plan.base.tensor(name))


def test_excluded_layers_are_not_watched(planned, collect, tiny_model, experts):
    config = MergeConfig(
        "regmean", str(tiny_model), experts, exclude=["*.query.*", "pooler.*"], data=DataConfig(examples=2)
    )
    found = collect(check(config))["gram"]["size"]
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
