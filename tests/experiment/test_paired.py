from __future__ import annotations

import pytest
import torch

from saft.experiment.paired import groups_of, paired_gain
from saft.tasks.examples import Batch, Examples
from saft.tasks.metric import Metric

ACCURACY = dict.fromkeys(("a", "b"), Metric("accuracy", "%"))


def examples(count: int) -> Examples:
    return Examples([1] * count, lambda indices: Batch({}, torch.tensor(indices)))


def test_every_example_is_in_one_group() -> None:
    groups = groups_of({"a": examples(23), "b": examples(40)})
    assert len(groups) == 10
    for task, count in (("a", 23), ("b", 40)):
        drawn = [int(i) for group in groups for batch in group[task].batches(4) for i in batch.labels]
        assert sorted(drawn) == list(range(count))


def test_the_smallest_task_says_how_many_groups_there_are() -> None:
    assert len(groups_of({"a": examples(3), "b": examples(40)})) == 3
    assert groups_of({"a": examples(1), "b": examples(40)}) == []


def test_what_moves_both_models_alike_is_no_noise() -> None:
    worse = [{"a": 0.1 * group, "b": 0.9 - 0.05 * group} for group in range(10)]
    better = [{task: value + 0.02 for task, value in group.items()} for group in worse]
    gain = paired_gain(better, worse, {"a": 1.0, "b": 1.0}, ACCURACY)
    assert gain.mean == pytest.approx(0.02)
    assert gain.is_sure
    assert gain.written().startswith("+2.0 (95 % interval 2.0 to 2.0)")


def test_a_gain_of_a_loss_is_where_it_is_lower() -> None:
    loss = {"a": Metric("loss", "nats", higher_is_better=False)}
    gain = paired_gain([{"a": 1.0}, {"a": 2.0}], [{"a": 2.0}, {"a": 4.0}], {"a": 1.0}, loss)
    assert gain.by_group == [0.5, 0.25]


def test_of_too_few_examples_nothing_is_said() -> None:
    gain = paired_gain([], [], {"a": 1.0}, ACCURACY)
    assert gain.mean is None
    assert not gain.is_sure
    assert "not known" in gain.written()
