"""`saft run` from end to end; what its parts do is tested in tests/experiment."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

import saft
from saft import config
from saft.errors import UserError
from saft.experiment.folder import ExperimentFolder
from saft.experiment.session import Session
from saft.experiment.stages import Step
from saft.report.results import from_json
from saft.run import RunConfig, run

pytestmark = pytest.mark.slow  # a whole run each


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


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run, to change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_everything_is_there(finished: Path, mapping: dict[str, Any]) -> None:
    results = from_json((finished / "results.json").read_text())
    assert [cell.arm for cell in results.cells] == ["adamw", "adamw-2x", "sam"]
    assert [results.arms[arm].passes for arm in results.arms] == [6, 12, 12]
    for cell in results.cells:
        assert set(cell.merges) == set(mapping["merges"])
        for merge in cell.merges.values():
            assert set(merge.shared.test or ()) == {"colour", "size"}
            coefficients = {point.coefficient for point in merge.curve}
            assert {merge.shared.coefficient, *merge.per_task.coefficients.values()} <= coefficients
            assert [candidate.values["scaling"] for candidate in merge.search] == sorted(coefficients)
        assert set(cell.measured["cosine"]) == {"colour", "size"}
        assert (cell.seconds or 0) > 0
        for expert in cell.experts.values():
            assert expert.passes == results.arms[cell.arm].passes
            assert 0 < expert.losses[-1][0] <= results.arms[cell.arm].steps
    assert results.device.startswith("cpu")
    assert results.protocol.tasks["colour"].train == {"limited": 24}
    assert (finished / "report.html").read_text().startswith("<!")
    left = [name for name in files(finished) if "partial" in name or ".work" in name or ".lock" in name]
    assert not left


def test_of_the_merges_the_best_of_each_arm_stays(finished: Path) -> None:
    kept = [folder.parent for folder in finished.glob("merges/**/model.safetensors")]
    assert sorted(folder.relative_to(finished).parts[2] for folder in kept) == ["adamw", "adamw-2x", "sam"]
    results = from_json((finished / "results.json").read_text())
    for cell, folder in zip(results.cells, sorted(kept), strict=True):
        worth = {}
        for method, merge in cell.merges.items():
            point = next(p for p in merge.curve if p.coefficient == merge.shared.coefficient)
            worth[method] = sum(
                score.value / cell.experts[task].validation.value for task, score in point.validation.items()
            )
        assert worth[folder.name] == max(worth.values())


def test_merges_that_read_data(mapping: dict[str, Any], tmp_path: Path) -> None:
    merges = {"fisher": {}, "regmean": {}, "adamerging": {"parameters": {"iterations": 3}}}
    arms = {"adamw": {"description": "AdamW"}}
    settings = load(
        mapping, tmp_path / "run", merges=merges, arms=arms, validation_examples=5, keep=["merges"]
    )
    (cell,) = run(settings).results.cells
    for name in merges:
        assert set(cell.merges[name].shared.test or ()) == {"colour", "size"}
        folder = tmp_path / "run/merges/limited/adamw/seed0/colour+size" / name
        manifest = json.loads((folder / "saft.json").read_text())
        assert manifest["data"]["examples"] == {"colour": 5, "size": 5}
        assert manifest["data"]["split"] == "validation"
    assert not list((tmp_path / "run").glob("experts/**/*.safetensors"))  # keep: merges, and nothing else


def test_experts_and_merges_load_with_transformers(finished: Path) -> None:
    (merge,) = finished.glob("merges/limited/sam/seed0/colour+size/*")
    for folder in (finished / "experts/limited/sam/seed0/colour", merge):
        trunk = transformers.AutoModel.from_pretrained(folder)
        assert transformers.AutoTokenizer.from_pretrained(folder)("the red rose")
        saved = load_file(folder / "model.safetensors")
        assert all(torch.equal(value, saved[name]) for name, value in trunk.state_dict().items())


def test_the_figures_are_those_of_saft_evaluate(finished: Path) -> None:
    results = from_json((finished / "results.json").read_text())
    (folder,) = finished.glob("merges/limited/sam/seed0/colour+size/*")
    scores = saft.evaluate(saft.EvaluateConfig(checkpoints=[str(folder)])).scores[str(folder)]
    assert scores == results.cells[2].merges[folder.name].shared.test


@pytest.mark.parametrize("method", ["ties", "pcb", "average"])
def test_the_test_scores_are_those_of_the_merge_that_saft_merge_writes(
    finished: Path, tmp_path: Path, method: str
) -> None:
    """The scores come from a merge in memory, which no file has held."""
    results = from_json((finished / "results.json").read_text())
    merged = results.cells[0].merges[method]
    experts = finished / "experts/limited/adamw/seed0"
    recipe = saft.MergeConfig(
        method=method,
        base=str(finished / "base"),
        models={task: str(experts / task) for task in ("colour", "size")},
        parameters=merged.parameters,
        scaling=merged.shared.coefficient,
    )
    saft.merge(recipe, tmp_path / method)
    scores = saft.evaluate(saft.EvaluateConfig(checkpoints=[str(tmp_path / method)])).scores
    assert scores[str(tmp_path / method)] == merged.shared.test


def test_a_second_call_changes_nothing_and_looks_once_for_each_figure(
    copy: Path, mapping: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, looked = files(copy), Counter[str]()
    is_done = Step.is_done

    def counted(step: Step, folder: ExperimentFolder) -> bool:
        looked[step.name] += 1
        return is_done(step, folder)

    monkeypatch.setattr(Step, "is_done", counted)
    run(load(mapping, copy))
    assert files(copy) == before
    assert set(looked.values()) == {1}


# --- interrupted ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def short(mapping: dict[str, Any]) -> dict[str, Any]:
    """What takes every kind of step twice, and no longer: it is run again for each step that is interrupted."""
    sam = {"steps": 2, "perturbation": {"name": "sam", "rho": 0.05}}
    return mapping | {
        "arms": {"adamw": {"steps": 2}, "sam": sam},
        "merges": {"ties": mapping["merges"]["ties"]},
    }


@pytest.fixture(scope="session")
def uninterrupted(short: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short") / "whole"
    run(load(short, folder))
    return folder


class Killed(BaseException):
    pass


def killed_at(step: str) -> Callable[..., Any]:
    """Return a `remember` that dies when the second step of this kind was computed, before it is written."""
    remember, met = ExperimentFolder.remember, []

    def dying(self: ExperimentFolder, name: str, rests_on: Any, figures: Any) -> None:
        if re.search(step, name):
            met.append(name)
        if len(met) == 2:
            raise Killed
        remember(self, name, rests_on, figures)

    return dying


STEPS = ["^base/", "/training$", "/sharpness$", "/interference/", "ties/validation$", "ties/test$"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_and_resumed_equals_uninterrupted(
    uninterrupted: Path, short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Kill the run inside one step after another, on its second call, and start it again."""
    monkeypatch.setattr(ExperimentFolder, "remember", killed_at(step))
    with pytest.raises(Killed):
        run(load(short, tmp_path / "run"))
    monkeypatch.undo()
    run(load(short, tmp_path / "run"))
    same_but_for_paths_and_times(uninterrupted, tmp_path / "run")


@pytest.mark.parametrize("where", ["write_base", "settle", "collect"])
def test_killed_between_the_steps(
    uninterrupted: Path, short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Killed

    place = Session if where == "write_base" else importlib.import_module("saft.run")
    monkeypatch.setattr(place, where, die)
    with pytest.raises(Killed):
        run(load(short, tmp_path / "run"))
    monkeypatch.undo()
    run(load(short, tmp_path / "run"))
    same_but_for_paths_and_times(uninterrupted, tmp_path / "run")


def same_but_for_paths_and_times(first: Path, second: Path) -> None:
    """Compare two runs to the bit; the folder's name stands in the manifests, and times in few places."""

    def essential(folder: Path) -> dict[str, bytes]:
        found = {name: text.replace(bytes(folder), b"OUT") for name, text in files(folder).items()}
        for told in ("report.html", "tables/costs.csv", "tables/costs.tex"):
            del found[told]  # made of results.json alone, times included
        return {name: re.sub(rb'"(seconds|memory)": [0-9.e-]+', b"", text) for name, text in found.items()}

    expected, found = essential(first), essential(second)
    assert expected.keys() == found.keys()
    for name, content in expected.items():
        assert found[name] == content, name


def start(mapping: dict[str, Any], out: Path) -> subprocess.Popen[bytes]:
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(mapping | {"out": str(out)}, sort_keys=False))
    command = [sys.executable, "-m", "saft", "run", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_process_resumes(uninterrupted: Path, short: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL while it trains and while it merges, as a user or a full machine would do it."""
    out = tmp_path / "killed"
    for begun in ("experts/**/saft.json", "figures/**/merges/**/*.json"):
        process = start(short, out)
        while process.poll() is None and not any(out.glob(begun)):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    run(load(short, out))
    same_but_for_paths_and_times(uninterrupted, out)


def test_what_a_training_left_that_was_killed_at_its_very_end_is_removed(
    mapping: dict[str, Any], copy: Path
) -> None:
    (expert, *_) = (file.parent for file in sorted(copy.glob("experts/*/*/*/*/saft.json")))
    work, lock = expert.with_name(f".{expert.name}.work"), expert.with_name(f".{expert.name}.lock")
    (work / "logs").mkdir(parents=True)
    lock.write_text(json.dumps({"process": 1, "host": socket.gethostname()}))
    measured = next(copy.glob(f"figures/*/*/*/experts/{expert.name}/sharpness.json"))
    measured.unlink()  # so that there is something to do with it
    run(load(mapping, copy))
    assert not work.exists()
    assert not lock.exists()


def test_the_second_of_two_is_told(mapping: dict[str, Any], copy: Path) -> None:
    with (
        ExperimentFolder(copy).locked(),
        pytest.raises(UserError, match=f"out: {copy}: another saft works in it"),
    ):
        run(load(mapping, copy))


# --- grown ----------------------------------------------------------------------------------------------------


def growth(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> set[str]:
    """Return the names of the figures that are new, having seen that none of the old ones was touched."""
    figures = [
        {n: t for n, t in f.items() if n.startswith(("figures/", "experts/"))} for f in (before, after)
    ]
    assert all(figures[1][name] == text for name, text in figures[0].items())
    return {name for name in figures[1].keys() - figures[0].keys() if name.startswith("figures/")}


GROWN: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seeds": [0, 1]}, "figures/limited/*/seed1/*"),
    "arm": ({"arms": {"adamw": {"description": "AdamW"}, "new": {"steps": 2}}}, "figures/limited/new/*"),
    "merge": ({"merges": {"average": {}, "magmax": {}}}, "figures/*/magmax/*"),
    "the same method over another grid": (
        {"merges": {"average": {}, "wide": {"method": "ties", "scaling": [0.5, 3.0]}}},
        "figures/*/wide/*",
    ),
    "train size": ({"regimes": {"limited": 24, "few": 8}}, "figures/few/*"),
}


@pytest.mark.parametrize("by", GROWN)
def test_a_finished_run_grows(copy: Path, mapping: dict[str, Any], by: str) -> None:
    changes, pattern = GROWN[by]
    smaller = {"arms": {"adamw": {"description": "AdamW"}}, "merges": {"average": {}}}
    before = files(copy)
    results = run(load(mapping, copy, **smaller | changes)).results
    new = growth(before, files(copy))
    assert new
    assert all(fnmatch(name, pattern) for name in new)
    assert {cell.arm for cell in results.cells} == set((smaller | changes)["arms"])


def test_a_run_grows_by_a_task(copy: Path, mapping: dict[str, Any], tmp_path: Path) -> None:
    """The experts of the old tasks stay; merges rest on all tasks, so those of more tasks are further ones."""
    smaller = {"arms": {"adamw": {"description": "AdamW"}}, "merges": {"ties": mapping["merges"]["ties"]}}
    again = json.loads(json.dumps(mapping["tasks"]["size"]))
    again["prompts"] = ["something {}"]
    before = files(copy)
    grown = load(mapping, copy, tasks=mapping["tasks"] | {"third": again}, **smaller)
    (cell,) = run(grown).results.cells
    new = growth(before, files(copy))
    assert {name for name in new if "/experts/" in name} == {
        f"figures/limited/adamw/seed0/experts/third/{figures}.json"
        for figures in ("training", "sharpness", "test")
    }
    assert "figures/limited/adamw/seed0/merges/colour+size+third/ties/test.json" in new
    assert (copy / "base/heads/third.safetensors").is_file()
    fresh = run(dataclasses.replace(grown, out=str(tmp_path / "fresh"))).results
    assert fresh.cells[0].merges == cell.merges
    assert fresh.cells[0].measured == cell.measured


def test_a_grown_run_equals_one_that_was_whole_from_the_start(
    finished: Path, mapping: dict[str, Any], tmp_path: Path
) -> None:
    whole = from_json((finished / "results.json").read_text())
    small = {"arms": {"adamw": mapping["arms"]["adamw"]}, "merges": {"average": {}}}
    part = tmp_path / "part"
    run(load(mapping, part, **small))
    grown = run(load(mapping, part)).results
    assert grown.base == whole.base
    for cell, other in zip(grown.cells, whole.cells, strict=True):
        assert (cell.merges, cell.measured) == (other.merges, other.measured)
    same_but_for_paths_and_times(finished, part)


def test_a_change_of_what_figures_rest_on_is_refused(copy: Path, mapping: dict[str, Any]) -> None:
    before = files(copy)
    with pytest.raises(UserError, match=r"rest on something else: arms\.adamw\.steps: was 6, now 7"):
        run(load(mapping, copy, arms=mapping["arms"] | {"adamw": {"steps": 7}}))
    assert files(copy) == before


def test_changed_data_are_noticed(mapping: dict[str, Any], tmp_path: Path) -> None:
    """An interrupted run does not go on with other data: its arms would not be comparable."""
    tasks = json.loads(json.dumps(mapping["tasks"]))
    file = tmp_path / "colour.csv"
    file.write_bytes(Path(tasks["colour"]["data"]["files"]["train"]).read_bytes())
    tasks["colour"]["data"]["files"]["train"] = str(file)
    small = {"tasks": tasks, "arms": {"adamw": {"steps": 2}}, "merges": {"average": {}}}
    run(load(mapping, tmp_path / "run", **small))
    file.write_text(file.read_text().replace("rose", "sky"))
    with pytest.raises(UserError, match=rf"tasks\.colour: the content of {file} has changed"):
        run(load(mapping, tmp_path / "run", **small))


def test_an_expert_of_other_data_is_noticed_before_its_figures_are_known(
    mapping: dict[str, Any], tmp_path: Path
) -> None:
    small = {"arms": {"adamw": {"steps": 2}}, "merges": {"average": {}}}
    run(load(mapping, tmp_path / "run", **small))
    shutil.rmtree(tmp_path / "run/figures")
    with pytest.raises(UserError, match=r"was trained in another way: training\.steps: was 2, now 3"):
        run(load(mapping, tmp_path / "run", arms={"adamw": {"steps": 3}}, merges={"average": {}}))


def test_an_arm_whose_penalty_reads_the_other_tasks(copy: Path, mapping: dict[str, Any]) -> None:
    """It grows by the arm; its experts rest on all tasks, so it cannot grow by a task any more."""
    arms = {"still": {"steps": 2, "penalty": {"name": "drift", "strength": 2, "every": 2}}}
    small = {"arms": arms, "merges": {"average": {}}}
    (cell,) = run(load(mapping, copy, **small)).results.cells
    assert cell.arm == "still"
    assert not (copy / "cache").exists()
    more = mapping["tasks"] | {"third": mapping["tasks"]["size"]}
    with pytest.raises(UserError, match=r"rest on something else: tasks\.third"):
        run(load(mapping, copy, tasks=more, **small))


# --- refused --------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run_is_refused(mapping: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty, and is not a run of saft"):
        run(load(mapping, tmp_path))


def test_without_test_nothing_of_it_is_read_and_it_can_be_read_later(
    mapping: dict[str, Any], tmp_path: Path
) -> None:
    small = {"arms": {"adamw": {}}, "merges": {"average": {}}}
    (cell,) = run(load(mapping, tmp_path / "v", test=False, **small)).results.cells
    assert {expert.test for expert in cell.experts.values()} == {None}
    assert cell.merges["average"].shared.test is None
    before = files(tmp_path / "v")
    (tested,) = run(load(mapping, tmp_path / "v", **small)).results.cells
    assert all("/test.json" in name for name in growth(before, files(tmp_path / "v")))
    assert tested.merges["average"].curve == cell.merges["average"].curve
    assert tested.merges["average"].shared.test is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"sam": {"rho": 0.1}}}, "arms.sam.rho: unknown key"),
        ({"arms": {"a/b": {}}}, "'a/b' cannot be a name"),
        ({"arms": {}}, "arms: must not be empty"),
        (
            {"arms": {"a": {"batch_size": 25}}},
            "arms.a.batch_size: is 25, but at train size limited there are 24",
        ),
        ({"merges": {"teis": {}}}, "unknown merge method 'teis'; did you mean 'ties'"),
        (
            {"merges": {"ties": {"parameters": {"densty": 1}}}},
            "merges.ties: unknown parameter 'densty'; did you mean",
        ),
        ({"merges": {"ties": {"parameters": {"density": 20}}}}, "merges.ties: density: must be in (0, 1]"),
        (
            {"merges": {"average": {"scaling": [0.1]}}},
            "merges.average: scaling: average has no scaling coefficient",
        ),
        ({"merges": {"robust_merge": {}}}, "merges.robust_merge: merges LoRA adapters, so every arm"),
        ({"model": {"path": "nowhere/at/all"}}, "model.path: there is no 'nowhere/at/all'"),
        ({"validation_examples": 0}, "validation_examples: must be at least 1"),
        ({"executor": "sreial"}, "unknown executor 'sreial'; did you mean 'serial'"),
        ({"trainer": {"acelerator": "cpu"}}, "trainer.acelerator: unknown argument"),
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
    cells = run(settings).results.cells
    assert [(c.seed, c.train_size) for c in cells] == [(0, "few"), (0, "many"), (1, "few"), (1, "many")]
    assert len({json.dumps(c.measured) for c in cells}) == 4


def test_the_config_round_trips(mapping: dict[str, Any], finished: Path) -> None:
    resolved = yaml.safe_load((finished / "config.yaml").read_text())
    assert resolved["arms"]["sam"]["perturbation"] == {"name": "sam", "rho": 0.05}
    again = ExperimentFolder(finished).read_config()
    assert dataclasses.asdict(again)["arms"] == resolved["arms"]


# --- checked only ---------------------------------------------------------------------------------------------


def test_a_check_writes_nothing_and_says_what_it_would_take(mapping: dict[str, Any], tmp_path: Path) -> None:
    checked = run(load(mapping, tmp_path / "run"), check_only=True)
    assert not (tmp_path / "run").exists()
    assert (checked.cells, checked.open_cells, checked.experts, checked.merges) == (3, 3, 6, 12)
    assert checked.passes == 2 * (6 + 12 + 12)
    assert 0 < (checked.seconds or 0) < 600
    assert str(checked).startswith("cells: 3, 3 to do")
    assert str(checked).endswith("nothing is wrong")


def test_a_check_of_a_finished_run_counts_what_is_missing(mapping: dict[str, Any], finished: Path) -> None:
    assert run(load(mapping, finished), check_only=True).open_cells == 0
    grown = run(load(mapping, finished, merges={"average": {}, "magmax": {}}), check_only=True)
    assert (grown.open_cells, grown.experts, grown.merges) == (3, 0, 3)


def test_a_disk_without_room_is_told(
    mapping: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saft.experiment.run_check._free", lambda folder: 1000)
    with pytest.raises(UserError, match=r"needs [0-9]+ MB, but the disk has 0 MB left"):
        run(load(mapping, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_language_models_are_run_and_the_less_loss_the_better(
    tiny_llama: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    declared = {
        name: {
            "kind": "language_modeling",
            "data": {key: task["data"][key] for key in ("path", "files")},
            "text": "{text} {label}",
            "metric_name": metric,
            "max_length": 24,
        }
        for (name, task), metric in zip(tiny_tasks.items(), ("loss", "token_accuracy"), strict=True)
    }
    options = {
        "out": str(tmp_path / "run"),
        "model": {"path": str(tiny_llama)},
        "tasks": declared,
        "regimes": {"limited": 24},
        "validation_examples": 8,
        "test_examples": 8,
        "training": {"steps": 8, "batch_size": 4, "learning_rate": 1e-2},
        "arms": {"adamw": {"select_steps": [1, 8]}, "sam": {"perturbation": {"name": "sam", "rho": 0.05}}},
        "merges": {"task_arithmetic": {"scaling": [-5.0, 0.5]}},
    }
    result = run(config.parse(RunConfig, options, "t"))
    results = from_json((result.folder / "results.json").read_text())
    base = results.base["colour"].test
    assert base is not None
    for cell in results.cells:
        assert cell.experts["colour"].steps == 8
        assert cell.experts["colour"].validation.value < results.base["colour"].validation.value
        assert cell.merges["task_arithmetic"].shared.coefficient == 0.5
        merged = cell.merges["task_arithmetic"].shared.test
        assert merged is not None
        assert merged["colour"].value < base.value


def test_tasks_that_take_the_model_differently_are_refused(
    tiny_gpt2: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    data = {key: tiny_tasks["size"]["data"][key] for key in ("path", "files")}
    language = {"kind": "language_modeling", "data": data, "text": "{text}"}
    options = {
        "out": str(tmp_path / "run"),
        "model": {"path": str(tiny_gpt2), "pooling": "last"},
        "tasks": {"colour": tiny_tasks["colour"], "size": language},
        "arms": {"adamw": {}},
    }
    with pytest.raises(
        UserError, match=r"tasks.size: takes the model as a causal language model, but tasks.co"
    ):
        run(config.parse(RunConfig, options, "t"))
    assert not (tmp_path / "run").exists()
