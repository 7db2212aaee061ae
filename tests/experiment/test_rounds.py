"""Arms with `choices`: chosen on merged validation scores, tested once, also after an interrupt and grown."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.experiment.figure_files import Choice
from saft.experiment.folder import ExperimentFolder
from saft.experiment.session import Session, open_session
from saft.experiment.stages import (
    cell_steps,
    choose_trial,
    chosen_cells,
    drawn_cells,
    is_chosen,
    steps_of_cells,
)
from saft.experiment.status import status
from saft.report.results import ArmSearch, Results, from_json
from saft.run import run
from tests.interrupted import interrupted_at_score

pytestmark = pytest.mark.slow  # a whole run each

TEST, VALIDATION = 10, 6  # examples, by which a split is known
RATES = [1e-5, 3e-3]
TRIALS = [f"adamw--learning_rate={rate:g}" for rate in RATES]
CHOSEN, OTHER = TRIALS[1], TRIALS[0]


@pytest.fixture(scope="module")
def searching(small: dict[str, Any]) -> dict[str, Any]:
    training = {"steps": 6, "batch_size": 4, "schedule": "constant"}
    return small | {
        "training": training,
        "arms": {"adamw": {"description": "tuned", "choices": {"learning_rate": RATES}}, "sam": {"steps": 2}},
        "merges": {"task_arithmetic": {"scaling": [0.3, 0.6]}},
        "measures": [],
        "seeds": [0, 1],
    }


def load(searching: dict[str, Any], out: Path, **changes: Any) -> RunConfig:
    return config.parse(RunConfig, searching | {"out": str(out)} | changes, "run.yaml")


class Reads:
    """Counts the evaluations on test examples, by task and whether the model is the base, an expert or a merge."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        score = Session.outcomes

        def counted(session: Session, task: str, model: Any, examples: Any) -> Any:
            self.count += len(examples) == TEST
            return score(session, task, model, examples)

        monkeypatch.setattr(Session, "outcomes", counted)


@pytest.fixture(scope="module")
def whole(searching: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Return the folder of a run that nothing interrupted, and how often a test split was read."""
    folder = tmp_path_factory.mktemp("rounds") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        reads = Reads(patch)
        run(load(searching, folder))
    return folder, reads.count


def figures(folder: Path) -> dict[str, str]:
    """Return every figure without times, which no two runs share."""
    return {
        str(file.relative_to(folder)): re.sub(r'"(seconds|memory)": [0-9.e-]+', "", file.read_text())
        for file in sorted((folder / "figures").rglob("*.json"))
    }


def results_of(folder: Path) -> tuple[Results, ArmSearch]:
    results = from_json((folder / "results.json").read_text())
    (search,) = results.arm_searches
    return results, search


def merged(folder: Path, trial: str, seed: int) -> float:
    """Return a trial's mean merged validation score, from its figures."""
    name = f"all/{trial}/seed{seed}/merges/colour+size/task_arithmetic/validation"
    return fmean(
        score.value for score in ExperimentFolder(folder).known(name, Choice).chosen.validation.values()
    )


def test_the_trial_that_merges_best_on_validation_data_is_the_arm(whole: tuple[Path, int]) -> None:
    folder, _ = whole
    results, search = results_of(folder)
    assert [(cell.arm, cell.seed) for cell in results.cells] == [
        ("adamw", 0),
        ("sam", 0),
        ("adamw", 1),
        ("sam", 1),
    ]
    assert list(search.trials) == TRIALS
    for name, trial in search.trials.items():
        assert trial.worth == {seed: pytest.approx(merged(folder, name, seed)) for seed in (0, 1)}
    assert search.chosen == max(search.trials, key=lambda name: search.trials[name].mean) == CHOSEN
    assert (search.combinations, search.passes) == (2, 12)
    assert results.arms["adamw"].extras["choices"] == "learning rate 0.003"
    assert results.facts("all", "adamw") == search.trials[CHOSEN].facts
    chosen = ExperimentFolder(folder).known(
        f"all/{CHOSEN}/seed1/merges/colour+size/task_arithmetic/validation", Choice
    )
    assert results.cells[2].merges["task_arithmetic"].shared.coefficient == chosen.shared


def test_merges_are_kept_that_had_no_part_in_the_choice(searching: dict[str, Any], tmp_path: Path) -> None:
    folder, merges = tmp_path / "run", searching["merges"] | {"emr": {}}
    more = {"keep": ["merges"], "selection": {"weights": "per_task", "budget": 2}, "seeds": [0]}
    arms = {"adamw": searching["arms"]["adamw"]}
    run(load(searching, folder, merges=merges, arms=arms, **more))
    kept = {file.parent.relative_to(folder / "merges/all") for file in folder.glob("merges/**/saft.json")}
    assert {place.name for place in kept} == {"task_arithmetic", "task_arithmetic-per_task", "emr"}
    assert {place.parts[0] for place in kept} == {CHOSEN}


def test_only_the_chosen_trial_is_tested_and_measured_each_split_once(whole: tuple[Path, int]) -> None:
    folder, reads = whole
    names = list(figures(folder))
    assert not [
        name for name in names if OTHER in name and not name.endswith(("training.json", "validation.json"))
    ]
    for part in ("experts/colour/test", "merges/colour+size/task_arithmetic/test", "experts/size/sharpness"):
        assert f"figures/all/{CHOSEN}/seed0/{part}.json" in names
    # The base once a task; each cell's experts, and each merge at its shared and its tasks' own coefficients.
    place, expected = ExperimentFolder(folder), 2
    for arm in (CHOSEN, "sam"):
        for seed in (0, 1):
            expected += 2
            made = place.known(f"all/{arm}/seed{seed}/merges/colour+size/task_arithmetic/validation", Choice)
            expected += 2 + sum(own != made.shared for own in made.per_task.values())
    assert reads == expected


def test_everything_is_kept_of_experts_and_the_best_merge_is_one_of_the_chosen(
    whole: tuple[Path, int],
) -> None:
    folder, _ = whole
    experts = {
        file.parent.relative_to(folder / "experts/all").parts[0]
        for file in folder.glob("experts/**/saft.json")
    }
    assert experts == {*TRIALS, "sam"}
    assert {place.name for place in (folder / "merges/all").iterdir()} == {CHOSEN, "sam"}
    session = open_session(folder)
    assert {cell.arm for cell in chosen_cells(session)} == {CHOSEN, "sam"}
    assert not status(folder).missing


@pytest.mark.parametrize("score", [7, 26])
def test_an_interrupted_search_ends_with_the_same_figures(
    whole: tuple[Path, int],
    searching: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    score: int,
) -> None:
    """The trainings are done, for time; what is interrupted are the merges of a trial, and the tests."""
    folder = Path(shutil.copytree(whole[0], tmp_path / "run"))
    for file in (folder / "figures").rglob("*.json"):
        if file.name != "training.json":
            file.unlink()
    with interrupted_at_score(score, monkeypatch):
        run(load(searching, folder))
    run(load(searching, folder))
    assert figures(folder) == figures(whole[0])
    assert (folder / "report.html").read_text() == (whole[0] / "report.html").read_text()


@pytest.mark.usefixtures("forked_workers")
def test_several_processes_find_the_same(
    whole: tuple[Path, int], searching: dict[str, Any], tmp_path: Path
) -> None:
    arms = {"adamw": searching["arms"]["adamw"]}
    run(load(searching, tmp_path / "run", executor="local", seeds=[0], arms=arms))
    wanted = {n: text for n, text in figures(whole[0]).items() if "seed1" not in n and "/sam/" not in n}
    assert figures(tmp_path / "run") == wanted
    assert not (tmp_path / "run/claims").exists()


def test_a_further_value_adds_a_trial_and_may_be_chosen(
    whole: tuple[Path, int], searching: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    fewer, all_ = ({"adamw": {"choices": {"learning_rate": rates}}} for rates in (RATES[:1], RATES))
    run(load(searching, folder, arms=fewer, seeds=[0]))
    assert results_of(folder)[1].chosen == OTHER
    before, reads = figures(folder), Reads(monkeypatch)
    run(load(searching, folder, arms=all_, seeds=[0]))
    after = figures(folder)
    assert before.items() <= after.items()
    assert all(CHOSEN in name for name in after.keys() - before.keys())
    assert reads.count > 0
    results, search = results_of(folder)
    assert search.chosen == CHOSEN
    assert results.cells[0].merges == results_of(whole[0])[0].cells[0].merges


def test_a_trial_that_diverges_is_not_chosen_and_where_all_do_it_is_told(
    whole: tuple[Path, int], searching: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "run"))
    arms = {"adamw": {"choices": {"learning_rate": [*RATES, 1e30]}}}
    run(load(searching, folder, arms=arms, seeds=[0]))
    _, search = results_of(folder)
    assert search.chosen == CHOSEN
    assert (
        search.trials["adamw--learning_rate=1e+30"].mean != search.trials["adamw--learning_rate=1e+30"].mean
    )
    assert "best of 3 trials on merged validation accuracy" in (folder / "report.html").read_text()
    assert "1 diverged" in (folder / "report.html").read_text()
    wild = {"adamw": {"choices": {"learning_rate": [1e29, 1e30]}}}
    for _ in range(2):
        with pytest.raises(UserError, match="all, adamw: training diverged in every trial") as caught:
            run(load(searching, tmp_path / "wild", arms=wild, seeds=[0]))
        assert len(caught.value.problems) == 1
    assert not (tmp_path / "wild/results.json").exists()  # there is nothing to report
    with pytest.raises(UserError, match="all, adamw: training diverged in every trial"):
        run(load(searching, tmp_path / "wild", arms=wild | {"sam": {"steps": 2}}, seeds=[0]))
    results = from_json((tmp_path / "wild/results.json").read_text())
    assert [cell.arm for cell in results.cells] == list(results.arms) == ["sam"]
    assert [(failed.arm, failed.seed) for failed in results.failed] == [("adamw", None)]


def test_a_failure_in_one_arm_keeps_no_other_from_being_tested(
    whole: tuple[Path, int], searching: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "run"))
    for file in folder.glob("figures/all/*/*/*/*/test.json"):
        file.unlink()
    arms = {"wild": {"learning_rate": 1e30}} | searching["arms"]
    with pytest.raises(UserError, match="all/wild/seed0: train on colour: training diverged"):
        run(load(searching, folder, arms=arms, seeds=[0]))
    assert (folder / f"figures/all/{CHOSEN}/seed0/experts/colour/test.json").is_file()
    assert {cell.arm for cell in results_of(folder)[0].cells} == {"adamw", "sam"}


def test_a_check_tells_trials_and_passes(searching: dict[str, Any], tmp_path: Path) -> None:
    choices = {"learning_rate": [1e-5, 1e-4, 1e-3], "steps": [3, 6]}
    arms = {"adamw": {"choices": choices}}
    more = load(searching, tmp_path / "run", arms=arms, selection={"arm_passes": 15})
    checked = run(more, check_only=True)
    count, combinations = checked.trials["adamw"]
    assert combinations == 6
    assert 2 <= count < 6
    assert checked.cells == 2 * count
    assert checked.experts == 4 * count
    assert checked.passes <= 2 * 2 * 15
    assert f"trials: adamw: {count} of 6 combinations, drawn; the one" in str(checked)
    assert not (tmp_path / "run").exists()


def test_until_it_is_chosen_a_trial_has_only_the_steps_that_decide(
    whole: tuple[Path, int], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "run"))
    session = open_session(folder)
    cells = {cell.arm: cell for cell in session.resolved.cells if cell.seed == 0}
    assert [is_chosen(session, cells[arm]) for arm in (OTHER, CHOSEN, "sam")] == [False, True, True]
    (folder / f"figures/all/{OTHER}/seed1/merges/colour+size/task_arithmetic/validation.json").unlink()
    session = open_session(folder)
    assert [is_chosen(session, cells[arm]) for arm in (OTHER, CHOSEN, "sam")] == [False, False, True]
    assert {cell.arm for cell in chosen_cells(session)} == {"sam"}
    assert {cell.arm for cell in chosen_cells(session, foreseen=True)} == {OTHER, "sam"}


def test_while_nothing_is_chosen_an_arm_is_asked_once_for_all_its_cells(
    whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(whole[0], tmp_path / "run"))
    (folder / f"figures/all/{OTHER}/seed1/merges/colour+size/task_arithmetic/validation.json").unlink()
    session, asked = open_session(folder), list[str]()
    look = choose_trial._arm_choice

    def counted(session: Session, train_size: str, arm: str) -> Any:
        asked.append(arm)
        return look(session, train_size, arm)

    monkeypatch.setattr(choose_trial, "_arm_choice", counted)
    steps = steps_of_cells(session, session.resolved.cells)
    assert {name: len(of) for name, of in steps.items()} == {
        str(cell): len(cell_steps(session, cell)) for cell in session.resolved.cells
    }
    assert asked == ["adamw"] * 5  # for all, and for each of its four cells


SEARCHED = {"learning_rate": [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "schedule": ["linear", "constant"]}


@pytest.fixture(scope="module")
def sampled(searching: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that has drawn six of twelve trials: four, and then two."""
    folder = tmp_path_factory.mktemp("rounds") / "sampled"
    run(load_sampled(searching, folder, 12))
    return folder


def load_sampled(searching: dict[str, Any], folder: Path, passes: int, **changes: Any) -> RunConfig:
    training = {"steps": 2, "batch_size": 4}
    changes = {"seeds": [0], "training": training, "selection": {"arm_passes": passes}} | changes
    return load(searching, folder, arms={"adamw": {"choices": SEARCHED}}, **changes)


def trained(folder: Path) -> set[str]:
    return {place.parts[-2] for place in folder.glob("figures/all/*/seed0")}


def test_a_search_draws_as_many_trials_as_its_budget_allows_and_tests_the_best(sampled: Path) -> None:
    results, search = results_of(sampled)
    assert (len(search.trials), search.combinations, search.passes) == (6, 12, 12)
    assert trained(sampled) == search.trials.keys()
    assert search.chosen == max(search.trials, key=lambda name: search.trials[name].mean)
    tested = {file.relative_to(sampled).parts[2] for file in sampled.glob("figures/all/**/test.json")}
    assert tested == {search.chosen}
    assert len(results.cells) == 1
    assert not status(sampled).missing
    assert {cell.arm for cell in drawn_cells(open_session(sampled))} == search.trials.keys()


@pytest.mark.usefixtures("forked_workers")
def test_a_search_in_several_processes_and_one_that_was_interrupted_draw_the_same(
    sampled: Path, searching: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(load_sampled(searching, tmp_path / "local", 12, executor="local"))
    assert figures(tmp_path / "local") == figures(sampled)
    with interrupted_at_score(7, monkeypatch):
        run(load_sampled(searching, tmp_path / "run", 12))
    assert len(trained(tmp_path / "run")) < 6
    run(load_sampled(searching, tmp_path / "run", 12))
    assert figures(tmp_path / "run") == figures(sampled)


def test_a_larger_budget_goes_on(sampled: Path, searching: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sampled, tmp_path / "run"))
    before = figures(folder)
    checked = run(load_sampled(searching, folder, 16), check_only=True)
    assert checked.trials["adamw"] == (8, 12)
    assert (checked.experts, checked.cells) == (4, 8)
    run(load_sampled(searching, folder, 16))
    assert before.items() <= figures(folder).items()
    assert len(results_of(folder)[1].trials) == 8
