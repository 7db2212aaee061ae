"""Tasks that are held out: what is scored on them, what that rests on, and what does not move by them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from saft import config, evaluate
from saft.errors import UserError
from saft.evaluate_config import EvaluateConfig
from saft.experiment import RunConfig
from saft.experiment.session import open_session
from saft.experiment.stages import cell_steps
from saft.report import read
from saft.report.cell_result import BaseResult
from saft.report.results import Results
from saft.run import run

pytestmark = pytest.mark.slow  # a whole run each


def loaded(small: dict[str, Any], out: Path, **changes: Any) -> RunConfig:
    return config.parse(RunConfig, small | changes | {"out": str(out)}, "run.yaml")


@pytest.fixture(scope="module")
def general(tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A task of other labels than those that are trained on, in the same table."""
    return tiny_tasks["size"] | {"prompts": ["how {} it is"], "max_length": 8}


@pytest.fixture(scope="module")
def held(small: dict[str, Any], general: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held") / "run"
    run(loaded(small, folder, held_out={"general": general}, keep=["experts", "merges"], measures=[]))
    return folder


def figures(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): re.sub(r'"(seconds|memory)": [0-9.e-]+', "", file.read_text())
        for file in sorted((folder / "figures").rglob("*.json"))
    }


def without_held_out(results: Results) -> Any:
    return [
        {task: expert.validation for task, expert in cell.experts.items()}
        | {
            method: (merge.shared.coefficient, merge.shared.test, merge.per_task)
            for method, merge in cell.merges.items()
        }
        for cell in results.cells
    ]


def test_base_experts_and_merges_are_scored_on_it_as_evaluate_would(
    held: Path, general: dict[str, Any], tmp_path: Path
) -> None:
    """Each has the head that the base made; `saft evaluate` would make another by the model's own weights."""
    results = read(held)
    (cell,) = results.cells
    merge = cell.merges["task_arithmetic"]
    chosen = next(point for point in merge.curve if point.coefficient == merge.shared.coefficient)
    merged = BaseResult(chosen.held_out["general"], merge.shared.held_out["general"])
    experts = {
        held / f"experts/all/adamw/seed0/{task}": e.held_out["general"] for task, e in cell.experts.items()
    }
    models = {held / "base": results.base["general"], **experts}
    models[held / "merges/all/adamw/seed0/colour+size/task_arithmetic"] = merged
    for number, (folder, scores) in enumerate(models.items()):
        copy = shutil.copytree(folder, tmp_path / str(number))
        shutil.copy(held / "base/heads/general.safetensors", copy / "heads")
        for split, examples in (("validation", 6), ("test", 10)):
            asked = evaluate(
                EvaluateConfig([str(copy)], {"general": general}, split=split, examples=examples)
            )  # type: ignore[arg-type]
            assert asked.scores[str(copy)]["general"] == scores.on(split)  # type: ignore[arg-type]


def test_the_curve_has_it_at_every_coefficient_and_the_test_split_at_the_chosen_one(held: Path) -> None:
    results = read(held)
    merge = results.cells[0].merges["task_arithmetic"]
    assert [point.coefficient for point in merge.curve] == [0.3, 0.6]
    assert all(point.held_out["general"].examples == 6 for point in merge.curve)
    assert merge.shared.held_out["general"].examples == 10
    facts = results.protocol.held_out["general"]
    assert (facts.train, facts.validation, facts.test) == ({}, 6, 10)


def test_nothing_else_moves_by_it(held: Path, finished: Path) -> None:
    """The experts, what is chosen, and the scores on the trained tasks are those of a run without it."""
    assert without_held_out(read(held)) == without_held_out(read(finished))


def test_a_finished_run_grows_by_it(
    held: Path, small: dict[str, Any], general: dict[str, Any], tmp_path: Path
) -> None:
    run(loaded(small, tmp_path / "run", measures=[]))
    before = figures(tmp_path / "run")
    run(loaded(small, tmp_path / "run", held_out={"general": general}, measures=[]))
    after = figures(tmp_path / "run")
    new = after.keys() - before.keys()
    assert all(after[name] == text for name, text in before.items())
    assert all("held_out/general" in name or "base/general" in name for name in new)
    assert after == figures(held)
    other = {"general": general | {"max_length": 9}}
    with pytest.raises(UserError, match=r"something else: held_out\.general\.max_length: was 8, now 9"):
        run(loaded(small, tmp_path / "run", held_out=other, measures=[]))


def test_interrupted_at_it_a_run_goes_on(held: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(held, tmp_path / "run"))
    for file in folder.glob("figures/all/**/held_out/*/*.json"):
        file.unlink()
    session = open_session(folder)
    (cell,) = session.resolved.cells
    missing = [step for step in cell_steps(session, cell) if not step.is_done(session.folder)]
    assert len(missing) == 2 * (2 + 1)  # validation and test, of two experts and a merge
    assert all("held_out" in step.name and not step.decides for step in missing)
    assert "held_out" in missing[0].rests_on["config"]
    settings = json.loads(json.dumps(session.resolved.plain())) | {"out": str(folder)}
    run(config.parse(RunConfig, settings, "run.yaml"))
    assert figures(folder) == figures(held)


def test_a_merge_with_searched_weights_is_scored_on_it_as_any(
    small: dict[str, Any], general: dict[str, Any], tmp_path: Path
) -> None:
    selection = {"weights": "per_task", "budget": 3}
    out = tmp_path / "run"
    run(loaded(small, out, held_out={"general": general}, selection=selection, keep=["merges"], measures=[]))
    (cell,) = read(out).cells
    of_weights = cell.merges["task_arithmetic"].weighted
    assert of_weights is not None
    scores = of_weights.held_out["general"]
    (folder,) = out.glob("merges/all/adamw/seed0/*/task_arithmetic-per_task")
    shutil.copy(out / "base/heads/general.safetensors", folder / "heads")
    for split, examples in (("validation", 6), ("test", 10)):
        asked = evaluate(EvaluateConfig([str(folder)], {"general": general}, split=split, examples=examples))  # type: ignore[arg-type]
        assert asked.scores[str(folder)]["general"] == scores.on(split)  # type: ignore[arg-type]


def test_without_the_test_split_it_is_validated_only(
    small: dict[str, Any], general: dict[str, Any], tmp_path: Path
) -> None:
    run(loaded(small, tmp_path / "run", held_out={"general": general}, test=False, measures=[]))
    results = read(tmp_path / "run")
    assert results.base["general"].test is None
    merge = results.cells[0].merges["task_arithmetic"]
    assert merge.shared.held_out == {}
    assert set(merge.curve[0].held_out) == {"general"}


@pytest.mark.parametrize(
    ("named", "keys", "message"),
    [
        ("general", {"head": "linear", "prompts": []}, r"held_out\.general: has a head that is trained"),
        ("colour", {}, r"held_out\.colour: a task that is trained on has this name"),
        ("general", {"kind": "text_clasification"}, r"held_out\.general\.kind: unknown task kind"),
        ("general", {"max_lenth": 3}, r"held_out\.general\.max_lenth: unknown key"),
    ],
)
def test_what_cannot_be_held_out_is_told_first(
    small: dict[str, Any], general: dict[str, Any], tmp_path: Path, named: str, keys: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(loaded(small, tmp_path / "run", held_out={named: general | keys}))
    assert not (tmp_path / "run").exists()
