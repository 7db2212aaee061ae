"""The copy of the base: it is of this config, whatever an earlier call has left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from saft import config
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.experiment.folder import ExperimentFolder
from saft.experiment.resolve import resolve
from saft.experiment.session import Session
from saft.run import run

pytestmark = pytest.mark.slow  # the beginning of a run each


def load(small: dict[str, Any], out: Path, **changes: Any) -> RunConfig:
    return config.parse(RunConfig, small | {"out": str(out)} | changes, "run.yaml")


def begin(settings: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the first figure is known, which is not written."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ExperimentFolder, "remember", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(settings)


def test_a_base_that_was_left_by_another_model_is_replaced(
    small: dict[str, Any], moved_models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(load(small, tmp_path / "run"), monkeypatch)
    begin(load(small, tmp_path / "run", model={"path": moved_models["a"]}), monkeypatch)
    copied, there = (
        load_file(Path(folder) / "model.safetensors") for folder in (tmp_path / "run/base", moved_models["a"])
    )
    assert all(torch.equal(value, there[name]) for name, value in copied.items())


@pytest.mark.parametrize("changed", ["prompts", "pooling"])
def test_heads_that_were_left_by_another_config_are_replaced(
    changed: str, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, model = json.loads(json.dumps(small["tasks"])), dict(small["model"])
    if changed == "prompts":
        tasks["colour"]["prompts"] = ["the big {} ant"]
    else:
        model["pooling"] = "cls"
    begin(load(small, tmp_path / "run"), monkeypatch)
    for out in ("run", "fresh"):
        begin(load(small, tmp_path / out, tasks=tasks, model=model), monkeypatch)
    head, fresh = (load_file(tmp_path / out / "base/heads/colour.safetensors") for out in ("run", "fresh"))
    assert all(torch.equal(value, fresh[name]) for name, value in head.items())


def test_the_base_says_which_heads_it_holds(finished: Path, small: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    third = {"colour": small["tasks"]["colour"], "third": small["tasks"]["size"] | {"prompts": ["a big {}"]}}
    for tasks in (third, small["tasks"]):
        Session(resolve(load(small, folder, tasks=tasks)), ExperimentFolder(folder)).write_base()
        heads = {file.stem for file in folder.glob("base/heads/*.safetensors")}
        assert heads == json.loads((folder / "base/saft.json").read_text())["tasks"].keys() == tasks.keys()


@pytest.mark.parametrize("damage", ["empty", "manifest"])
def test_a_base_that_is_not_whole_is_written_again(
    damage: str, finished: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    if damage == "empty":
        shutil.rmtree(folder / "base")
        (folder / "base").mkdir()
    else:
        (folder / "base/saft.json").write_text("{}")
    run(load(small, folder))
    for name in ("model.safetensors", "heads/size.safetensors", "saft.json"):
        assert (folder / "base" / name).read_bytes() == (finished / "base" / name).read_bytes()


def test_other_weights_are_refused_in_whatever_files_they_are(
    finished: Path, small: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "model.safetensors").unlink()
    transformers.AutoModel.from_pretrained(tiny_model).save_pretrained(other, max_shard_size="20KB")
    with pytest.raises(UserError, match=r"weights were in model.safetensors, and are now in model-00001-of-"):
        run(load(small, finished, model={"path": str(other)}))


@pytest.mark.parametrize("path", ["nobody/other", "./other"])
def test_another_model_that_is_not_there_is_refused(
    path: str, finished: Path, small: dict[str, Any], tiny_model: Path
) -> None:
    with pytest.raises(UserError, match=rf"model.path: .*'{path}'"):
        run(load(small, finished, model={"path": path}))


def test_the_model_may_go_once_it_is_copied(
    finished: Path, small: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    model, folder = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_model, model)
    shutil.copytree(finished, folder)
    run(load(small, folder, model={"path": str(model)}))  # the same, elsewhere
    assert json.loads((folder / "base/saft.json").read_text())["location"] == str(model)
    shutil.rmtree(model)
    assert run(load(small, folder, model={"path": str(model)})).results.cells


@pytest.mark.parametrize("method", ["fisher", "adamerging"])
def test_a_merge_that_reads_what_a_task_does_not_give_is_refused_before_anything_is_trained(
    method: str, small: dict[str, Any], tmp_path: Path
) -> None:
    several = {"several_labels": True, "head": "linear"}
    size = {key: value for key, value in small["tasks"]["size"].items() if key != "prompts"} | several
    options = small | {
        "out": str(tmp_path / "run"),
        "tasks": small["tasks"] | {"size": size},
        "merges": small["merges"] | {"reader": {"method": method}},
    }
    with pytest.raises(
        UserError, match=r"merges\.reader: this method reads the prob.* which task 'size' does"
    ):
        run(config.parse(RunConfig, options, "run.yaml"))
    assert not (tmp_path / "run" / "figures").exists()
