"""`saft suggest`: what it suggests is what `saft merge` makes, with the score that it said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from saft import tasks
from saft.cli import main
from saft.config import parse
from saft.errors import Unfinished, UserError
from saft.files.checkpoint import write_manifest
from saft.merge import MergeConfig, merge
from saft.model_config import ModelConfig
from saft.suggest import SuggestConfig, SuggestResult, suggest
from saft.suggest_models import MergedModels
from saft.suggest_result import Tried, in_words
from saft.tasks import Limits, Metric, Score
from tests.moved import moved
from tests.report.test_terminal import printed

METHODS: dict[str, dict[str, Any]] = {"average": {}, "task_arithmetic": {}, "ties": {"density": 0.5}}


@pytest.fixture(scope="module")
def experts(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Return the model moved at random for each of two tasks, and the task in its saft.json."""
    folders = {}
    for seed, name in enumerate(tiny_tasks):
        folder = moved(tiny_model, tmp_path_factory.mktemp("experts") / name, seed)
        write_manifest(folder, {"tasks": {name: tiny_tasks[name]}})
        folders[name] = str(folder)
    return folders


@pytest.fixture
def config(tiny_model: Path, experts: dict[str, str], tmp_path: Path) -> SuggestConfig:
    out = str(tmp_path / "merge.yaml")
    return SuggestConfig(str(tiny_model), experts, methods=METHODS, budget=7, examples=20, out=out)


@pytest.fixture(scope="module")
def suggested(
    tiny_model: Path, experts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SuggestConfig, SuggestResult]:
    folder = tmp_path_factory.mktemp("suggested")
    config = SuggestConfig(
        str(tiny_model),
        experts,
        methods=METHODS,
        budget=7,
        examples=20,
        out=str(folder / "merge.yaml"),
        trials=str(folder / "trials.json"),
    )
    return config, suggest(config)


def test_the_file_is_merged_as_it_stands_and_has_the_score_that_was_said(
    suggested: tuple[SuggestConfig, SuggestResult], experts: dict[str, str], tmp_path: Path
) -> None:
    config, result = suggested
    file = Path(config.out)
    merge(parse(MergeConfig, yaml.safe_load(file.read_text()), str(file)), tmp_path / "merged")
    for name, score in result.best.scores.items():
        declared = tasks.declared_in(Path(experts[name]))[name]
        task = tasks.build(name, declared, "tasks").bind(name, ModelConfig(str(tmp_path / "merged")), "t")
        some = task.examples(Limits(train=0, validation=config.examples, test=0)).validation
        searched_on = some.only(range(0, len(some), 2))
        model = task.model(task.load_trunk(), tmp_path / "merged")
        assert task.score(model, searched_on) == score


@pytest.mark.parametrize("weights", ["per_task", "per_layer"])
def test_weights_are_merged_as_they_were_scored(
    config: SuggestConfig, experts: dict[str, str], tmp_path: Path, weights: str
) -> None:
    only = {"task_arithmetic": METHODS["task_arithmetic"]}
    result = suggest(dataclasses.replace(config, methods=only, weights=weights, budget=12))
    assert len(result.tried) <= 12
    weighted = [one for one in result.tried if "weights" in one.merge.varying or one.merge.parameters]
    assert len(weighted) == 6
    assert all(text in in_words(weighted[0].merge) for text in ("task_arithmetic, weights ", ", "))
    compared = {"task_arithmetic at" in name for name in result.gains}
    assert compared == {result.best in weighted}
    merge(weighted[0].merge, tmp_path / "merged")
    models = MergedModels.of(config)
    for name, score in weighted[0].scores.items():
        task = models.bound[name]
        model = task.model(task.load_trunk(tmp_path / "merged"), Path(experts[name]))
        assert task.score(model, models.examples["search"][name]) == score


def test_what_was_tried_is_told_best_first_and_kept(suggested: tuple[SuggestConfig, SuggestResult]) -> None:
    config, result = suggested
    assert {one.merge.method for one in result.tried} == set(METHODS)
    assert len(result.tried) <= config.budget
    worths = [one.worth for one in result.tried]
    assert worths == sorted(worths, reverse=True)
    assert config.trials is not None
    kept = json.loads(Path(config.trials).read_text())
    assert [one["normalized"] for one in kept["tried"]] == worths
    assert all(len(gain) == 6 for gain in kept["gains"].values())
    text = Path(config.out).read_text()
    assert all(f"# {sentence}\n" in text for sentence in result.sentences)
    assert "it is within the noise of " in result.sentences[1]


@pytest.mark.parametrize("width", [40, 80])
def test_merges_of_many_tasks_stay_whole_in_a_narrow_terminal(width: int) -> None:
    tasks = [f"task_{number}" for number in range(20)]
    scores = dict.fromkeys(tasks, Score(0.123, None, 4))
    tried = [
        Tried(MergeConfig("task_arithmetic", "b", ["x"], scaling=0.1 * n), scores, 0.9, 0.1, 5)
        for n in (1, 2)
    ]
    metrics = dict.fromkeys(tasks, Metric("accuracy", "%"))
    text = printed(SuggestResult(tried, scores, metrics, {}, 4, Path("merge.yaml")).table(), width)
    assert text.count(" 12.3") == 3 * 20
    assert all(f"{task}," in text for task in tasks)
    assert "90.0" in text
    assert "25.7" in text  # 2.571 errors, by Student's t
    assert "suggested: task_arithmetic at 0.1" in text


def test_a_task_whose_expert_scores_nothing_is_left_out_of_the_mean_and_told(
    config: SuggestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No share of 0 can be kept: such a task counted as 0, also for the experts themselves."""
    first, second = config.checkpoints
    real = MergedModels.expert

    def expert(models: MergedModels, task: str, half: Any) -> Score:
        return dataclasses.replace(real(models, task, half), value=0.0 if task in nothing else 0.5)

    monkeypatch.setattr(MergedModels, "expert", expert)
    nothing = [second]
    result = suggest(config)
    told = f"the mean leaves out '{second}': its own checkpoint scores no more than 0, and 0 has no shares"
    assert told in result.sentences
    assert f"# {told}\n" in Path(config.out).read_text()
    assert all(one.worth == pytest.approx(one.scores[first].value / 0.5) for one in result.tried)
    text = printed(result.table(), 200)
    assert "100.0" in next(line for line in text.splitlines() if line.startswith("experts"))
    assert all(len(gain.by_group) for gain in result.gains.values())
    nothing = [first, second]
    with pytest.raises(UserError, match="none scores above 0 on its own task"):
        suggest(config, overwrite=True)


def test_what_was_tried_is_not_lost_where_no_file_can_be_written(
    config: SuggestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, text: str) -> None:
        raise UserError(f"{file}: no room")

    monkeypatch.setattr("saft.files.written_last.write_text", full)
    with pytest.raises(Unfinished) as caught:
        suggest(dataclasses.replace(config, trials="t.json", budget=3))
    assert caught.value.problems == (f"{config.out}: no room", "t.json: no room")
    text = printed(caught.value.finished.table(), 200)
    assert "suggested: " in text
    assert "written: " not in text


def test_the_same_again(suggested: tuple[SuggestConfig, SuggestResult], config: SuggestConfig) -> None:
    again = suggest(config)
    before = suggested[1]
    assert [dataclasses.astuple(one) for one in again.tried] == [
        dataclasses.astuple(one) for one in before.tried
    ]
    assert again.gains == before.gains


def test_an_expert_is_scored_on_its_own_weights(config: SuggestConfig, experts: dict[str, str]) -> None:
    models = MergedModels.of(config)
    for name, folder in experts.items():
        task = models.bound[name]
        own = task.score(
            task.model(task.load_trunk(Path(folder)), Path(folder)), models.examples["search"][name]
        )
        assert models.expert(name, "search") == own
    halves = [sum(map(len, half.values())) for half in models.examples.values()]
    assert halves == [12, 12]


@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
def test_scores_are_in_the_precision_that_is_asked_for(
    precision: Any, config: SuggestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = MergedModels.of(dataclasses.replace(config, precision=precision))
    kind, seen = type(models.bound["colour"]), list[bool]()
    score = kind.score

    def watched(*arguments: Any) -> Score:
        seen.append(torch.is_autocast_enabled("cpu"))
        return score(*arguments)

    monkeypatch.setattr(kind, "score", watched)
    models.expert("colour", "search")
    assert seen == [precision is not None]


def test_identical_checkpoints_are_told(
    config: SuggestConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(config.checkpoints, dict)
    (one, folder), (other, of_other) = config.checkpoints.items()
    copy, untouched = (shutil.copytree(of_other, tmp_path / name) for name in ("copy", "untouched"))
    shutil.copy(Path(folder) / "model.safetensors", copy)
    shutil.copy(Path(config.base) / "model.safetensors", untouched)
    for given, said in (
        (copy, f"'{one}', '{other}' are one and the same model, which counts 2 times"),
        (untouched, f"'{other}' is the base itself: a task vector of zeros"),
    ):
        MergedModels.of(dataclasses.replace(config, checkpoints={one: folder, other: str(given)}))
        assert said in capsys.readouterr().err


def test_a_file_that_is_there_stays(config: SuggestConfig) -> None:
    Path(config.out).write_text("mine")
    with pytest.raises(UserError, match=r"merge.yaml is there already; give another name, or --overwrite"):
        suggest(config)
    assert Path(config.out).read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "./nowhere"}, "base: there is no './nowhere'"),
        ({"methods": {"slerp": {}, "fisher": {}}}, "methods.fisher: reads examples"),
        ({"methods": {"emr": {}}}, "methods.emr: gives a shared part"),
        ({"methods": {"robust_merge": {}}}, "adapter"),
        ({"methods": {"ties": {"choices": {"densty": [0.1, 0.2]}}}}, "densty"),
        ({"methods": {"ties": {"choices": {"density": [0.1, 2]}}}}, "methods.ties (density 2): density: "),
        ({"exclude": ["no.such.*"]}, "exclude: 'no.such.*' matches no tensor"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_evaluated(
    config: SuggestConfig, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MergedModels, "expert", None)
    with pytest.raises(UserError) as refused:
        suggest(dataclasses.replace(config, **changes))
    assert message in str(refused.value)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"choices": {"density": 0.1}}, "methods.ties.choices: must be lists of values, such as {density: "),
        ({"choices": {"density": []}}, "methods.ties.choices: must be lists of values"),
        ({"choices": [0.1]}, "methods.ties.choices: must be lists of values"),
        (
            {"density": 0.1, "choices": {"density": [0.2]}},
            "methods.ties.choices.density: has a value beside it",
        ),
        ({"choices": {"density": [i / 10 for i in range(1, 9)]}}, "budget: is 7, but 8 methods need"),
    ],
)
def test_choices_that_cannot_be_tried_are_refused(
    config: SuggestConfig, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        dataclasses.replace(config, methods={"ties": keys})
    assert message in str(refused.value)


def test_every_choice_of_a_parameter_is_tried_and_what_is_suggested_is_written(config: SuggestConfig) -> None:
    methods: dict[str, dict[str, Any]] = {"average": {}, "ties": {"choices": {"density": [0.1, 0.9]}}}
    result = suggest(dataclasses.replace(config, methods=methods, budget=8))
    tried = {one.merge.parameters.get("density") for one in result.tried}
    assert tried == {None, 0.1, 0.9}
    words = [in_words(one.merge) for one in result.tried]
    assert any(word.startswith("ties (density 0.1) at ") for word in words)
    assert len(set(words)) == len(words) <= 8
    written = yaml.safe_load(Path(config.out).read_text())
    assert written.get("parameters", {}) == result.best.merge.parameters
    assert "choices" not in written


def test_merges_with_given_weights_are_told_apart(config: SuggestConfig) -> None:
    """Their coefficient and their other parameters were left out: one row stood for all of them, the worst's."""
    methods: dict[str, dict[str, Any]] = {
        "task_arithmetic": {"weights": [1.0, 0.5]},
        "ties": {"weights": [0.5, 1.0], "choices": {"density": [0.1, 0.9]}},
    }
    result = suggest(dataclasses.replace(config, methods=methods, budget=8))
    words = [in_words(one.merge) for one in result.tried]
    assert len(set(words)) == len(words) == 8
    text = printed(result.table(), 120)
    assert all(word in text for word in words)


def test_a_checkpoint_without_a_task_is_refused(
    config: SuggestConfig, experts: dict[str, str], tiny_model: Path
) -> None:
    without = dataclasses.replace(config, checkpoints={"size": experts["size"], "other": str(tiny_model)})
    with pytest.raises(UserError, match=r"saft.json says no task; give tasks: {other: {...}}"):
        suggest(without)


def test_a_checkpoint_of_another_shape_is_told_once_by_its_own_key(
    config: SuggestConfig, experts: dict[str, str], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(experts["size"], tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["pooler.dense.bias"] = torch.zeros(5)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as refused:
        suggest(dataclasses.replace(config, checkpoints=experts | {"size": str(other)}))
    (problem,) = refused.value.problems
    assert problem.startswith("checkpoints.size: ")


def test_folders_stand_for_a_config(
    tiny_model: Path, experts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merge.yaml"
    words = [f"--base={tiny_model}", "--budget=2", "--methods={average: {}}", "--examples=8", f"--out={out}"]
    assert main(["suggest", *experts.values(), *words]) == 0
    told = capsys.readouterr()
    assert "suggested: average" in told.out
    assert "at most 2 merged models on up to 4 examples of 2 tasks: about" in told.err
    assert yaml.safe_load(out.read_text())["models"] == experts
    assert main(["suggest", next(iter(experts.values())), *words]) == 2
    assert "checkpoints: a merge needs two or more" in capsys.readouterr().err
    assert main(["suggest", *experts.values(), *words]) == 2
    assert main(["suggest", *experts.values(), *words, "--overwrite"]) == 0
