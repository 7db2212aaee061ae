"""What existing figures rest on, without training anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.folder import ExperimentFolder
from saft.experiment.growth import Foundations, refuse_changes, union
from saft.experiment.resolve import resolve
from saft.experiment.run_config import RunConfig
from saft.tasks import Score

TASK = {"kind": "language_modeling", "data": {"path": "csv", "files": {"train": "a.csv"}}, "text": "{a}"}
MAPPING: dict[str, Any] = {
    "out": "run",
    "model": {"path": "somewhere"},
    "tasks": {"a": TASK | {"words": {"a": {"p": "q"}}}, "b": TASK},
    "arms": {"adamw": {"steps": 6}, "sam": {"perturbation": {"name": "sam", "rho": 0.05}}},
    "merges": {"ties": {}},
}
CELL = Cell("all", "adamw", 0)
FILES = {
    "model": {"w": "1"},
    "tasks.a": {"a.csv": "2"},
    "tasks.b": {"b.csv": "3"},
    "tasks.c": {"c.csv": "4"},
    "reference.news": {"news.csv": "5"},
}


def foundations(**changes: Any) -> Foundations:
    return Foundations(resolve(config.parse(RunConfig, MAPPING | changes, "")), FILES)


def every(found: Foundations) -> dict[str, dict[str, Any]]:
    return {
        "base": found.base("a"),
        "expert": found.expert(CELL, "a"),
        "expert-test": found.tested(found.expert(CELL, "a")),
        "sharpness": found.sharpness(CELL, "a"),
        "interference": found.interference(CELL),
        "merge": found.merge(CELL, "ties"),
    }


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    """Return a folder in which all these figures are known."""
    place = ExperimentFolder(tmp_path)
    for name, rests_on in every(foundations()).items():
        place.remember(name, rests_on, Score(0.5, None, 9))
    return place


@pytest.mark.parametrize(
    "grown",
    [
        {"seeds": [0, 1]},
        {"arms": MAPPING["arms"] | {"asam": {}}},
        {"arms": {"adamw": {"steps": 6}}},
        {"arms": MAPPING["arms"] | {"adamw": {"steps": 6, "description": "other words"}}},
        {"merges": {"ties": {}, "pcb": {}}},
        {"regimes": {"all": None, "few": 3}},
        {"keep": ["experts", "merges"]},
        {"model": {"path": "moved"}},
        {"training": {"steps": 9}, "arms": {"adamw": {"steps": 6}, "sam": {}}},
    ],
)
def test_what_a_run_may_grow_by(folder: ExperimentFolder, grown: dict[str, Any]) -> None:
    refuse_changes(folder, every(foundations(**grown)))


def test_a_further_task_changes_merges_only_and_those_have_another_name(folder: ExperimentFolder) -> None:
    now = every(foundations(tasks=MAPPING["tasks"] | {"c": TASK}))
    refuse_changes(folder, {name: now[name] for name in ("base", "expert", "expert-test", "sharpness")})


@pytest.mark.parametrize(
    ("change", "message", "resting"),
    [
        ({"arms": {"adamw": {"steps": 7}}}, r"arms\.adamw\.steps: was 6, now 7 \(5 files", None),
        ({"validation_examples": 9}, r"validation_examples: was None, now 9 \(6 files", None),
        ({"test_examples": 9}, r"test_examples: was None, now 9 \(1 file of", "expert-test"),
        ({"sharpness_rho": 0.1}, r"sharpness_rho: was 0.02, now 0.1 \(1 file of", "sharpness"),
        ({"density": 0.1}, r"density: was 0.2, now 0.1 \(1 file of", "interference"),
        (
            {"merges": {"ties": {"parameters": {"density": 0.5}}}},
            r"merges\.ties\.parameters\.density",
            "merge",
        ),
        ({"merges": {"ties": {"scaling": [0.5]}}}, r"merges\.ties\.scaling: was ", "merge"),
        ({"regimes": {"all": 5}}, r"regimes\.all: was None, now 5", None),
        ({"trainer": {"precision": "bf16-mixed"}}, r"trainer\.precision: was None, now bf16-mixed", None),
        ({"model": {"path": "somewhere", "pooling": "cls"}}, r"model\.pooling: was None, now cls", None),
    ],
)
def test_a_change_of_what_figures_rest_on_is_refused_by_its_name(
    folder: ExperimentFolder, change: dict[str, Any], message: str, resting: str | None
) -> None:
    now = every(foundations(**change))
    with pytest.raises(UserError, match=message):
        refuse_changes(folder, now)
    if resting:
        del now[resting]
        refuse_changes(folder, now)


def test_what_may_change_makes_its_figures_outdated_and_nothing_else(folder: ExperimentFolder) -> None:
    may_change = {"expert": "arms.adamw"}
    now = every(foundations(arms=MAPPING["arms"] | {"adamw": {"steps": 7}}))
    kept = {name: now[name] for name in ("base", "expert")}
    assert refuse_changes(folder, kept, may_change=may_change) == {"expert"}
    with pytest.raises(UserError, match=r"arms\.adamw\.steps: was 6, now 7"):
        refuse_changes(folder, now, may_change=may_change)
    now = every(foundations(arms=MAPPING["arms"] | {"adamw": {"steps": 7}}, validation_examples=3))
    with pytest.raises(UserError, match=r"validation_examples: was None, now 3"):
        refuse_changes(folder, {"expert": now["expert"]}, may_change=may_change)


def test_a_data_file_with_another_content_is_refused(folder: ExperimentFolder) -> None:
    changed = foundations()
    changed.files = FILES | {"tasks.a": {"a.csv": "other"}}
    with pytest.raises(UserError, match=r"tasks\.a: the content of a\.csv has changed"):
        refuse_changes(folder, every(changed))


def test_an_expert_rests_on_what_its_penalty_reads() -> None:
    arms = {"adamw": {"penalty": {"name": "drift"}}}
    found = foundations(arms=arms).expert(CELL, "a")
    assert found["files"].keys() == {"model", "tasks.a", "tasks.b"}
    assert found["config"]["tasks"].keys() == {"a", "b"}
    arms = {"adamw": {"penalty": {"name": "drift", "inputs": "reference"}}}
    outside = foundations(arms=arms, reference={"news": TASK}).expert(CELL, "a")
    assert outside["files"].keys() == {"model", "tasks.a", "reference.news"}


def test_what_is_resolved_is_a_config_again() -> None:
    resolved = resolve(config.parse(RunConfig, MAPPING, ""))
    again = resolve(config.parse(RunConfig, resolved.plain() | {"out": "run"}, "config.yaml"))
    assert again.plain() == resolved.plain()
    assert dataclasses.asdict(again)["arms"] == dataclasses.asdict(resolved)["arms"]


def test_a_union_leaves_its_parts_as_they_are() -> None:
    first = {"a": {"b": {"c": 1}}}
    assert union(first, {"a": {"b": {"d": 2}}}) == {"a": {"b": {"c": 1, "d": 2}}}
    assert first == {"a": {"b": {"c": 1}}}


def test_weights_rest_on_their_search_and_leave_every_other_figure_as_it_was(
    folder: ExperimentFolder,
) -> None:
    merges = {"merges": {"ties": {}, "task_arithmetic": {}}}
    before = foundations(**merges)
    weighted = foundations(**merges, selection={"weights": "per_task", "budget": 9})
    refuse_changes(folder, every(weighted))
    assert weighted.merge(CELL, "task_arithmetic") == before.merge(CELL, "task_arithmetic")
    rests_on = weighted.weights(CELL, "task_arithmetic")
    assert rests_on["config"]["selection"] == {"weights": "per_task", "budget": 9, "seed": 0}
    sampled = foundations(**merges, selection={"weights": "per_task", "search": "tpe"})
    assert sampled.merge(CELL, "ties")["config"]["selection"] == {"search": "tpe", "budget": 20, "seed": 0}
    assert sampled.weights(CELL, "task_arithmetic")["config"]["selection"]["search"] == "tpe"
