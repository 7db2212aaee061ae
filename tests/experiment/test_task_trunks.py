"""The trunks of tasks in memory against the folder that `saft merge` writes: the same bits."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from saft import config as configs
from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate
from saft.experiment import RunConfig
from saft.experiment.cells import Cell
from saft.experiment.folder import ExperimentFolder
from saft.experiment.scaled_trunk import ScaledTrunk
from saft.experiment.task_trunks import TaskTrunks
from saft.merge import merge
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.method import Tensorwise
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.merging.stream.engine import apply, merge_task_vectors
from saft.model_config import ModelConfig
from saft.models import load_task, load_trunk
from saft.report import read
from saft.run import run
from tests.interrupted import interrupted_at_score

KEEPING = [name for name, method in METHODS.items() if issubclass(method, PerTaskMethod)]


@pytest.fixture
def config(tiny_model: Path, moved_models: dict[str, str]) -> MergeConfig:
    return MergeConfig("emr", str(tiny_model), moved_models, exclude=["pooler.*"], scaling=0.9)


def test_there_are_such_methods() -> None:
    assert {"emr", "tall_masks", "smile"} <= set(KEEPING)


@pytest.mark.parametrize("method", KEEPING)
def test_the_trunk_is_the_model_that_is_loaded_from_the_folder(
    config: MergeConfig, tiny_model: Path, tmp_path: Path, method: str
) -> None:
    config = dataclasses.replace(config, method=method)
    merge(config, tmp_path / "parts")
    trunks = TaskTrunks(ScaledTrunk(load_trunk(ModelConfig(str(tiny_model))), {}), check(config))
    for task in ("b", "a", "c", "a"):  # what was before leaves nothing
        trunks.by(0.3, "c")
        state = trunks.by(0.9, task).state_dict()
        written = load_task(tmp_path / "parts", task, AutoModel).state_dict()
        assert all(torch.equal(state[name], written[name]) for name in state)
    base = load_file(tiny_model / "model.safetensors")
    assert any(not torch.equal(state[name], base[name]) for name in base)


@pytest.mark.slow  # runs
def test_a_run_grows_by_them_and_tests_what_saft_merge_writes(
    finished: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {file: file.read_text() for file in folder.glob("figures/**/*.json")}
    of_cell = "all/adamw/seed0"
    merges = small["merges"] | {name: {} for name in KEEPING} | {"emr": {"scaling": [0.5, 1.0]}}
    wanted = configs.parse(
        RunConfig, small | {"out": str(folder), "merges": merges, "keep": ["experts", "merges"]}, "run.yaml"
    )
    with interrupted_at_score(3, monkeypatch):  # of the second candidate of two tasks
        run(wanted)
    assert len(list(folder.rglob("*.trials"))) == 1
    results = run(wanted).results
    assert {file: file.read_text() for file in before} == before
    assert results == read(folder)

    (cell,) = results.cells
    assert cell.merges["task_arithmetic"].parts is None
    assert [point.coefficient for point in cell.merges["emr"].curve] == [0.5, 1.0]
    for name in KEEPING:
        made, kept = cell.merges[name], folder / f"merges/{of_cell}/colour+size/{name}"
        assert (kept / "parts/colour.safetensors").stat().st_size == pytest.approx(made.parts.each, abs=9000)
        tested = evaluate(EvaluateConfig([str(kept)], examples=10)).scores[str(kept)]
        assert {task: score.value for task, score in tested.items()} == {
            task: score.value for task, score in made.shared.test.items()
        }
        assert set(made.per_task.test) == {"colour", "size"}
    names = {path.parent.name for path in (folder / "figures" / of_cell / "merges").rglob("test.json")}
    assert names == {"task_arithmetic", *KEEPING}

    run(dataclasses.replace(wanted, keep=["experts"]))
    assert [path.name for path in folder.glob("merges/all/*/*/*/*")] == ["task_arithmetic"]


@pytest.mark.slow  # runs
def test_they_choose_no_trial_and_are_computed_of_the_chosen_one_alone(
    small: dict[str, Any], tmp_path: Path
) -> None:
    arm = {"steps": 2, "batch_size": 4, "choices": {"learning_rate": [3e-3, 1e-5]}}
    wanted = small | {"arms": {"adamw": arm}, "measures": [], "out": str(tmp_path / "run")}
    alone = run(configs.parse(RunConfig, wanted, "run.yaml")).results
    wanted |= {"merges": {"emr": {}, **small["merges"]}}
    grown = run(configs.parse(RunConfig, wanted, "run.yaml")).results
    assert grown.arm_searches == alone.arm_searches
    assert len(list((tmp_path / "run/figures").rglob("emr/validation.json"))) == 1
    assert "every method that gives one model" in grown.protocol.coefficient


@pytest.mark.slow  # a run
def test_where_there_is_no_other_merge_they_decide(small: dict[str, Any], tmp_path: Path) -> None:
    wanted = small | {"merges": {"emr": {"scaling": [0.9, 1.0]}}, "out": str(tmp_path / "run")}
    with pytest.raises(UserError, match="measures: need a merge that gives one model"):
        run(configs.parse(RunConfig, wanted, "run.yaml"))
    result = run(configs.parse(RunConfig, wanted | {"measures": []}, "run.yaml"))
    kept = ExperimentFolder(result.folder).merge(Cell("all", "adamw", 0), ["colour", "size"], "emr")
    assert (kept / "parts/size.safetensors").is_file()
    assert "emr (part per task)" in result.page.read_text()


@pytest.mark.parametrize("method", KEEPING)
def test_a_tensor_of_several_blocks_is_whole_again(tmp_path: Path, method: str) -> None:
    base = nn.Sequential(nn.Linear(130, 100, bias=False))
    vectors = 0.01 * torch.randn(3, 100, 130, generator=torch.manual_seed(0))
    start = base[0].weight.detach().clone()
    saved = {"base": start} | {f"m{i}": start + vector for i, vector in enumerate(vectors)}
    for name, weight in saved.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        save_file({"0.weight": weight}, tmp_path / name / "model.safetensors")
    names = ["m0", "m1", "m2"]
    folders = {name: str(tmp_path / name) for name in names}
    config = MergeConfig(method, str(tmp_path / "base"), folders, block_size=1)  # a block is 4096 elements
    stacked = torch.stack([saved[name] - start for name in names])
    made = METHODS.get(method)()
    rows = stacked if isinstance(made, Tensorwise) else stacked.flatten(1)
    expected = merge_task_vectors(made, rows, start.view(rows.shape[1:])).view(stacked.shape)
    trunks = TaskTrunks(ScaledTrunk(base, {}), check(config))
    for name, vector in zip(names, expected, strict=True):
        state = trunks.by(0.9, name).state_dict()
        assert torch.equal(state["0.weight"], apply(start, vector, 0.9))
