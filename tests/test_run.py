from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

import saft
from saft import config, experiment
from saft.errors import UserError
from saft.run import RunConfig, run


@pytest.fixture(scope="session")
def mapping(tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": {"path": str(tiny_model)},
        "tasks": tiny_tasks,
        "regimes": {"limited": 24},
        "validation_examples": 10,
        "sharpness_examples": 8,
        "training": {"steps": 6, "batch_size": 4, "learning_rate": 3e-3, "schedule": "constant"},
        "arms": {
            "adamw": {"description": "AdamW"},
            "adamw-2x": {"steps": 12, "select_steps": [4, 12]},
            "sam": {"perturbation": {"name": "sam", "rho": 0.05}},
        },
        "merges": {
            "average": {},
            "task_arithmetic": {"scaling": [0.3, 0.6]},
            "ties": {"parameters": {"density": 0.3}, "scaling": [0.5, 1.0]},
            "pcb": {"scaling": [1.0]},
        },
    }


def load(mapping: dict[str, Any], out: Path, **changes: Any) -> RunConfig:
    return config.parse(RunConfig, mapping | {"out": str(out)} | changes, "run.yaml")


@pytest.fixture(scope="session")
def finished(mapping: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    run(load(mapping, folder))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_everything_is_there(finished: Path, mapping: dict[str, Any]) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert [cell["arm"] for cell in results["cells"]] == ["adamw", "adamw-2x", "sam"]
    assert results["arms"]["sam"]["perturbation"] == "sam"
    for cell in results["cells"]:
        assert set(cell["merges"]) == set(mapping["merges"])
        for merge in cell["merges"].values():
            assert set(merge["shared"]["test"]) == {"colour", "size"}
            coefficients = {point["coefficient"] for point in merge["curve"]}
            assert {
                merge["shared"]["coefficient"],
                *merge["per_task"]["coefficients"].values(),
            } <= coefficients
        assert len(cell["measured"]["cosine"]) == 2
    assert (finished / "report.html").read_text().startswith("<!")
    assert not [f for f in files(finished) if "partial" in f or ".work" in f]


def test_merges_that_read_data(mapping: dict[str, Any], tmp_path: Path) -> None:
    merges = {"fisher": {}, "regmean": {}, "adamerging": {"parameters": {"iterations": 3}}}
    arms = {"adamw": {"description": "AdamW"}}
    result = run(load(mapping, tmp_path / "run", merges=merges, arms=arms, validation_examples=5))
    (cell,) = result.results["cells"]
    for name in merges:
        assert set(cell["merges"][name]["shared"]["test"]) == {"colour", "size"}
        manifest = json.loads((tmp_path / "run/merges/limited/adamw/seed0" / name / "saft.json").read_text())
        assert manifest["data"]["examples"] == {"colour": 5, "size": 5}
        assert manifest["data"]["split"] == "validation"


def test_experts_and_merges_load_with_transformers(finished: Path) -> None:
    for folder in (finished / "experts/limited/sam/seed0/colour", finished / "merges/limited/sam/seed0/ties"):
        trunk = transformers.AutoModel.from_pretrained(folder)
        assert transformers.AutoTokenizer.from_pretrained(folder)("the red rose")
        saved = load_file(folder / "model.safetensors")
        assert all(torch.equal(value, saved[name]) for name, value in trunk.state_dict().items())


def test_the_figures_are_those_of_saft_evaluate(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    folder = str(finished / "merges/limited/sam/seed0/task_arithmetic")
    found = saft.evaluate(saft.EvaluateConfig(checkpoints=[folder])).figures[folder]
    scores = results["cells"][2]["merges"]["task_arithmetic"]["shared"]["test"]
    assert found == {task: score["value"] for task, score in scores.items()}


def test_the_merge_is_that_of_saft_merge(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    for method in ("ties", "pcb", "average"):
        merged = results["cells"][0]["merges"][method]
        experts = finished / "experts/limited/adamw/seed0"
        recipe = saft.MergeConfig(
            method=method,
            base=str(finished / "base"),
            models={task: str(experts / task) for task in ("colour", "size")},
            parameters=merged["parameters"],
            scaling=merged["shared"]["coefficient"],
        )
        saft.merge(recipe, tmp_path / method)
        weights = (finished / f"merges/limited/adamw/seed0/{method}/model.safetensors").read_bytes()
        assert (tmp_path / method / "model.safetensors").read_bytes() == weights


def test_a_second_call_changes_nothing(finished: Path, mapping: dict[str, Any]) -> None:
    before = files(finished)
    run(load(mapping, finished))
    assert files(finished) == before


class Killed(BaseException):
    pass


STAGES = ["write_base", "base_figures", "train", "interference", "merge", "experts"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_equals_uninterrupted(
    finished: Path, mapping: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Kill the run inside one stage after another, on its second call, and start it again."""
    method: Callable[..., Any] = getattr(experiment.Experiment, stage)
    calls = []

    def once_then_die(self: experiment.Experiment, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == (1 if stage in STAGES[:2] else 2):
            raise Killed
        return method(self, *arguments)

    monkeypatch.setattr(experiment.Experiment, stage, once_then_die)
    with pytest.raises(Killed):
        run(load(mapping, tmp_path / "run"))
    monkeypatch.undo()
    run(load(mapping, tmp_path / "run"))
    same_but_for_paths(finished, tmp_path / "run")


def same_but_for_paths(first: Path, second: Path) -> None:
    """Compare two runs to the bit; the folder's own name stands in the manifests, and nowhere else."""
    expected, found = files(first), files(second)
    assert expected.keys() == found.keys()
    for name, content in expected.items():
        assert found[name].replace(str(second).encode(), str(first).encode()) == content, name


@pytest.mark.slow
def test_a_killed_process_resumes(mapping: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL at several moments, as a user or a full machine would do it."""

    def start(out: str) -> subprocess.Popen[bytes]:
        file = tmp_path / f"{out}.yaml"
        file.write_text(yaml.safe_dump(mapping | {"out": str(tmp_path / out)}))
        command = [sys.executable, "-m", "saft", "run", str(file)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    begin = time.monotonic()
    assert start("whole").wait() == 0
    duration = time.monotonic() - begin
    for share in (0.5, 0.6, 0.7):
        process = start("killed")
        time.sleep(duration * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start("killed").wait() == 0
    same_but_for_paths(tmp_path / "whole", tmp_path / "killed")


def test_another_config_is_not_mixed_in(finished: Path, mapping: dict[str, Any]) -> None:
    before = files(finished)
    with pytest.raises(UserError, match=r"holds a run of another config: arms.adamw.steps: was 6, now 7"):
        run(load(mapping, finished, arms=mapping["arms"] | {"adamw": {"steps": 7}}))
    assert files(finished) == before


def test_a_folder_that_is_no_run_is_refused(mapping: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty, and no run of saft"):
        run(load(mapping, tmp_path))


def test_without_test_nothing_of_it_is_read(mapping: dict[str, Any], tmp_path: Path) -> None:
    settings = load(mapping, tmp_path / "v", test=False, arms={"adamw": {}}, merges={"average": {}})
    results = run(settings).results
    cell = results["cells"][0]
    assert {expert["test"] for expert in cell["experts"].values()} == {None}
    assert set(cell["merges"]["average"]["shared"]["test"].values()) == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"sam": {"rho": 0.1}}}, "arms.sam.rho: unknown key"),
        ({"arms": {"a/b": {}}}, "arms: 'a/b' names a folder"),
        ({"arms": {}}, "arms: must not be empty"),
        ({"merges": {"teis": {}}}, "unknown merge method 'teis'; did you mean 'ties'"),
        (
            {"merges": {"ties": {"parameters": {"densty": 1}}}},
            "merges.ties: unknown parameter 'densty'; did you mean",
        ),
        ({"merges": {"ties": {"parameters": {"density": 20}}}}, "merges.ties: density: must be in (0, 1]"),
        (
            {"merges": {"average": {"scaling": [0.1]}}},
            "merges.average.scaling: average has no scaling coefficient",
        ),
        ({"merges": {"emr": {}}}, "merges.emr: keeps a part per task and gives no single model"),
        ({"merges": {"robust_merge": {}}}, "merges.robust_merge: merges LoRA adapters, but `saft run`"),
        ({"model": {"path": "nowhere/at/all"}}, "model.path: there is no 'nowhere/at/all'"),
        ({"validation_examples": 0}, "validation_examples: must be at least 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    mapping: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        run(load(mapping, tmp_path / "out", **changes))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_mistakes_about_data_are_found_before_anything_is_written(
    mapping: dict[str, Any], tmp_path: Path
) -> None:
    broken = json.loads(json.dumps(mapping["tasks"]))
    broken["size"]["data"]["label"] = "labels"
    with pytest.raises(UserError, match=r"tasks.size.data.label: there is no column 'labels'"):
        run(load(mapping, tmp_path / "out", tasks=broken))
    assert not (tmp_path / "out").exists()


def test_seeds_and_regimes_make_cells(mapping: dict[str, Any], tmp_path: Path) -> None:
    settings = load(
        mapping,
        tmp_path / "grid",
        seeds=[0, 1],
        regimes={"few": 8, "many": None},
        arms={"adamw": {"steps": 2}},
        merges={"average": {}},
    )
    cells = run(settings).results["cells"]
    assert [(c["seed"], c["regime"]) for c in cells] == [(0, "few"), (0, "many"), (1, "few"), (1, "many")]
    assert len({json.dumps(c["interference"]) for c in cells}) == 4


def test_the_config_round_trips(mapping: dict[str, Any], finished: Path) -> None:
    resolved = yaml.safe_load((finished / "config.yaml").read_text())
    assert resolved["arms"]["sam"]["perturbation"] == {"name": "sam", "rho": 0.05}
    again = config.parse(RunConfig, resolved | {"out": str(finished)}, "config.yaml")
    assert dataclasses.asdict(again)["arms"] == resolved["arms"]
