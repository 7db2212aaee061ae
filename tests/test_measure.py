from __future__ import annotations

import dataclasses
import errno
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import rich.console
import torch
from safetensors.torch import load_file, save_file

from saft import tasks
from saft.errors import Unfinished, UserError
from saft.files.checkpoint import write_manifest
from saft.interference.culprit import HOW_RIGHT
from saft.measure import MeasureConfig, MeasureResult, measure, weight_interference
from saft.measure_config import MergeToMeasure
from saft.model_config import ModelConfig


@pytest.fixture
def models(tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    """Return two copies of the model, each moved at random."""
    folders = {}
    for seed, name in enumerate(("a", "b")):
        shutil.copytree(tiny_model, tmp_path / name)
        generator = torch.Generator().manual_seed(seed)
        weights = load_file(tiny_model / "model.safetensors")
        moved = {
            key: value + 0.01 * torch.randn(value.shape, generator=generator)
            for key, value in weights.items()
        }
        save_file(moved, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        folders[name] = str(tmp_path / name)
    return folders


def test_the_stream_equals_the_dense_vectors(tiny_model: Path, models: dict[str, str]) -> None:
    base = load_file(tiny_model / "model.safetensors")
    vectors = torch.stack(
        [
            torch.cat(
                [
                    (load_file(Path(folder) / "model.safetensors")[key] - base[key]).flatten()
                    for key in sorted(base)
                ]
            )
            for folder in models.values()
        ]
    ).double()
    result = weight_interference(str(tiny_model), models, density=0.2)
    measured = result.measured
    assert result.tasks == ["a", "b"]
    assert result.n_entries == vectors.shape[1]
    assert list(measured["norm"].values()) == pytest.approx(vectors.norm(dim=1).tolist(), rel=1e-6)
    cosine = torch.nn.functional.cosine_similarity(vectors[0], vectors[1], dim=0).item()
    assert measured["cosine"]["a"]["b"] == pytest.approx(cosine, abs=1e-6)
    both = (vectors != 0).all(0)
    rate = ((vectors[0] * vectors[1] < 0) & both).sum() / both.sum()
    assert measured["sign_conflict"] == pytest.approx(rate.item(), abs=1e-6)
    assert measured["kept"] == pytest.approx({"a": 0.2, "b": 0.2}, abs=1e-3)


def test_a_tensor_without_entries_is_none_of_the_merge(
    tiny_model: Path, models: dict[str, str], tmp_path: Path
) -> None:
    """As the register tokens of a DINOv3 that has none."""
    base = str(shutil.copytree(tiny_model, tmp_path / "base"))
    merge = MergeToMeasure(scaling=0.5)
    expected = measure(MeasureConfig(base, models, ["survival"], merge=merge)).measured
    for folder in (base, *models.values()):
        file = Path(folder) / "model.safetensors"
        save_file(load_file(file) | {"encoder.empty": torch.zeros(1, 0, 4)}, file, metadata={"format": "pt"})
    assert measure(MeasureConfig(base, models, ["survival"], merge=merge)).measured == expected


def write_adapter(folder: Path, base: Path, seed: int) -> str:
    """Write a LoRA adapter of one layer's query, as peft does."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(seed)
    stem = "base_model.model.encoder.layer.0.attention.self.query"
    tensors = {
        f"{stem}.lora_A.weight": torch.randn(2, 32, generator=draw),
        f"{stem}.lora_B.weight": torch.randn(32, 2, generator=draw),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    return str(folder)


def test_adapters_are_measured_by_their_small_matrices(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = {name: write_adapter(tmp_path / name, tiny_model, seed) for seed, name in enumerate("ab")}
    whole = measure(MeasureConfig(str(tiny_model), adapters, ["norm", "cosine", "norm_l1"])).measured

    def forbidden(*_: Any) -> None:
        raise AssertionError("a change was multiplied out")

    monkeypatch.setattr("saft.merging.inputs.factors.Factors.change", forbidden)
    small = measure(MeasureConfig(str(tiny_model), adapters, ["norm", "cosine"])).measured
    assert small["norm"] == pytest.approx(whole["norm"], rel=1e-5)
    assert small["cosine"]["a"]["b"] == pytest.approx(whole["cosine"]["a"]["b"], abs=1e-6)  # type: ignore[index,call-overload]
    with pytest.raises(AssertionError, match="multiplied out"):
        measure(MeasureConfig(str(tiny_model), adapters, ["norm_l1"]))


def test_identical_adapters_and_one_that_changes_nothing_are_told(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = {"a": 0, "b": 1, "c": 0}
    adapters = {name: write_adapter(tmp_path / name, tiny_model, seed) for name, seed in seeds.items()}
    idle = tmp_path / "idle"
    write_adapter(idle, tiny_model, 2)
    factors = load_file(idle / "adapter_model.safetensors")
    idle_factors = {name: x * 0 if "lora_B" in name else x for name, x in factors.items()}
    save_file(idle_factors, idle / "adapter_model.safetensors", metadata={"format": "pt"})
    measure(MeasureConfig(str(tiny_model), {**adapters, "idle": str(idle)}, ["norm"]))
    told = capsys.readouterr().err
    assert "'idle' is the base itself" in told
    assert "'a', 'c' are one and the same checkpoint" in told
    assert "'b'" not in told


def test_excluded_tensors_do_not_count(tiny_model: Path, models: dict[str, str]) -> None:
    whole = weight_interference(str(tiny_model), models, density=1.0)
    part = weight_interference(str(tiny_model), models, density=1.0, exclude=["embeddings.*"])
    embeddings = sum(
        value.numel()
        for name, value in load_file(tiny_model / "model.safetensors").items()
        if name.startswith("embeddings.")
    )
    assert whole.n_entries - part.n_entries == embeddings


def test_the_sharpness_is_measured_on_the_task_that_a_checkpoint_declares(
    tiny_model: Path,
    tiny_tasks: dict[str, dict[str, Any]],
    models: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_manifest(Path(models["a"]), {"tasks": {"size": tiny_tasks["size"]}})
    gone = tiny_tasks["size"] | {"data": tiny_tasks["size"]["data"] | {"files": {"train": "gone.csv"}}}
    write_manifest(Path(models["b"]), {"tasks": {"size": gone}})
    paths = list(models.values())
    own = measure(MeasureConfig(str(tiny_model), paths, examples=8))
    told = capsys.readouterr().err
    assert set(own.measured["sharpness"]) == {"a"}
    assert "only the weights of b are measured: " in told
    assert "there is no file 'gone.csv'" in told
    named = measure(MeasureConfig(str(tiny_model), models, examples=8, tasks={"a": tiny_tasks["size"]}))
    assert named.measured["loss"] == own.measured["loss"]
    with pytest.raises(UserError, match=r"tasks.b.data.files.train: there is no file 'gone.csv'"):
        measure(MeasureConfig(str(tiny_model), models, tasks={"b": gone}))


def test_a_place_written_with_a_tilde_has_the_same_head(
    tiny_model: Path,
    tiny_tasks: dict[str, dict[str, Any]],
    models: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = tasks.build("a", tiny_tasks["size"], "tasks").bind("a", ModelConfig(str(tiny_model)), "t")
    task.save_head(
        task.model(task.load_trunk()), Path(models["a"])
    )  # the base's, not that of the weights of a
    monkeypatch.setenv("HOME", str(tmp_path))
    losses = [
        measure(MeasureConfig(str(tiny_model), {"a": path}, tasks={"a": tiny_tasks["size"]})).measured["loss"]
        for path in (models["a"], "~/a")
    ]
    assert losses[0] == losses[1]


def test_a_checkpoint_given_twice_is_told(
    tiny_model: Path, models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = shutil.copytree(models["a"], tmp_path / "again")
    measured = measure(MeasureConfig(str(tiny_model), {"a": models["a"], "again": str(again)})).measured
    assert (
        "'a', 'again' are one and the same checkpoint, so that their cosine is 1" in capsys.readouterr().err
    )
    assert measured["cosine"]["a"]["again"] == pytest.approx(1.0)  # type: ignore[index,call-overload]


OWN_MEASURE = """
from dataclasses import dataclass

from saft.config import Positive, checked
from saft.interference.functions import FunctionMeasure
from saft.interference.quantity import Passes, Quantity


@checked
@dataclass(frozen=True)
class HalfWay(FunctionMeasure):
    share: Positive = 0.5

    quantities = {"half_way": Quantity("loss half way to the model", "nats", per="task", definition="L(θ/2)")}

    def cost(self, tasks):
        return Passes(forward=tasks)

    def values(self, space):
        from saft.interference.task_space import Point

        points = {task: Point.of({task: self.share}) for task in space.tasks}
        return {"half_way": {task: space.response(task, point).loss for task, point in points.items()}}
"""


def test_a_measure_of_functions_of_your_own_is_one_file(
    tiny_model: Path,
    tiny_tasks: dict[str, dict[str, Any]],
    models: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own_measure.py").write_text(OWN_MEASURE)
    monkeypatch.syspath_prepend(tmp_path)
    named = {"a": tiny_tasks["size"], "b": tiny_tasks["colour"]}
    entries: list[Any] = ["loss_line", {"name": "own_measure:HalfWay", "share": 1.0}]
    result = measure(MeasureConfig(str(tiny_model), models, entries, tasks=named, examples=8))
    lines = result.measured["loss_line"]
    assert result.measured["half_way"] == pytest.approx({task: line["1"] for task, line in lines.items()})
    console = rich.console.Console(width=80, file=io.StringIO())
    console.print(result.table())
    assert "half way, nats" in console.file.getvalue()
    assert "half way: loss half way to the model" in console.file.getvalue()
    entries[1]["share"] = -1
    with pytest.raises(UserError, match=r"measures: own_measure:HalfWay.share: must be above 0, but is -1"):
        measure(MeasureConfig(str(tiny_model), models, entries, tasks=named))


def test_all_measures_are_figures_in_one_file_and_a_verdict(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], models: dict[str, str], tmp_path: Path
) -> None:
    named = {"a": tiny_tasks["size"], "b": tiny_tasks["colour"]}
    config = MeasureConfig(
        str(tiny_model), models, ["all"], tasks=named, examples=4, grid=3, out=str(tmp_path / "m.json")
    )
    result = measure(config)
    assert {"harm", "pair_loss", "disentanglement_error", "hessian_eigenvalue"} <= set(result.measured)
    assert set(result.measured) == set(result.quantities)
    by_name = {figure.name: figure for figure in result.figures}
    error = by_name["disentanglement_error"]
    assert [len(axis.ticks) for axis in error.axes] == [1, 1, 3, 3]
    assert [axis.is_numeric for axis in error.axes] == [False, False, True, True]
    written = json.loads((tmp_path / "m.json").read_text())
    assert written["measured"] == result.measured
    assert written["quantities"]["harm"]["axes"] == ["without", "task"]
    assert written["verdict"] == result.verdict
    assert len(result.verdict) >= 3
    assert result.verdict[-1] == HOW_RIGHT
    some = dataclasses.replace(config, out=None, measures=["others_shift", "hessian_trace"])
    assert measure(some).measured.items() <= result.measured.items()


def test_a_merge_that_measures_cannot_make_is_refused(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], models: dict[str, str]
) -> None:
    named = {"a": tiny_tasks["size"], "b": tiny_tasks["colour"]}

    def config(method: str) -> MeasureConfig:
        return MeasureConfig(str(tiny_model), models, tasks=named, merge=MergeToMeasure(method))

    with pytest.raises(UserError, match=r"merge\.method: 'fisher' reads examples; measures take a method"):
        measure(config("fisher"))
    with pytest.raises(UserError, match=r"merge\.method: 'emr' gives a shared part, and one part per task"):
        measure(config("emr"))
    with pytest.raises(UserError, match="did you mean 'ties'"):
        measure(config("teis"))


def test_a_measure_merges_some_of_the_models_with_their_own_weights(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], models: dict[str, str]
) -> None:
    config = MeasureConfig(
        str(tiny_model),
        models,
        measures=["leave_one_out"],
        tasks={"a": tiny_tasks["size"], "b": tiny_tasks["colour"]},
        merge=MergeToMeasure("task_arithmetic", {"weights": [1.0, 0.0001]}, scaling=1.0),
    )
    measured = measure(config).measured
    assert measured["harm"]["b"] == {"a": 0.0}  # without b, of which next to nothing was there
    with pytest.raises(
        UserError,
        match=r"measures: leave_one_out merges the model of 'a' by slerp: this method merges 2, but",
    ):
        measure(dataclasses.replace(config, merge=MergeToMeasure("slerp")))


def test_the_merges_parameters_are_those_of_all_models_also_where_one_has_no_task(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], models: dict[str, str], tmp_path: Path
) -> None:
    three = {"idle": str(shutil.copytree(models["b"], tmp_path / "idle")), **models}
    named = {"a": tiny_tasks["size"], "b": tiny_tasks["colour"]}

    def config(weights: list[float]) -> MeasureConfig:
        merge = MergeToMeasure("task_arithmetic", {"weights": weights}, scaling=1.0)
        return MeasureConfig(str(tiny_model), three, ["leave_one_out", "survival"], tasks=named, merge=merge)

    measured = measure(config([0.5, 1.0, 0.0001])).measured
    assert measured["harm"]["b"] == {"a": 0.0}  # type: ignore[index,call-overload]
    assert measured["survival"]["a"] > 0.9  # type: ignore[index,call-overload]
    with pytest.raises(UserError, match="weights: has 2 numbers, but there are 3 models"):
        measure(config([0.5, 1.0]))


def test_a_merge_that_draws_follows_the_seed(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], models: dict[str, str]
) -> None:
    named = {"a": tiny_tasks["size"], "b": tiny_tasks["colour"]}
    merge = MergeToMeasure("dare", scaling=1.0)
    config = MeasureConfig(
        str(tiny_model), models, ["representation_bias", "survival"], tasks=named, merge=merge, examples=8
    )
    first, again, other = (measure(dataclasses.replace(config, seed=seed)).measured for seed in (0, 0, 1))
    assert first == again
    for name in ("representation_bias", "survival"):
        assert first[name] != other[name]


def test_without_a_task_only_weights_can_be_measured(tiny_model: Path, models: dict[str, str]) -> None:
    result = measure(MeasureConfig(str(tiny_model), models))
    assert {"norm", "cosine", "sign_conflict"} <= set(result.measured)
    assert "Weights do not tell who suffers" in result.verdict[0]
    with pytest.raises(UserError, match="there is nothing to measure: no checkpoint has a task"):
        measure(MeasureConfig(str(tiny_model), models, ["transfer"]))


def test_why_there_is_nothing_to_measure_is_told(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], models: dict[str, str]
) -> None:
    named = dict(zip(models, tiny_tasks.values(), strict=False))
    first = next(iter(models))
    with pytest.raises(UserError, match=f"measures of several models, and only {first} has a task"):
        measure(MeasureConfig(str(tiny_model), models, ["recovered"], tasks={first: named[first]}))
    with pytest.raises(UserError, match=r"seconds: 1e-09 leaves no room for any of them"):
        measure(MeasureConfig(str(tiny_model), models, ["transfer"], tasks=named, seconds=1e-9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": []}, "measures: must not be empty"),
        ({"grid": 2}, "grid: must be at least 3, but is 2"),
        ({"seconds": 0}, "seconds: must be above 0"),
        ({"seed": -1}, "seed: must be"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"density": 0}, "density: must be in (0, 1], but is 0"),
        ({"density": 7}, "density: must be in (0, 1], but is 7"),
        ({"rho": -1}, "rho: must be at least 0"),
        ({"examples": 0}, "examples: must be at least 1"),
        ({"device": "gpu"}, "device: 'gpu' is not a device of torch; write cpu"),
        ({"checkpoints": []}, "checkpoints: must not be empty"),
        ({"checkpoints": {"../a": "a"}}, "checkpoints: '../a' cannot be a name"),
        ({"device": "meta"}, "device: 'meta' is not a device of torch"),
        ({"out": ""}, "out: is empty; write a path"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        MeasureConfig(**{"base": "b", "checkpoints": ["a"]} | changes)
    assert message in str(caught.value)


def test_a_smaller_last_batch_counts_as_its_examples(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], models: dict[str, str]
) -> None:
    def measured(batch_size: int) -> dict[str, Any]:
        wanted: list[Any] = ["sharpness", "hessian_trace", "loss_line"]
        named = {"a": tiny_tasks["size"]}
        config = MeasureConfig(
            str(tiny_model), {"a": models["a"]}, wanted, tasks=named, examples=7, batch_size=batch_size
        )
        return measure(config).measured

    whole, cut = measured(7), measured(5)
    for name in ("loss", "sharpness", "hessian_trace"):
        assert cut[name]["a"] == pytest.approx(whole[name]["a"], rel=1e-3), name
    assert cut["loss"]["a"] == pytest.approx(cut["loss_line"]["a"]["1"], rel=1e-5)


def test_measures_that_one_checkpoint_has_not_are_told(tiny_model: Path, models: dict[str, str]) -> None:
    with pytest.raises(UserError, match="measures of several models; give more `checkpoints`"):
        measure(MeasureConfig(str(tiny_model), {"a": models["a"]}, ["survival"]))
    fixed = MergeToMeasure("average", scaling=2.0)  # saft merge refuses it, and here it was measured
    with pytest.raises(UserError, match="'average' has no scaling coefficient, but scaling is 2"):
        measure(MeasureConfig(str(tiny_model), models, ["survival"], merge=fixed))
    with pytest.raises(UserError, match="matrices of linear layers, and no such matrix is merged"):
        measure(MeasureConfig(str(tiny_model), models, ["subspaces"], exclude=["*.weight"]))


def test_what_was_measured_is_not_lost_at_the_end(
    tiny_model: Path, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables were not printed where the file of --out could not be written."""

    def full(file: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("saft.files.written_last.write_text", full)
    config = MeasureConfig(str(tiny_model), models, ["norm"], out=str(tmp_path / "m.json"))
    with pytest.raises(Unfinished, match="could not be written: No space left") as caught:
        measure(config)
    finished = caught.value.finished
    assert isinstance(finished, MeasureResult)
    assert finished.measured == measure(dataclasses.replace(config, out=None)).measured
