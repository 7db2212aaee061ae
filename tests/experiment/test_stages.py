"""The steps of a cell, and a cell that runs by itself in another process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from saft import config, held_model, models
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.experiment.collect import collect
from saft.experiment.events import Event
from saft.experiment.figure_files import Choice, ChoiceTest, WeightsChoice
from saft.experiment.folder import ExperimentFolder
from saft.experiment.resolve import resolve
from saft.experiment.run_check import all_steps
from saft.experiment.session import Session, open_session
from saft.experiment.stages import carry_out_cell, cell_steps, measure_functions, run_cell
from saft.interference.quantity import Figure
from saft.measure import MeasureConfig, measure
from saft.model_config import ModelConfig
from saft.report import read
from saft.run import run
from tests.interrupted import interrupted_at_score

pytestmark = pytest.mark.slow  # a whole run each


def figures(folder: Path) -> dict[str, str]:
    """Return every figure of the cell, without times, which no two runs share."""
    return {
        str(file.relative_to(folder)): re.sub(r'"(seconds|memory)": [0-9.e-]+', "", file.read_text())
        for file in sorted((folder / "figures/all").rglob("*.json"))
    }


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """Return an experiment of which no cell was computed."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("experts", "merges", "figures/all"):
        shutil.rmtree(folder / name)
    return folder


def test_a_worker_reads_the_base_no_more_often_for_more_cells(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def load(location: ModelConfig, *options: Any) -> nn.Module:
        read.append(Path(location.path))
        return models.load_trunk(location, *options)

    monkeypatch.setattr(held_model, "load_trunk", load)
    monkeypatch.setattr(held_model, "_held", held_model._Held())
    for _ in range(2):
        run_cell(begun, "all/adamw/seed0")
        shutil.rmtree(begun / "experts")
        shutil.rmtree(begun / "figures/all")
    assert read == [begun / "base"] * 2  # the first is of one that may not be asked for again


def test_a_cell_runs_in_a_fresh_process_from_the_folder_and_its_name(finished: Path, begun: Path) -> None:
    program = (
        "import sys; from saft.experiment.stages import run_cell; "
        "run_cell(sys.argv[1], 'all/adamw/seed0', lambda event: print(event))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(begun)], check=True, capture_output=True, text=True
    )
    assert figures(begun) == figures(finished)
    assert "all/adamw/seed0: train on colour" in told.stdout


def test_a_cell_that_is_finished_does_nothing(finished: Path) -> None:
    events: list[Event] = []
    run_cell(finished, "all/adamw/seed0", events.append)
    assert not events


def test_a_cell_that_is_not_there_is_told(finished: Path) -> None:
    with pytest.raises(UserError, match="has no cell 'all/adam/seed0'; did you mean 'all/adamw/seed0'"):
        run_cell(finished, "all/adam/seed0")


def test_the_events_add_up_to_the_costs(begun: Path) -> None:
    session = open_session(begun)
    (cell,) = session.resolved.cells
    costs = {step.words: 0.0 for step in cell_steps(session, cell)}
    cost = sum(step.cost for step in cell_steps(session, cell))
    events: list[Event] = []
    carry_out_cell(session, cell, events.append)
    assert sum(event.done for event in events) == pytest.approx(cost)
    assert all(event.done >= 0 for event in events)
    assert costs.keys() <= {event.step for event in events}


def test_every_step_says_what_it_rests_on(finished: Path) -> None:
    session = open_session(finished)
    (cell,) = session.resolved.cells
    for step in cell_steps(session, cell):
        assert session.folder.foundation(step.name) == step.rests_on
        assert step.rests_on["config"]["arms"]["adamw"]["steps"] == 2
        assert step.rests_on["files"]["model"]
        assert any(place.startswith("tasks.") for place in step.rests_on["files"])


def test_measures_are_of_the_experts_and_of_the_merge_at_the_coefficient_that_was_chosen(
    finished: Path,
) -> None:
    results = read(finished)
    (cell,) = results.cells
    for task, expert in cell.experts.items():
        assert cell.measured["transfer"][task][task] == pytest.approx(expert.validation.value)  # type: ignore[index,call-overload]
        line = cell.measured["loss_line"][task]  # type: ignore[index,call-overload]
        assert list(line) == ["-0.5", "0.5", "1.5"]
    session = open_session(finished)
    space = measure_functions._space(session, session.resolved.cells[0])
    merge = cell.merges["task_arithmetic"]
    space.scaling = merge.shared.coefficient
    (whole,) = (point for point in merge.curve if point.coefficient == merge.shared.coefficient)
    for task, score in whole.validation.items():
        assert space.score(task, space.merged()) == pytest.approx(score.value)
        other = next(name for name in whole.validation if name != task)
        without = space.score(task, space.merged([task]))
        assert cell.measured["harm"][other][task] == pytest.approx(without - score.value)  # type: ignore[index,call-overload]
    figure = Figure.of("harm", results.quantities["harm"], cell.measured["harm"])
    assert [axis.name for axis in figure.axes] == ["without", "task"]
    assert results.quantities["harm"].unit == "points"


def test_a_further_measure_is_made_without_training_again(finished: Path, small: dict[str, Any]) -> None:
    session = open_session(finished)
    more = small | {"out": str(finished), "measures": [*small["measures"], "feature_drift"]}
    session = Session(resolve(config.parse(RunConfig, more, "run.yaml")), session.folder)
    missing = [
        step.name
        for step in cell_steps(session, session.resolved.cells[0])
        if not step.is_done(session.folder)
    ]
    assert missing == ["all/adamw/seed0/measures/colour+size/feature_drift"]


def test_measures_of_weights_are_made_as_by_measure(
    finished: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    wanted: list[str] = ["norm", "subspaces", "survival"]  # of which every run has the first
    more = small | {"out": str(folder), "measures": [*small["measures"], *wanted]}
    run(config.parse(RunConfig, more, "run.yaml"))
    (cell,) = read(folder).cells
    merge = {"method": "task_arithmetic", "scaling": cell.merges["task_arithmetic"].shared.coefficient}
    experts = {task: str(folder / f"experts/all/adamw/seed0/{task}") for task in small["tasks"]}
    options = {"base": small["model"]["path"], "checkpoints": experts, "measures": wanted, "merge": merge}
    alone = measure(config.parse(MeasureConfig, options, "measure.yaml")).measured
    assert {"subspace_alignment", "survival", "norm"} <= alone.keys()
    assert {name: cell.measured[name] for name in alone} == alone
    assert not (folder / "figures/all/adamw/seed0/measures/colour+size/norm.json").exists()


def test_a_measure_that_gives_nothing_is_told(
    finished: Path, small: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = {"colour": small["tasks"]["colour"]}
    run(
        config.parse(
            RunConfig,
            small | {"out": str(tmp_path / "run"), "tasks": tasks, "measures": ["transfer", "subspaces"]},
            "r",
        )
    )
    told = [line for line in capsys.readouterr().err.splitlines() if "gives nothing" in line]
    assert told == [
        "saft: note: measures: subspaces gives nothing of all/adamw/seed0: it compares several tasks, and there is one"
    ]


def test_mistakes_in_measures_are_told_before_anything_is_done(small: dict[str, Any]) -> None:
    def resolved(**changes: Any) -> None:
        resolve(config.parse(RunConfig, small | {"out": "run", **changes}, "run.yaml"))

    with pytest.raises(UserError, match="measures: unknown measure 'transfr'; did you mean 'transfer'"):
        resolved(measures=["transfr"])
    with pytest.raises(UserError, match="measures: need a merge that gives one model and reads no ex"):
        resolved(merges={"fisher": {}, "emr": {}})


def searched(finished: Path, small: dict[str, Any], place: Path) -> Session:
    """Return an experiment whose experts are trained, and one of whose merges is to be searched by TPE."""
    folder = Path(shutil.copytree(finished, place))
    more = small | {
        "out": str(folder),
        "merges": {**small["merges"], "ties": {"choices": {"density": [0.3, 1]}, "scaling": [0.2, 1.0]}},
        "selection": {"search": "tpe", "budget": 5},
    }
    for task in ("validation", "test"):  # a grid was tried of it
        (folder / f"figures/all/adamw/seed0/merges/colour+size/task_arithmetic/{task}.json").unlink()
    resolved = resolve(config.parse(RunConfig, more, "run.yaml"))
    place = ExperimentFolder(folder)
    place.write_config(resolved.plain())
    return Session(resolved, place)


def test_a_run_grows_by_the_merge_that_is_measured_then(
    finished: Path, small: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(folder / "figures/all/adamw/seed0/measures")
    for merges in ({"average": {}}, {"average": {}, **small["merges"]}):
        settings = small | {"out": str(folder), "merges": merges, "measures": ["leave_one_out"]}
        session = Session(resolve(config.parse(RunConfig, settings, "run.yaml")), ExperimentFolder(folder))
        all_steps(session)  # refuses figures that rest on something else
        carry_out_cell(session, *session.resolved.cells, lambda event: None)
    measured = folder / "figures/all/adamw/seed0/measures/colour+size"
    assert sorted(file.name for file in measured.iterdir()) == [
        "leave_one_out-of-average.json",
        "leave_one_out.json",
    ]
    assert figures(folder).items() >= {(n, t) for n, t in figures(finished).items() if n.endswith("out.json")}


def test_a_search_of_coefficient_and_density_goes_on_after_an_interrupt_to_the_same_choice(
    finished: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halved = (searched(finished, small, tmp_path / name) for name in ("whole", "halved"))
    (cell,) = whole.resolved.cells
    carry_out_cell(whole, cell, lambda event: None)
    with interrupted_at_score(8, monkeypatch):  # of the fourth candidate of two tasks
        carry_out_cell(halved, cell, lambda event: None)
    assert len(list(halved.folder.path.rglob("*.trials"))) == 1
    carry_out_cell(halved, cell, lambda event: None)
    assert not list(halved.folder.path.rglob("*.trials"))
    assert figures(halved.folder.path) == figures(whole.folder.path)

    choice = whole.folder.known("all/adamw/seed0/merges/colour+size/ties/validation", Choice)
    assert len(choice.curve) == 5
    assert all(0.2 <= trial.candidate <= 1.0 for trial in choice.curve)
    assert choice.parameters["density"] in (0.3, 1)
    assert whole.folder.known("all/adamw/seed0/merges/colour+size/ties/test", ChoiceTest).shared
    results = collect(whole)
    merge = results.cells[0].merges["ties"]
    assert merge.parameters["density"] == choice.parameters["density"]
    assert merge.shared.coefficient == choice.shared
    assert not list(results.cells[0].problems(set(small["tasks"]), True, results.quantities))


def test_each_task_gets_a_weight_after_an_interrupt_too_and_no_other_figure_is_computed_again(
    finished: Path, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(name: str) -> Session:
        folder = Path(shutil.copytree(finished, tmp_path / name))
        more = small | {"out": str(folder), "selection": {"weights": "per_layer", "budget": 5}}
        place, resolved = ExperimentFolder(folder), resolve(config.parse(RunConfig, more, "run.yaml"))
        place.write_config(resolved.plain())
        return Session(resolved, place)

    whole, halved = begun("whole"), begun("halved")
    (cell,) = whole.resolved.cells
    missing = [step.name for step in cell_steps(whole, cell) if not step.is_done(whole.folder)]
    name = "all/adamw/seed0/merges/colour+size/task_arithmetic/weights"
    assert missing == [f"{name}/validation", f"{name}/test"]
    carry_out_cell(whole, cell, lambda event: None)
    with interrupted_at_score(6, monkeypatch):  # of the third candidate of two tasks
        carry_out_cell(halved, cell, lambda event: None)
    assert len(list(halved.folder.path.rglob("*.trials"))) == 1
    carry_out_cell(halved, cell, lambda event: None)
    assert figures(halved.folder.path) == figures(whole.folder.path)

    made = whole.folder.known(f"{name}/validation", WeightsChoice)
    merge = whole.folder.known("all/adamw/seed0/merges/colour+size/task_arithmetic/validation", Choice)
    assert made.start == merge.shared
    assert [len(own) for own in made.weights.values()] == [3, 3]
    assert len(made.tried) == 5
    assert set(made.tried[0].values()) == {merge.shared}
    results = collect(whole)
    weighted = results.cells[0].merges["task_arithmetic"].weighted
    assert weighted is not None
    assert weighted.weights == made.weights
    assert weighted.gain is not None
    assert len(weighted.gain) == 10
    assert not list(results.cells[0].problems(set(small["tasks"]), True, results.quantities))


def test_mistakes_in_a_selection_are_told_before_anything_is_done(small: dict[str, Any]) -> None:
    def told(**changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            config.parse(RunConfig, small | {"out": "run", **changes}, "run.yaml")
        return str(caught.value)

    assert "selection.search: unknown value 'tpee'; did you mean 'tpe'" in told(selection={"search": "tpee"})
    ties = {"choices": {"density": [0.1, 20]}}
    assert "merges.ties: choices.density: density: must be in (0, 1], but is 20" in told(
        merges={"ties": ties}
    )
    ties = {"choices": {"densty": [0.1]}}
    assert "choices.densty: unknown parameter 'densty'; did you mean 'density'" in told(merges={"ties": ties})
    ties = {"choices": {"density": [0.1]}, "parameters": {"density": 0.2}}
    assert "choices.density: has a value under `parameters` already" in told(merges={"ties": ties})
    assert (
        "selection.weights: per_task needs the merge that is weighed; add task_arithmetic to `merges`"
        in told(merges={"ties": {}}, selection={"weights": "per_task"})
    )
    summed = {"task_arithmetic": {"parameters": {"weights": [1, 2]}}}
    assert "parameters.weights: are searched by selection.weights; leave one out" in told(
        merges=summed, selection={"weights": "per_layer"}
    )
