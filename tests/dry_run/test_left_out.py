from __future__ import annotations

from typing import Any

from saft.dry_run.left_out import left_out
from saft.experiment.merge_options import MergeOptions
from saft.experiment.published_figures import Expected
from saft.experiment.run_config import RunConfig
from saft.model_config import ModelConfig


def task(labels: str) -> dict[str, Any]:
    data = {"path": "org/news", "text": "text", "label": "label"}
    return {
        "kind": "text_classification",
        "data": data,
        "labels": {name: name for name in labels},
        "prompts": ["{}"],
    }


def experiment(arm: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    keys: dict[str, Any] = {
        "merges": {"ties": MergeOptions(scaling=[0.5, 1.0])},
        "arms": {"adamw": arm or {}},
    }
    return RunConfig("runs/x", ModelConfig("m"), {"news": task("abcd")}, **(keys | more))


def test_nothing_is_said_of_what_is_done_whole() -> None:
    assert left_out(experiment()) == []


def test_everything_that_a_dry_run_leaves_out_is_named() -> None:
    whole = experiment(
        seeds=[0, 3, 4],
        regimes={"limited": 10, "plentiful": 20},
        merges={
            "mine": MergeOptions(method="ties", scaling=[0.1, 0.2, 0.3], choices={"density": [0.1, 0.2]})
        },
        reference={"web": task("abcde")},
        expected={"one": Expected("ties", 0.5, 0.1, "a paper")},
        executor="local",
        trainer={"accelerator": "gpu", "precision": "32-true"},
    )
    assert left_out(whole) == [
        "the seeds 3, 4",
        "the train sizes plentiful",
        "labels of a task beyond 4",
        "coefficients of a merge beyond 2",
        "all but the first of a merge's choices",
        "whether the published figures are met",
        "the trainer's accelerator: gpu: it trains on one device that is there",
        "the executor local: its cells come one after the other",
    ]


def test_choices_of_arms_are_named() -> None:
    (said,) = left_out(experiment({"choices": {"learning_rate": [1.0, 2.0, 3.0]}}))
    assert said == "values of an arm's choices beyond 2, and all of its numbers of steps"
