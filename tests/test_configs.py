"""Every file in configs/ fits the program as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saft import config, tasks
from saft.experiment.resolve import resolve
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.run import RunConfig
from saft.train import TrainConfig

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_the_config_is_valid(file: Path) -> None:
    if "task" in config.read(file):
        settings = config.parse(TrainConfig, config.read(file), str(file))
        tasks.build(settings.name, settings.task, "task")
    else:
        run = config.parse(RunConfig, config.read(file), str(file))
        resolved = resolve(run)
        assert set(resolved.arms) == set(run.arms)
        assert all(merge.scaling for merge in resolved.merges.values())
        for name, mapping in run.tasks.items():
            tasks.build(name, mapping, "tasks")


def test_a_task_is_the_same_in_every_experiment() -> None:
    known: dict[str, dict[str, Any]] = {}
    files = [file for file in CONFIGS if file.name.startswith(("quickstart", "minilm"))]
    assert len(files) == 4
    for file in files:
        for name, mapping in config.read(file)["tasks"].items():
            del mapping["max_length"]  # the quickstart's are shorter
            assert known.setdefault(name, mapping) == mapping
    assert len(known) == 8


def test_every_method_that_a_run_can_have_is_tried_on_the_same_experts() -> None:
    tried = config.read(CONFIGS[0].parent / "minilm-methods.yaml")["merges"]
    own = {name for name in METHODS.names() if not name.startswith("mergekit")}
    pairs, adapters = {"slerp", "nuslerp"}, {"robust_merge"}
    keeping = {name for name in own if issubclass(METHODS.get(name), PerTaskMethod)}
    assert set(tried) == own - pairs - adapters - keeping
