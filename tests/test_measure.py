from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saft import tasks
from saft.errors import UserError
from saft.files.checkpoint import write_manifest
from saft.measure import MeasureConfig, measure, weight_interference
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
    assert "no sharpness of b: " in told
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
    tiny_model: Path, models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    again = str(Path(models["a"], "..", Path(models["a"]).name))
    measured = measure(MeasureConfig(str(tiny_model), {"a": models["a"], "again": again})).measured
    assert (
        "'a', 'again' are one and the same checkpoint, so that their cosine is 1" in capsys.readouterr().err
    )
    assert measured["cosine"]["a"]["again"] == pytest.approx(1.0)  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"density": 0}, "density: must be in (0, 1], but is 0"),
        ({"density": 7}, "density: must be in (0, 1], but is 7"),
        ({"rho": -1}, "rho: must be at least 0"),
        ({"examples": 0}, "examples: must be at least 1"),
        ({"device": "gpu"}, "device: 'gpu' is not a device of this machine"),
        ({"checkpoints": []}, "checkpoints: must not be empty"),
        ({"checkpoints": {"../a": "a"}}, "checkpoints: '../a' cannot be a name"),
        ({"device": "meta"}, "device: 'meta' is not a device of this machine"),
        ({"out": ""}, "out: is empty; write a path"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        MeasureConfig(**{"base": "b", "checkpoints": ["a"]} | changes)
    assert message in str(caught.value)
