"""An arm whose experts are given: the same figures as of the run that trained them, and all that is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.experiment import RunConfig
from saft.report import read
from saft.run import run

pytestmark = pytest.mark.slow  # a whole run each

MERGES = {"task_arithmetic": {"scaling": [0.3, 0.6]}}


def loaded(small: dict[str, Any], out: Path, experts: Any, **changes: Any) -> RunConfig:
    arms = {"published": {"description": "theirs", "experts": experts}}
    return config.parse(RunConfig, small | {"arms": arms} | changes | {"out": str(out)}, "run.yaml")


@pytest.fixture(scope="module")
def published(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The experts of a run as others publish theirs: without heads, and without anything of saft's."""
    folder = tmp_path_factory.mktemp("published")
    for task in ("colour", "size"):
        shutil.copytree(finished / "experts/all/adamw/seed0" / task, folder / task)
        shutil.rmtree(folder / task / "heads")
        (folder / task / "saft.json").unlink()
    return {task: str(folder / task) for task in ("colour", "size")}


def test_its_figures_are_those_of_the_run_that_trained_them(
    finished: Path, small: dict[str, Any], published: dict[str, str], tmp_path: Path
) -> None:
    settings = loaded(small, tmp_path / "run", published, seeds=[3, 4], keep=[])
    result = run(settings)
    (cell,), (trained,) = result.results.cells, read(finished).cells
    assert (cell.arm, cell.seed) == ("published", 3)
    assert cell.merges == trained.merges
    assert cell.measured == trained.measured
    for task, expert in cell.experts.items():
        assert expert.validation == trained.experts[task].validation
        assert expert.test == trained.experts[task].test
        assert (expert.steps, expert.passes, expert.seconds) == (None, None, None)
        assert Path(published[task], "model.safetensors").is_file()  # whatever `keep` says
    assert list(result.folder.glob("merges/*/*/*/*/*/model.safetensors"))
    assert "No result" not in (result.folder / "report.html").read_text()
    assert "no result for seed" not in (result.folder / "report.html").read_text()
    costs = (result.folder / "tables/costs.csv").read_text().splitlines()
    assert costs[1] == "all,published,,,,,"
    before = {file: file.stat().st_mtime_ns for file in result.folder.glob("figures/**/*.json")}
    run(settings)
    assert before == {file: file.stat().st_mtime_ns for file in result.folder.glob("figures/**/*.json")}


def test_adapters_are_experts_too_and_other_weights_are_noticed(
    small: dict[str, Any], tmp_path: Path
) -> None:
    lora = {"steps": 2, "batch_size": 4, "parametrization": {"name": "lora", "rank": 2}}
    rest = {"merges": MERGES, "measures": [], "test": False}
    run(
        config.parse(
            RunConfig, small | rest | {"arms": {"lora": lora}, "out": str(tmp_path / "a")}, "run.yaml"
        )
    )
    given = {task: str(tmp_path / f"a/experts/all/lora/seed0/{task}") for task in ("colour", "size")}
    run(loaded(small, tmp_path / "b", given, **rest))
    assert read(tmp_path / "b").cells[0].merges == read(tmp_path / "a").cells[0].merges
    swapped = {"colour": given["size"], "size": given["colour"]}
    with pytest.raises(UserError, match=r"arms\.published\.experts\.colour: the content of its weights has"):
        run(loaded(small, tmp_path / "b", swapped, **rest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": None}, r"experts: lacks an expert of colour; give its folder or hub id"),
        ({"colours": "x"}, r"experts\.colours: there is no task 'colours'; did you mean 'colour'"),
        ({"size": "./no/such"}, r"arms\.published\.experts\.size: there is no './no/such'"),
        ({"size": "org/not-on-this-machine"}, r"arms\.published\.experts\.size: "),
    ],
)
def test_experts_that_are_not_there_are_told_first(
    small: dict[str, Any], published: dict[str, str], tmp_path: Path, changes: Any, message: str
) -> None:
    experts = {task: where for task, where in (published | changes).items() if where is not None}
    with pytest.raises(UserError, match=message):
        run(loaded(small, tmp_path / "run", experts))
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_told_first(
    small: dict[str, Any], published: dict[str, str], tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"arms\.published\.experts\.size: "):
        run(loaded(small, tmp_path / "run", published | {"size": str(tiny_llama)}))
    linear = {"head": "linear", "prompts": []}
    tasks = {name: keys | linear for name, keys in small["tasks"].items()}
    with pytest.raises(UserError, match=r"experts\.colour: .* has no heads/colour\.safetensors"):
        run(loaded(small, tmp_path / "run", published, tasks=tasks))
    arms = {"published": {"experts": published, "steps": 3, "choices": {"steps": [1]}}}
    with pytest.raises(UserError, match=r"arms\.published\.steps: experts that are given are not trained"):
        run(loaded(small, tmp_path / "run", published, arms=arms))
    assert not (tmp_path / "run").exists()


def test_a_head_for_other_labels_is_told_first(finished: Path, small: dict[str, Any], tmp_path: Path) -> None:
    own = {task: str(finished / "experts/all/adamw/seed0" / task) for task in ("colour", "size")}
    tasks = {
        name: keys | {"labels": dict(reversed(keys["labels"].items()))}
        for name, keys in small["tasks"].items()
    }
    with pytest.raises(
        UserError, match=r"arms\.published\.experts\.colour: .*its logits are, in order, red"
    ) as told:
        run(loaded(small, tmp_path / "run", own, tasks=tasks))
    assert "arms.published.experts.size: " in str(told.value)
    assert not (tmp_path / "run").exists()
