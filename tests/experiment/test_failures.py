"""An arm that cannot be computed: told in a line, named in a report of the others, and mended by its config."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from saft import config
from saft.cli import main
from saft.errors import Unfinished, UserError
from saft.experiment import RunConfig
from saft.experiment.claims import ClaimFolder
from saft.experiment.folder import ExperimentFolder
from saft.experiment.stages import train_expert
from saft.experiment.status import status
from saft.report.results import from_json
from saft.run import run
from saft.training.callbacks import Diverged

pytestmark = pytest.mark.slow  # a run each

WILD = "all, wild, seed 0: train on size: training diverged: the loss is nan; lower learning_rate or rho"


@pytest.fixture(autouse=True)
def _no_notes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saft.progress._noted", set())


def arms(small: dict[str, Any], **wild: Any) -> dict[str, Any]:
    adamw = small["arms"]["adamw"]
    return {"wild": adamw | {"learning_rate": 1.0} | wild, "adamw": adamw, "short": adamw | {"steps": 1}}


@pytest.fixture
def one_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the learning rate is 1, the training on the second task diverges."""
    trained = train_expert.trained_expert

    def diverges(session: Any, cell: Any, task: str, bar: Any) -> Any:
        if session.resolved.arms[cell.arm].last.learning_rate == 1.0 and task == "size":
            raise Diverged("training diverged: the loss is nan; lower learning_rate or rho")
        return trained(session, cell, task, bar)

    monkeypatch.setattr(train_expert, "trained_expert", diverges)


@pytest.mark.usefixtures("one_diverges")
def test_the_others_are_reported_and_a_changed_config_goes_on(
    small: dict[str, Any], finished: Path, tmp_path: Path, capsys: Any
) -> None:
    folder, file = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(small | {"out": str(folder), "arms": arms(small)}, sort_keys=False))
    assert main(["run", str(file)]) == 2
    out, err = capsys.readouterr()
    _, after = err.split("all/wild/seed0 has failed, and the others go on: train on size: training diverged")
    assert after.splitlines()[-1].startswith("saft: all/wild/seed0: train on size: training diverged")
    assert f"report: {folder / 'report.html'}" in out
    assert f"Not complete: {WILD}" in " ".join(out.split())
    results = from_json((folder / "results.json").read_text())
    assert [cell.arm for cell in results.cells] == ["adamw", "short"]
    assert list(map(str, results.failed)) == [WILD]
    assert (folder / "report.html").read_text().count(f"Not complete: {WILD}.") == 1
    assert "no result for seed" not in (folder / "report.html").read_text()
    assert (folder / "tables/scores.csv").is_file()
    assert (folder / "tables/scores.tex").is_file()
    assert status(folder).failed == {"all/wild/seed0": WILD.split(": ", 1)[1]}

    kept = (folder / "figures/all/adamw/seed0/experts/size/training.json").read_text()
    changed = small | {"out": str(folder), "arms": arms(small, learning_rate=1e-3)}
    file.write_text(yaml.safe_dump(changed, sort_keys=False))
    assert main(["run", str(file), "--check"]) == 0
    assert "experts: 2 to train" in capsys.readouterr().out
    assert main(["run", str(file)]) == 0
    assert "all/wild/seed0 is computed anew: its arm has changed" in capsys.readouterr().err
    results = from_json((folder / "results.json").read_text())
    assert ([cell.arm for cell in results.cells], results.failed) == (["wild", "adamw", "short"], [])
    assert (folder / "figures/all/adamw/seed0/experts/size/training.json").read_text() == kept
    assert not status(folder).failed
    assert not (folder / "claims").exists()


def test_an_arm_that_has_not_failed_is_refused_when_it_changes(
    small: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    changed = small | {"out": str(folder), "arms": {"adamw": small["arms"]["adamw"] | {"steps": 3}}}
    with pytest.raises(UserError, match=r"holds figures that rest on something else: arms.adamw.steps"):
        run(config.parse(RunConfig, changed, "run.yaml"))
    ClaimFolder(folder).fail("all/adamw/seed0", ["merge by task_arithmetic: is not finite"])
    with pytest.raises(UserError, match=r"rest on something else: .*density: was 0.2, now 0.5"):
        run(config.parse(RunConfig, changed | {"density": 0.5}, "run.yaml"))
    assert ExperimentFolder(folder).figures("all/adamw/seed0/experts/size/training").is_file()


def test_a_first_round_that_diverges_is_named_and_keeps_no_other_from_its_report(
    small: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    wild = arms(small, first_round={"learning_rate": 1e30}, start={"method": "average"}, learning_rate=1e-3)
    with pytest.raises(Unfinished) as caught:
        run(config.parse(RunConfig, small | {"out": str(folder), "arms": wild}, "run.yaml"))
    (problem,) = caught.value.problems
    assert problem.startswith("all/wild/seed0: train on colour, first round: training diverged: the loss is")
    results = from_json((folder / "results.json").read_text())
    assert [cell.arm for cell in results.cells] == ["adamw", "short"]


def test_too_little_memory_for_an_arm_keeps_no_other_from_its_report(
    small: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trained = Path(shutil.copytree(finished, tmp_path / "run")), train_expert.trained_expert

    def full(session: Any, cell: Any, *rest: Any) -> Any:
        if cell.arm == "wild":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return trained(session, cell, *rest)

    monkeypatch.setattr(train_expert, "trained_expert", full)
    with pytest.raises(
        Unfinished, match=r"all/wild/seed0: there is not enough memory on .*; take fewer workers"
    ):
        run(config.parse(RunConfig, small | {"out": str(folder), "arms": arms(small)}, "run.yaml"))
    assert (folder / "report.html").is_file()


def test_a_fault_is_not_hidden(
    small: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "results.json").unlink()

    def fault(*_: Any) -> None:
        raise RuntimeError("of saft's")

    monkeypatch.setattr(train_expert, "trained_expert", fault)
    with pytest.raises(RuntimeError, match="of saft's"):
        run(config.parse(RunConfig, small | {"out": str(folder), "arms": arms(small)}, "run.yaml"))
    assert not (folder / "results.json").exists()
