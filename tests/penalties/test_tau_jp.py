"""tau-Jp: the dense Jacobian, real models, and what it is beside the drift."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional

from saft.parametrizations.linearized import Linearized
from saft.penalties import Setting, Unlabelled
from saft.penalties.drift import Drift
from saft.penalties.tau_jp import TauJp
from saft.penalties.unlabelled import drawn
from tests.contracts.test_penalties import features, model_of, moved, setting


def test_it_is_the_squared_product_of_the_dense_jacobian_and_the_task_vector() -> None:
    around, base = setting(), model_of().eval()
    model = copy.deepcopy(base).train()
    bound = TauJp(strength=3.0, every=8, examples=5).bind(model.trunk, around)
    moved(model)
    name, indices = drawn({"task0": 40, "task1": 40}, 5, around.seed, 16)
    named = dict(base.trunk.named_parameters())
    change = [now - then for now, then in zip(model.trunk.parameters(), named.values(), strict=True)]
    expected = 0.0
    for index in indices:
        inputs = around.reference[name].inputs([index], torch.device("cpu"))
        outputs = functional.normalize(features(base.trunk, inputs)[0], dim=0)
        for output in outputs:  # a row of the Jacobian at a time
            row = torch.autograd.grad(output, list(named.values()), retain_graph=True, allow_unused=True)
            along = sum((g * d.detach()).sum() for g, d in zip(row, change, strict=True) if g is not None)
            expected += along.item() ** 2
    assert bound.loss(model.trunk, 16).item() == pytest.approx(8 * 3.0 * expected / 5, rel=1e-4)


def test_for_a_small_task_vector_it_is_the_drift() -> None:
    model = model_of()
    both = [some.bind(model.trunk, setting()) for some in (TauJp(examples=8), Drift(examples=8))]
    moved(model, by=1e-3)
    tangent, drift = (bound.loss(model.trunk, 4).item() for bound in both)
    assert tangent == pytest.approx(drift, rel=0.02)


def test_only_what_is_trained_counts() -> None:
    model = model_of()
    model.trunk.embed.weight.requires_grad_(False)
    bound = TauJp().bind(model.trunk, setting())
    with torch.no_grad():
        model.trunk.embed.weight.add_(1.0)
    assert bound.loss(model.trunk, 0).item() == 0


def test_a_transformer_with_fused_attention_has_it_and_so_has_its_tangent() -> None:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    trunk = BertModel(BertConfig(vocab_size=11, **size), add_pooling_layer=False)
    linear = copy.deepcopy(trunk)
    Linearized().wrap(linear, losses=lambda count: iter(()))

    def pooled(trunk: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return trunk(**inputs).last_hidden_state[:, 0]

    around = setting()
    around = dataclasses.replace(
        around,
        reference={key: Unlabelled(pooled, some.examples) for key, some in around.reference.items()},
    )
    values = []
    for model in (trunk, linear):
        bound = TauJp(examples=4).bind(model, around)
        moved(model, by=0.02)
        loss = bound.loss(model, 0)
        loss.backward()
        values.append((loss.item(), model.embeddings.word_embeddings.weight.grad.clone()))
    assert values[0][0] > 0
    assert values[1][0] == pytest.approx(values[0][0], rel=1e-4)
    torch.testing.assert_close(values[1][1], values[0][1], rtol=1e-3, atol=1e-5)


def test_a_task_without_training_examples_is_told_as_by_the_drift() -> None:
    from saft.errors import UserError
    from saft.tasks.examples import Batch, Examples

    empty = Unlabelled(features, Examples([], lambda indices: Batch({}, torch.zeros(0))))
    with pytest.raises(UserError, match="task 'b' has no training examples"):
        TauJp().bind(model_of().trunk, Setting(empty, {"b": empty}, steps=9))
