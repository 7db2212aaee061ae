"""Arms with a first round: whose experts are shifted by the others' task vectors, or start from the merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from saft import config
from saft.dry_run.tiny_run import tiny_run
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.experiment.folder import ExperimentFolder
from saft.experiment.resolve import resolve
from saft.experiment.session import Session
from saft.experiment.stages import trained_models
from saft.experiment.stages.trained_models import expert_config
from saft.merge import merge
from saft.merging.merge_config import MergeConfig
from saft.model_config import ModelConfig
from saft.run import run
from saft.training.fine_tuning import fine_tune
from saft.training.train_config import TrainConfig

COMMON = {"batch_size": 4, "learning_rate": 3e-3}
ARMS = {
    "adamw": COMMON | {"steps": 3},
    "two_rounds": COMMON
    | {"steps": 2, "perturbation": {"name": "task_vectors", "rho": 0.6}, "first_round": {"steps": 1}},
}


@pytest.fixture
def two_rounds(small: dict[str, Any]) -> dict[str, Any]:
    return small | {"arms": ARMS, "regimes": {"few": 12}}


def manifest(folder: Path, arm: str, task: str) -> Any:
    return json.loads((folder / f"experts/few/{arm}/seed0/{task}/saft.json").read_text())


@pytest.mark.slow  # two runs
def test_a_run_trains_both_rounds_and_finds_the_same_in_workers(
    two_rounds: dict[str, Any], tmp_path: Path, forked_workers: None
) -> None:
    folder = tmp_path / "run"
    run(config.parse(RunConfig, two_rounds | {"out": str(folder)}, "run.yaml"))
    results = json.loads((folder / "results.json").read_text())
    assert results["arms"]["two_rounds"]["passes"] == 3
    assert results["arms"]["two_rounds"]["extras"] == {"first_round": "steps 1"}
    others = manifest(folder, "two_rounds", "colour")["config"]["others"]
    assert [Path(other).name for other in others] == ["size"]
    assert manifest(folder, "adamw", "colour")["config"]["others"] == []
    assert not (folder / "first_rounds").exists()
    assert (folder / "figures/few/two_rounds/seed0/experts/size/first_round.json").exists()

    again = tmp_path / "again"
    side_by_side = two_rounds | {"out": str(again), "executor": "local", "workers": 2}
    run(config.parse(RunConfig, side_by_side, "run.yaml"))
    for task in ("colour", "size"):
        name = f"experts/few/two_rounds/seed0/{task}/model.safetensors"
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if "figures" in path.parts}
    run(config.parse(RunConfig, two_rounds | {"out": str(folder)}, "run.yaml"))
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "nothing is computed again"


@pytest.mark.slow  # two runs
def test_experts_that_are_not_kept_are_trained_again_with_their_first_round(
    two_rounds: dict[str, Any], tmp_path: Path
) -> None:
    mapping = two_rounds | {"out": str(tmp_path / "run"), "keep": []}
    run(config.parse(RunConfig, mapping, "run.yaml"))
    assert not (tmp_path / "run" / "experts").exists()
    merges = dict(mapping["merges"]) | {"average": {}}
    run(config.parse(RunConfig, mapping | {"merges": merges, "keep": ["experts"]}, "run.yaml"))
    assert manifest(tmp_path / "run", "two_rounds", "colour")["config"]["training"]["first_round"] is None


START = COMMON | {"steps": 2, "first_round": {"steps": 1}, "start": {"method": "task_arithmetic"}}


def load(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow  # two runs
def test_a_merged_start_is_the_base_of_training_and_merging(
    small: dict[str, Any], tmp_path: Path, forked_workers: None
) -> None:
    """Against the round made by hand: train, merge, train on from the merge with the same head, merge."""
    folder, again = tmp_path / "run", tmp_path / "again"
    rounds = small | {"arms": {"rounds": START}, "regimes": {"few": 12}, "keep": ["experts", "merges"]}
    rounds |= {"merges": {"task_arithmetic": {"scaling": [0.5]}}}
    made = config.parse(RunConfig, rounds | {"out": str(folder)}, "run.yaml")
    run(made)
    run(config.parse(RunConfig, rounds | {"out": str(again), "executor": "local", "workers": 2}, "run.yaml"))
    results = json.loads((folder / "results.json").read_text())
    assert results["arms"]["rounds"]["passes"] == 3
    assert results["arms"]["rounds"]["extras"] == {
        "first_round": "steps 1",
        "start": "merged by task_arithmetic",
    }
    assert not (folder / "first_rounds").exists()
    (cell,) = results["cells"]
    of_merge = json.loads((folder / "figures/few/rounds/seed0/start.json").read_text())["figures"]["seconds"]
    assert of_merge > 0
    of_experts = sum(expert["seconds"] for expert in cell["experts"].values())
    assert cell["seconds"] == pytest.approx(of_experts + of_merge)

    hand, arms = tmp_path / "hand", {"first": COMMON | {"steps": 1}}
    run(config.parse(RunConfig, rounds | {"arms": arms, "out": str(hand)}, "run.yaml"))
    first = {task: str(hand / f"experts/few/first/seed0/{task}") for task in ("colour", "size")}
    merge(MergeConfig("task_arithmetic", str(hand / "base"), first), tmp_path / "start")
    start = load(folder / "starts/few/rounds/seed0")
    assert start.keys() == load(tmp_path / "start").keys()
    assert all(torch.equal(tensor, start[name]) for name, tensor in load(tmp_path / "start").items())
    for task in first:
        name = f"experts/few/rounds/seed0/{task}"
        own = TrainConfig(
            model=ModelConfig(str(tmp_path / "start"), made.model.pooling),
            task=made.tasks[task],
            out=str(tmp_path / task),
            name=task,
            training=made.training_of(made.trials_of("rounds")[0]).last,
            train_examples=12,
            validation_examples=made.validation_examples,
            head_from=first[task],
        )
        fine_tune(own)
        for weights in ("model.safetensors", f"heads/{task}.safetensors"):
            assert (tmp_path / task / weights).read_bytes() == (folder / name / weights).read_bytes()
            assert (again / name / weights).read_bytes() == (folder / name / weights).read_bytes()
    merged = load(folder / "merges/few/rounds/seed0/colour+size/task_arithmetic")
    vectors = [load(tmp_path / task) for task in first]
    for name, tensor in start.items():
        expected = tensor + 0.5 * sum(vector[name] - tensor for vector in vectors)
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)

    more = rounds | {"merges": {"task_arithmetic": {"scaling": [0.5]}, "average": {}}, "keep": []}
    run(config.parse(RunConfig, more | {"out": str(folder)}, "run.yaml"))  # whose first round is gone
    assert not any((folder / name).exists() for name in ("starts", "experts"))
    again_more = more | {"merges": {**more["merges"], "ties": {}}}
    run(config.parse(RunConfig, again_more | {"out": str(folder)}, "run.yaml"))  # whose experts are gone


@pytest.mark.slow  # two runs
def test_a_second_round_goes_on_from_the_merge_of_the_first(small: dict[str, Any], tmp_path: Path) -> None:
    """Against a run whose experts are what the second round leaves."""
    folder, hand = tmp_path / "run", tmp_path / "hand"
    start = START["start"] | {"rounds": 2}
    rounds = small | {"arms": {"rounds": START | {"start": start}}, "regimes": {"few": 12}}
    rounds |= {"keep": ["experts"], "merges": {"task_arithmetic": {}}}
    run(config.parse(RunConfig, rounds | {"out": str(folder)}, "run.yaml"))
    results = json.loads((folder / "results.json").read_text())
    assert results["arms"]["rounds"]["passes"] == 4
    assert results["arms"]["rounds"]["extras"]["start"] == "merged by task_arithmetic, 2 rounds"
    assert not list(folder.glob("*rounds*"))
    assert not (folder / "starts_1").exists()
    figures = folder / "figures/few/rounds/seed0"
    parts = [*figures.glob("experts/*/*round*.json"), *figures.glob("experts/*/training.json")]
    parts += figures.glob("start*.json")
    assert len(parts) == 2 * 3 + 2
    spent = sum(json.loads(part.read_text())["figures"]["seconds"] for part in parts)
    assert results["cells"][0]["seconds"] == pytest.approx(spent)

    two = {"rounds": START | {"steps": 1}}
    run(config.parse(RunConfig, rounds | {"arms": two, "out": str(hand)}, "run.yaml"))
    left = {task: str(hand / f"experts/few/rounds/seed0/{task}") for task in ("colour", "size")}
    merge(
        MergeConfig("task_arithmetic", str(hand / "starts/few/rounds/seed0"), left),
        tmp_path / "start",
    )
    expected, found = load(tmp_path / "start"), load(folder / "starts/few/rounds/seed0")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    experts = folder / "experts/few/rounds/seed0/colour"
    assert manifest(folder, "rounds", "colour")["config"]["model"]["path"] == str(
        folder / "starts/few/rounds/seed0"
    )
    assert any(not torch.equal(tensor, found[name]) for name, tensor in load(experts).items())


@pytest.mark.slow  # a run
def test_a_first_round_that_diverges_is_trained_once(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []

    def counted(settings: TrainConfig, **more: Any) -> Any:
        trained.append(Path(settings.out).relative_to(tmp_path / "run"))
        return fine_tune(settings, **more)

    monkeypatch.setattr(trained_models, "fine_tune", counted)
    rounds = {"first_round": {"steps": 1}, "start": {"method": "average", "rounds": 2}}
    arm = {"steps": 1, "batch_size": 4, "choices": {"learning_rate": [1e-3, 1e30]}, **rounds}
    run(config.parse(RunConfig, small | {"out": str(tmp_path / "run"), "arms": {"a": arm}}, "run.yaml"))
    assert len(set(trained)) == len(trained)
    wild = {folder.parts[0] for folder in trained if "1e+30" in str(folder)}
    assert wild == {"first_rounds", "rounds_2"}  # whose merge is no start for the experts


def test_figures_rest_on_the_data_of_all_tasks(two_rounds: dict[str, Any], tmp_path: Path) -> None:
    session = _session(two_rounds, tmp_path)
    cells = {cell.arm: cell for cell in session.resolved.cells}
    found = session.foundations
    assert set(found.expert(cells["two_rounds"], "colour")["config"]["tasks"]) == {"colour", "size"}
    assert set(found.training(cells["two_rounds"], "colour")["config"]["tasks"]) == {"colour"}
    assert set(found.expert(cells["adamw"], "colour")["config"]["tasks"]) == {"colour"}


@pytest.mark.slow  # a run each
@pytest.mark.parametrize(
    "parametrization",
    [{"name": "lora", "rank": 2}, {"name": "linearized"}],
    ids=lambda options: options["name"],
)
def test_what_no_weight_is_given_stays_the_merged_start(
    parametrization: dict[str, Any], small: dict[str, Any], tmp_path: Path
) -> None:
    arms = {"rounds": START | {"parametrization": parametrization}}
    rounds = small | {"arms": arms, "regimes": {"few": 12}, "keep": ["experts", "merges"]}
    rounds |= {"merges": {"task_arithmetic": {"scaling": [0.0]}}, "out": str(tmp_path)}
    run(config.parse(RunConfig, rounds, "run.yaml"))
    start, base = load(tmp_path / "starts/few/rounds/seed0"), load(tmp_path / "base")
    merged = load(tmp_path / "merges/few/rounds/seed0/colour+size/task_arithmetic")
    assert all(torch.equal(tensor, merged[name]) for name, tensor in start.items())
    assert any(not torch.equal(tensor, base[name]) for name, tensor in start.items())
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(norm > 0 for norm in results["cells"][0]["measured"]["norm"].values())


def test_the_last_round_reads_what_the_first_left(small: dict[str, Any], tmp_path: Path) -> None:
    arms = {**ARMS, "rounds": START}
    session = _session(small | {"arms": arms, "regimes": {"few": 12}}, tmp_path)
    cells = {cell.arm: cell for cell in session.resolved.cells}
    of = {arm: expert_config(session, cell, "colour") for arm, cell in cells.items()}
    folder = tmp_path / "run"
    assert [Path(config.model.path) for config in of.values()] == [
        folder / "base",
        folder / "base",
        folder / "starts/few/rounds/seed0",
    ]
    assert [config.others for config in of.values()] == [
        [],
        [str(folder / "first_rounds/few/two_rounds/seed0/size")],
        [],
    ]
    assert all(config.training.first_round is None for config in of.values())


def test_a_radius_of_others_goes_by_the_first_round_or_by_the_number_of_tasks(
    small: dict[str, Any], tmp_path: Path
) -> None:
    sam = COMMON | {"steps": 2, "perturbation": {"name": "sam", "rho": "others"}}
    first = {"steps": 1, "perturbation": {"name": "sam", "rho": "others"}}
    arms = {
        "alone": sam,
        "known": sam | {"first_round": {"steps": 1}},
        "start": sam | {"first_round": first, "start": {"method": "average"}},
        "told": COMMON | {"steps": 2, "perturbation": {"name": "sam", "rho": "others", "tasks": 9}},
    }
    session = _session(small | {"arms": arms, "regimes": {"few": 12}}, tmp_path)
    made = {arm: options.perturbation for arm, options in session.resolved.arms.items()}
    assert {arm: options.get("tasks") for arm, options in made.items()} == {
        "alone": 2,
        "known": None,
        "start": 2,
        "told": 9,
    }
    assert session.resolved.arms["start"].first.perturbation["tasks"] == 2
    of = {cell.arm: expert_config(session, cell, "colour").others for cell in session.resolved.cells}
    assert [len(others) for others in of.values()] == [0, 1, 0, 0]
    again = resolve(config.parse(RunConfig, session.resolved.plain() | {"out": "run"}, "config.yaml"))
    assert again.arms == session.resolved.arms


@pytest.mark.slow  # a run
def test_a_run_trains_at_the_radius_of_others_and_refuses_a_further_task(
    small: dict[str, Any], tmp_path: Path
) -> None:
    sam = COMMON | {"steps": 2, "perturbation": {"name": "sam", "rho": "others"}}
    arms = {"alone": sam, "known": sam | {"first_round": {"steps": 1}}}
    mapping = small | {"arms": arms, "regimes": {"few": 12}, "out": str(tmp_path / "run")}
    run(config.parse(RunConfig, mapping, "run.yaml"))
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert {arm: facts["passes"] for arm, facts in results["arms"].items()} == {"alone": 4, "known": 5}
    assert results["arms"]["alone"]["rho"] is None
    assert results["arms"]["alone"]["extras"] == {"tasks": 2, "rho": "others", "coefficient": 0.4}
    more = mapping | {"tasks": small["tasks"] | {"third": small["tasks"]["size"]}}
    with pytest.raises(UserError, match=r"arms\.alone\.perturbation\.tasks"):
        run(config.parse(RunConfig, more, "run.yaml"))


def _session(mapping: dict[str, Any], tmp_path: Path) -> Any:
    made = config.parse(RunConfig, mapping | {"out": str(tmp_path / "run")}, "run.yaml")
    return Session(resolve(made), ExperimentFolder(tmp_path / "run"))


def test_the_tiny_run_has_a_tiny_first_round(two_rounds: dict[str, Any], tmp_path: Path) -> None:
    made = config.parse(RunConfig, two_rounds | {"out": str(tmp_path / "run")}, "run.yaml")
    assert tiny_run(made).arms["two_rounds"]["first_round"]["steps"] <= 4


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"perturbation": {"name": "task_vectors"}}, "arms.two_rounds.first_round: is missing"),
        ({"first_round": {"steps": 1}}, "arms.two_rounds: first_round: is read by nothing; add start"),
        ({"start": {"method": "average"}}, "start: merges the experts of a first round; write how"),
        (
            {
                "perturbation": {"name": "task_vectors"},
                "first_round": {"steps": 1},
                "start": {"method": "ties"},
            },
            "start: is at the merge of the others' experts already",
        ),
        (
            {"first_round": {"steps": 1}, "start": {"method": "tsvm"}},
            "arms.two_rounds.start: method: unknown merge method 'tsvm'; did you mean 'tsv_m'",
        ),
        (
            {"first_round": {"steps": 1}, "start": {"method": "ties", "parameters": {"densty": 1}}},
            "arms.two_rounds.start: parameters: unknown parameter 'densty'; did you mean 'density'",
        ),
        (
            {
                "first_round": {"steps": 1},
                "start": {"method": "task_arithmetic", "parameters": {"weights": [1, 2, 3]}},
            },
            "arms.two_rounds.start: weights: has 3 numbers, but there are 2 models",
        ),
        (
            {"first_round": {"steps": 1}, "start": {"method": "average", "scaling": 0.5}},
            "arms.two_rounds.start: scaling: average has no scaling coefficient",
        ),
        (
            {"first_round": {"steps": 1}, "start": {"method": "fisher"}},
            "arms.two_rounds.start: method: fisher reads examples",
        ),
        (
            {"first_round": {"steps": 1}, "start": {"method": "emr"}},
            "arms.two_rounds.start: method: emr gives no single model",
        ),
        (
            {"first_round": {"steps": 1, "penalty": {"name": "drft"}}, "start": {"method": "ties"}},
            "first_round: penalty: name: unknown penalty 'drft'",
        ),
        (
            {"perturbation": {"name": "task_vectors"}, "first_round": {"stepps": 1}},
            "first_round.stepps: unknown key; did you mean 'steps'",
        ),
        (
            {
                "perturbation": {"name": "task_vectors"},
                "first_round": {"perturbation": {"name": "task_vectors"}},
            },
            "first_round: is the first, so there is nothing before it",
        ),
    ],
)
def test_what_does_not_fit_is_told(two_rounds: dict[str, Any], arm: dict[str, Any], message: str) -> None:
    arms = {"two_rounds": COMMON | {"steps": 2} | arm}
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, two_rounds | {"out": "x", "arms": arms}, "run.yaml")
    assert message in str(caught.value)


def test_one_task_has_no_others(two_rounds: dict[str, Any]) -> None:
    tasks = {"colour": two_rounds["tasks"]["colour"]}
    with pytest.raises(UserError, match="task_vectors goes by the other tasks, but there is one"):
        config.parse(RunConfig, two_rounds | {"out": "x", "tasks": tasks}, "run.yaml")
    arms = {"sam": {"steps": 2, "perturbation": {"name": "sam", "rho": "others"}}}
    with pytest.raises(UserError, match="rho: others goes by the other tasks, but there is one; add a task"):
        config.parse(RunConfig, two_rounds | {"out": "x", "tasks": tasks, "arms": arms}, "run.yaml")
