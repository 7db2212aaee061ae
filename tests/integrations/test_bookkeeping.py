from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric, MetricCollection, MinMaxMetric
from torchmetrics.aggregation import RunningMean
from transformers.modeling_outputs import SequenceClassifierOutput

from saft.integrations.bookkeeping import put_back


def trainer_of() -> Any:
    metrics: dict[str, Any] = {"train": defaultdict(list, {"loss": [0.5]}), "eval": {}}
    return SimpleNamespace(
        step=3, metrics=metrics, recent=deque([1, 2], maxlen=2), seen={1}, count=torch.tensor(4), dataset=[1]
    )


def test_what_is_collected_is_put_back_in_the_same_containers() -> None:
    trainer = trainer_of()
    kept = trainer.metrics, trainer.metrics["train"], trainer.metrics["train"]["loss"], trainer.count
    with put_back(vars(trainer)):
        trainer.step += 1
        trainer.metrics["train"]["loss"].append(0.25)
        trainer.metrics["train"]["accuracy"].append(1.0)
        trainer.metrics["eval"] = {"loss": 1.0}
        trainer.recent.append(3)
        trainer.seen.add(2)
        trainer.count += 1
        trainer.cache = "new"
    assert vars(trainer) == vars(trainer_of())
    again = trainer.metrics, trainer.metrics["train"], trainer.metrics["train"]["loss"], trainer.count
    assert all(now is before for now, before in zip(again, kept, strict=True))
    assert trainer.recent.maxlen == 2


def test_it_is_put_back_after_an_exception() -> None:
    trainer = trainer_of()

    def interrupted() -> None:
        with put_back(vars(trainer)):
            trainer.metrics["train"]["loss"].clear()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        interrupted()
    assert trainer.metrics["train"]["loss"] == [0.5]


def test_named_attributes_and_other_objects_are_left_alone() -> None:
    trainer = trainer_of()
    trainer.model = SimpleNamespace(calls=0)
    large = trainer.queue = torch.zeros(100_000)
    with put_back(vars(trainer), but=("dataset",)):
        trainer.dataset.append(2)
        trainer.model.calls += 1
        trainer.queue.add_(1)
    assert trainer.dataset == [1, 2]
    assert trainer.model.calls == 1
    assert large.all()


def test_metrics_of_torchmetrics_count_once() -> None:
    metric = MeanMetric()
    metric.update(1.0)
    with put_back({"metric": metric}):
        metric.update(3.0)
    metric.update(5.0)
    assert metric.compute() == 3


def test_wrappers_and_collections_of_metrics_count_once() -> None:
    held: dict[str, Any] = {
        "running": RunningMean(window=4),  # counts beside its states, for which of its slots comes next
        "extremes": MinMaxMetric(MeanMetric()),
        "all": MetricCollection([MeanMetric()]),
    }
    for seen in (1.0, 2.0, 3.0, 4.0):
        for metric in held.values():
            metric.update(seen)
            metric.compute()
        with put_back(held):
            for metric in held.values():
                metric.update(100 * seen)
                metric.compute()
    assert held["running"].compute() == 2.5
    assert held["extremes"].compute() == {"raw": 2.5, "max": 2.5, "min": 1}
    assert held["all"].compute() == {"MeanMetric": 2.5}


def test_a_dictionary_that_refuses_changes_is_kept_unless_it_was_changed() -> None:
    trainer = SimpleNamespace(last=SequenceClassifierOutput(loss=torch.tensor(1.0)))  # type: ignore[no-untyped-call]
    kept = trainer.last
    with put_back(vars(trainer)):
        trainer.last = SequenceClassifierOutput(loss=torch.tensor(2.0))  # type: ignore[no-untyped-call]
    assert trainer.last is kept
    assert kept.loss == 1
