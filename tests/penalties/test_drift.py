"""Drift: the slow formula, whose inputs are drawn, and what becomes of them."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saft.errors import UserError
from saft.penalties import Setting, Unlabelled
from saft.penalties import drift as drift_file
from saft.penalties.drift import Drift
from saft.penalties.unlabelled import drawn
from saft.tasks.examples import Batch, Examples
from tests.contracts.test_penalties import features, model_of, moved, setting, unlabelled


def test_it_is_the_mean_squared_distance_of_the_normalized_features() -> None:
    around, base = setting(), model_of().eval()
    model = copy.deepcopy(base).train()
    bound = Drift(strength=3.0, every=8, examples=5).bind(model.trunk, around)
    moved(model)
    name, indices = drawn({"task0": 40, "task1": 40}, 5, around.seed, 16)
    model.eval()
    expected = 0.0
    for index in indices:  # one text at a time, so that padding is no matter
        inputs = around.reference[name].inputs([index], torch.device("cpu"))
        now, then = (features(m.trunk, inputs)[0].detach() for m in (model, base))
        expected += float((now / now.norm() - then / then.norm()).square().sum())
    assert bound.loss(model.train().trunk, 16).item() == pytest.approx(8 * 3.0 * expected / 5, rel=1e-5)


def test_dropout_is_off_in_it() -> None:
    model = model_of()
    model.trunk.dropout.p = 0.9
    bound = Drift().bind(model.trunk, setting())
    moved(model)
    assert bound.loss(model.trunk, 0).item() == bound.loss(model.trunk, 0).item()


def test_steps_draw_different_tasks_and_inputs() -> None:
    draws = [drawn({"a": 40, "b": 40}, 16, seed=0, step=step) for step in range(0, 80, 8)]
    assert {name for name, _ in draws} == {"a", "b"}
    assert all(len(set(indices)) == 16 for _, indices in draws)
    assert len({tuple(sorted(indices)) for _, indices in draws}) == 10
    assert drawn({"a": 5}, 16, 0, 0)[1] != drawn({"a": 40}, 5, 0, 0)[1]
    assert sorted(drawn({"a": 5}, 16, 0, 0)[1]) == [0, 1, 2, 3, 4]


def test_distinct_draws_from_the_first_so_many_of_each_task() -> None:
    seen: set[int] = set()
    source = unlabelled()

    def collate(indices: list[int]) -> Batch:
        seen.update(indices)
        return source.examples.collate(indices)

    watched = Unlabelled(features, Examples(source.examples.lengths, collate))
    model = model_of()
    Drift(distinct=6, examples=4, every=1).bind(model.trunk, Setting(source, {"a": watched}, steps=30))
    assert seen == set(range(6))


@pytest.mark.parametrize("kind", ["own_shuffled", "random_tokens"])
def test_made_up_texts_need_no_other_task_and_keep_first_and_last_tokens(kind: str) -> None:
    seen: list[Tensor] = []

    def watching(trunk: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        seen.append(inputs["input_ids"])
        return features(trunk, inputs)

    model = model_of()
    model.trunk.get_input_embeddings = lambda: model.trunk.embed
    own = Unlabelled(watching, unlabelled().examples)
    penalty = Drift(inputs=kind, examples=16)  # type: ignore[arg-type]
    assert penalty.reads is None
    bound = penalty.bind(model.trunk, Setting(own, steps=1))
    moved(model)
    assert bound.loss(model.trunk, 0) > 0
    assert torch.equal(seen[0], seen[-1])
    _, indices = drawn({"own": 40}, 16, 0, 0)
    plain = own.inputs(indices, torch.device("cpu"))
    ids, mask = plain["input_ids"], plain["attention_mask"]
    assert not torch.equal(seen[0], ids)
    assert torch.equal(seen[0][:, 0], ids[:, 0])
    last = mask.sum(1, keepdim=True) - 1
    assert torch.equal(seen[0].gather(1, last), ids.gather(1, last))
    assert torch.equal(seen[0][mask == 0], ids[mask == 0])
    if kind == "own_shuffled":
        assert torch.equal(seen[0].sort(1).values, ids.sort(1).values)


def test_made_up_texts_are_refused_where_there_are_none() -> None:
    images = Examples([1, 1], lambda indices: Batch({"pixels": torch.ones(len(indices), 2)}, torch.zeros(2)))
    around = Setting(Unlabelled(lambda trunk, inputs: inputs["pixels"], images), steps=1)
    with pytest.raises(
        UserError, match=r"own_shuffled: needs texts or images, but this task's inputs are \['pixels'\]"
    ):
        Drift(inputs="own_shuffled").bind(model_of().trunk, around)
    with pytest.raises(UserError, match="random_tokens: needs texts, but"):
        Drift(inputs="random_tokens").bind(model_of().trunk, around)


def test_a_task_without_training_examples_is_told_by_its_name() -> None:
    empty = Unlabelled(features, Examples([], lambda indices: Batch({}, torch.zeros(0))))
    with pytest.raises(UserError, match="task 'b' has no training examples"):
        Drift().bind(model_of().trunk, Setting(unlabelled(), {"a": unlabelled(), "b": empty}, steps=9))


def logits(trunk: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return what the trunk makes of each token, as if it were a language model of as many tokens as its width."""
    return trunk(inputs["input_ids"])[inputs["attention_mask"].bool()]


def predicting() -> Setting:
    plain = setting()
    others = {key: dataclasses.replace(some, predictions=logits) for key, some in plain.reference.items()}
    return dataclasses.replace(plain, reference=others)


def test_of_predictions_it_is_the_mean_divergence_over_the_tokens() -> None:
    around, base = predicting(), model_of().eval()
    model = copy.deepcopy(base).train()
    bound = Drift(outputs="predictions", strength=3.0, every=8, examples=5).bind(model.trunk, around)
    at_base = bound.loss(model.trunk, 16)
    at_base.backward()
    assert at_base.item() == 0
    assert max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None) < 1e-6
    moved(model)
    name, indices = drawn({"task0": 40, "task1": 40}, 5, around.seed, 16)
    model.eval()
    total, tokens = 0.0, 0
    for index in indices:  # one text at a time, so that padding is no matter
        inputs = around.reference[name].inputs([index], torch.device("cpu"))
        now, then = (logits(m.trunk, inputs).detach().log_softmax(-1) for m in (model, base))
        total += float(functional.kl_div(now, then, log_target=True, reduction="sum"))
        tokens += len(now)
    assert bound.loss(model.train().trunk, 16).item() == pytest.approx(8 * 3.0 * total / tokens, rel=1e-4)


def test_tokens_that_the_base_finds_unlikely_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {}
    for count in (2, 64):
        monkeypatch.setattr(drift_file, "LIKELIEST", count)
        model = model_of()
        bound = Drift(outputs="predictions").bind(model.trunk, predicting())
        moved(model)
        values[count] = bound.loss(model.trunk, 8).item()
        assert bound.base["8.log_p"].exp().sum(-1).numpy() == pytest.approx(1, abs=1e-5)
    assert 0 < values[2] < values[64]  # what is told apart less differs less


def test_what_a_cache_holds_of_predictions_is_what_would_be_computed(tmp_path) -> None:
    values = []
    for cache in (None, tmp_path, tmp_path):
        model = model_of()
        around = dataclasses.replace(predicting(), cache=cache)
        bound = Drift(outputs="predictions").bind(model.trunk, around)
        moved(model)
        values.append(bound.loss(model.trunk, 8).item())
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("task", ["task0", "task1"])
def test_what_a_cache_holds_is_of_no_task_that_is_pooled_otherwise(tmp_path, task: str) -> None:
    def first(trunk, inputs):
        return trunk(inputs["input_ids"])[:, 0]

    around, model = setting(cache=tmp_path), model_of()
    pooled = dataclasses.replace(around.reference[task], features=first)
    other = dataclasses.replace(around, reference={**around.reference, task: pooled})
    Drift().bind(model.trunk, around)
    bound = Drift().bind(model.trunk, other)
    assert [bound.loss(model.trunk, step).item() for step in range(24)] == [0.0] * 24


def test_predictions_are_refused_where_there_are_none() -> None:
    message = "penalty: outputs: predictions: task 'task[01]' predicts no tokens, as language_modeling and"
    with pytest.raises(UserError, match=message):
        Drift(outputs="predictions").bind(model_of().trunk, setting())
    with pytest.raises(
        UserError, match=r"arms\.a\.penalty: outputs: predictions: task 'reviews' predicts no"
    ):
        Drift(outputs="predictions").check_tasks({"reviews": object()}, "arms.a.penalty")
    Drift().check_tasks({"reviews": object()}, "arms.a.penalty")
