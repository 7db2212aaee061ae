"""Every file in configs/ fits the program as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from saft import config, tasks
from saft.run import RunConfig, plan
from saft.train import TrainConfig

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_the_config_is_valid(file: Path) -> None:
    if "task" in config.read(file):
        settings = config.load(TrainConfig, file)
        tasks.build(settings.name, settings.task, "task")
    else:
        run = config.load(RunConfig, file)
        arms, merges = plan(run)
        assert set(arms) == set(run.arms)
        assert all(merge.scaling for merge in merges.values())
        for name, mapping in run.tasks.items():
            tasks.build(name, mapping, "tasks")


def test_both_experiments_have_the_same_tasks() -> None:
    first, second = (config.read(file)["tasks"] for file in CONFIGS if "tasks" in config.read(file))
    for mapping in (*first.values(), *second.values()):
        del mapping["max_length"]  # the quickstart's are shorter
    assert first == second
