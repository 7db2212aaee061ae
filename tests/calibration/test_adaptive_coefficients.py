from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from saft.calibration.adaptive_coefficients import entropy
from saft.calibration.data import load_calibration_data
from saft.merging.methods.adamerging import AdaMerging
from saft.merging.methods.task_arithmetic import TaskArithmetic
from tests.oracles import data as oracle

pytestmark = pytest.mark.slow  # searches

STEPS = 4


def by_autograd(plan, coefficients):
    """The same search with a graph through the weighted sum of the task vectors."""
    material, method = load_calibration_data(plan), plan.method
    names = [name for name, _ in material.trunk.named_parameters()]
    base = {name: plan.base.tensor(material.names[name]) for name in names}
    vectors = {
        name: torch.stack([source.tensor(material.names[name]) for source in plan.models.values()])
        - base[name]
        for name in names
    }
    if method.vectors == "ties":
        vectors = oracle.ties_kept(vectors, method.density)
    count = len(names) if coefficients == "layer_wise" else 1
    found = torch.full((2, count), method.initial, requires_grad=True)
    optimizer = torch.optim.Adam([found], lr=method.learning_rate)
    data = plan.config.data
    for step in range(method.iterations):
        loss = torch.zeros(())
        for model, examples in material.examples.items():
            order = examples.training_order(data.batch_size, method.iterations, plan.config.seed)[step]
            classifier = material.model(model)
            weights = {
                f"trunk.{name}": base[name] + torch.einsum("k,k...->...", found[:, at % count], vectors[name])
                for at, name in enumerate(names)
            }
            logits = functional_call(classifier, weights, (examples.collate(order).inputs,))
            p = logits.softmax(dim=-1)
            loss = loss - (p * p.log()).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {material.names[name]: found.detach()[:, at % count] for at, name in enumerate(names)}


@pytest.mark.parametrize("vectors", ["whole", "ties"])
@pytest.mark.parametrize("coefficients", ["layer_wise", "task_wise"])
def test_the_search_equals_one_by_autograd(planned, collect, coefficients, vectors):
    parameters = {
        "iterations": STEPS,
        "learning_rate": 0.05,
        "coefficients": coefficients,
        "vectors": vectors,
    }
    plan = planned("adamerging", parameters)
    found, expected = collect(plan)["coefficients"], by_autograd(plan, coefficients)
    assert set(found["size"]) == set(plan.merged)
    for name, column in expected.items():
        for at, task in enumerate(("colour", "size")):
            assert found[task][name].shape == (1,)
            # Adam's first steps have the size of the rate whatever the gradient: noise shows where it is zero.
            if not name.startswith("pooler") and ".key.bias" not in name:
                torch.testing.assert_close(found[task][name][0], column[at], rtol=0, atol=2e-3)


def test_the_entropy_falls(planned, collect):
    """The coefficients that were found give surer predictions than those that they began with."""

    def reached(iterations):
        plan = planned(
            "adamerging", {"iterations": iterations, "learning_rate": 0.1}, examples=12, batch_size=12
        )
        material, found = load_calibration_data(plan), collect(plan)["coefficients"]
        for name, tensor in material.trunk.state_dict().items():
            for task, source in plan.models.items():
                own = material.names[name]
                step = source.tensor(own) - plan.base.tensor(own)
                tensor += found[task][own] * step
        with torch.no_grad():
            return sum(
                float(entropy(material.model(task)(examples.collate(list(range(12))).inputs)))
                for task, examples in material.examples.items()
            )

    assert reached(15) < reached(0) - 0.01


def test_a_tensor_that_no_example_reaches_keeps_its_coefficients(planned, collect):
    found = collect(planned("adamerging", {"iterations": 2, "initial": 0.4}))["coefficients"]
    for task in ("colour", "size"):
        assert found[task]["pooler.dense.weight"].item() == pytest.approx(0.4)
        assert found[task]["embeddings.word_embeddings.weight"].item() != pytest.approx(0.4)


def test_one_coefficient_for_each_task(planned, collect):
    found = collect(planned("adamerging", {"iterations": 2, "coefficients": "task_wise"}))["coefficients"]
    for task in ("colour", "size"):
        assert len({float(value) for value in found[task].values()}) == 1


def test_without_data_it_is_task_arithmetic():
    from saft.merging.stream.engine import merge_task_vectors

    vectors = torch.randn(3, 100)
    expected = 0.3 * merge_task_vectors(TaskArithmetic(), vectors)
    torch.testing.assert_close(merge_task_vectors(AdaMerging(), vectors), expected)
