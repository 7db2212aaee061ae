"""`saft train` with other tasks' experts: their task vectors, what is written down, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saft import config, tasks
from saft.errors import UserError
from saft.files.fingerprints import fingerprint
from saft.model_config import ModelConfig
from saft.train import TrainConfig, train
from saft.training.other_experts import sum_of_task_vectors

TRAINING = {"steps": 4, "learning_rate": 1e-2, "batch_size": 4}


@pytest.fixture(scope="module")
def others(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    folder = tmp_path_factory.mktemp("others")
    for seed in (0, 1):
        mapping = {"model": {"path": str(tiny_model)}, "task": tiny_tasks["size"], "seed": seed}
        mapping |= {"out": str(folder / str(seed)), "training": TRAINING, "train_examples": 12}
        train(config.parse(TrainConfig, mapping, "test"))
    return [str(folder / "0"), str(folder / "1")]


@pytest.fixture
def settings(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], others: list[str], tmp_path: Path
) -> dict[str, Any]:
    return {
        "model": {"path": str(tiny_model)},
        "task": tiny_tasks["colour"],
        "out": str(tmp_path / "out"),
        "training": TRAINING | {"perturbation": {"name": "task_vectors", "rho": 0.5}},
        "others": others,
        "train_examples": 12,
    }


def test_the_sum_is_that_of_the_files(
    tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], others: list[str]
) -> None:
    where = ModelConfig(str(tiny_model))
    task = tasks.build("", tiny_tasks["colour"], "task").bind("colour", where, "task", torch.device("cpu"))
    trunk = task.load_trunk()
    total = sum_of_task_vectors(task, trunk, others)
    base, first, second = (load_file(Path(f) / "model.safetensors") for f in (tiny_model, *others))
    assert total.keys() == dict(trunk.named_parameters()).keys()
    moved = 0
    for name, vector in total.items():
        expected = first[name].double() + second[name] - 2 * base[name].double()
        torch.testing.assert_close(vector.double(), expected, rtol=1e-5, atol=1e-7)
        moved += bool(vector.any())
    assert moved > 5


def test_a_training_is_shifted_resumable_and_says_by_what(
    settings: dict[str, Any],
    others: list[str],
    interrupted_after: Callable[[int], AbstractContextManager[None]],
) -> None:
    shifted = train(config.parse(TrainConfig, settings, "test"))
    plain = settings | {"out": settings["out"] + "-plain", "others": [], "training": TRAINING}
    assert not torch.equal(
        _weight(shifted.folder), _weight(train(config.parse(TrainConfig, plain, "test")).folder)
    )
    again = config.parse(
        TrainConfig, settings | {"out": settings["out"] + "-2", "checkpoint_every": 1}, "test"
    )
    with interrupted_after(2):
        train(again)
    assert torch.equal(_weight(shifted.folder), _weight(train(again).folder))
    manifest = json.loads((shifted.folder / "saft.json").read_text())
    assert manifest["config"]["others"] == others
    assert manifest["others"]["sha256"][f"{others[0]}/model.safetensors"] == fingerprint(
        Path(others[0]) / "model.safetensors"
    )


def test_a_radius_of_others_is_that_of_their_files(settings: dict[str, Any], others: list[str]) -> None:
    """As many steps at that number end at the same weights, but for the rounding of the norm."""
    ascent = {"name": "sam", "rho": "others", "coefficient": 0.7}
    made = config.parse(
        TrainConfig, settings | {"training": TRAINING | {"perturbation": ascent}, "others": others}, "test"
    )
    task = tasks.build("", made.task, "task").bind("colour", made.model, "task", torch.device("cpu"))
    total = sum_of_task_vectors(task, task.load_trunk(), others)
    moved = [vector for name, vector in total.items() if "pooler" not in name]  # which no gradient reaches
    rho = 0.7 * torch.cat([vector.flatten() for vector in moved]).norm().item()
    number = settings | {"training": TRAINING | {"perturbation": {"name": "sam", "rho": rho}}, "others": []}
    number["out"] += "-number"
    of_number = _weight(train(config.parse(TrainConfig, number, "test")).folder)
    torch.testing.assert_close(_weight(train(made).folder), of_number, rtol=0, atol=2e-4)
    estimated = settings | {"training": TRAINING | {"perturbation": ascent | {"tasks": 3}}, "others": []}
    estimated["out"] += "-estimated"
    of_estimate = _weight(train(config.parse(TrainConfig, estimated, "test")).folder)
    assert (of_estimate - of_number).abs().max() > 1e-3


def _weight(folder: Path) -> torch.Tensor:
    return torch.cat(
        [value.flatten().float() for _, value in sorted(load_file(folder / "model.safetensors").items())]
    )


def test_an_expert_of_another_model_is_told(
    settings: dict[str, Any], others: list[str], tmp_path: Path
) -> None:
    shutil.copytree(others[0], tmp_path / "wide")
    file = tmp_path / "wide" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 1}))
    tensors = load_file(tmp_path / "wide" / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layer.1." not in name}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / "wide" / "model.safetensors", {"format": "pt"})
    made = config.parse(TrainConfig, settings | {"others": [str(tmp_path / "wide")]}, "test")
    with pytest.raises(UserError, match=r"others: .*wide: is not an expert of this model: .*layer\.1\."):
        train(made)
    assert not Path(settings["out"]).exists()
    missing = dataclasses.replace(made, others=[str(tmp_path / "none")])
    with pytest.raises(UserError, match="others: there is no"):
        train(missing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"others": []}, "others: is missing: training.perturbation is task_vectors"),
        (
            {"others": [], "training": TRAINING | {"perturbation": {"name": "sam", "rho": "others"}}},
            "training.perturbation is rho: others; list the checkpoints of other tasks that this one is to be "
            "merged with, or say how many tasks there will be: tasks: 8",
        ),
        (
            {"training": TRAINING | {"perturbation": {"name": "sam", "rho": "others", "tasks": 3}}},
            "others: is only read by training.perturbation: {name: task_vectors}, and by rho: others without",
        ),
        (
            {
                "training": TRAINING
                | {"perturbation": {"name": "sam", "rho": "others"}, "parametrization": {"name": "lora"}}
            },
            "training: perturbation: rho: others goes by the trunk's own weights, which parametrization: lora",
        ),
        ({"training": TRAINING}, "others: is only read by training.perturbation"),
        (
            {"training": TRAINING | {"first_round": {"steps": 2}}},
            "training: first_round: is read by nothing",
        ),
        (
            {"training": TRAINING | {"perturbation": {"name": "task_vectors"}, "first_round": {"steps": 2}}},
            "training.first_round: is for an arm of `saft run`",
        ),
        (
            {
                "training": TRAINING
                | {"perturbation": {"name": "task_vectors"}, "parametrization": {"name": "lora"}}
            },
            "training: perturbation: task_vectors shifts the trunk's own weights",
        ),
        (
            {"training": TRAINING | {"perturbation": {"name": "task_vectors", "vectors": "x"}}},
            "vectors: must be a mapping",
        ),
    ],
)
def test_what_does_not_fit_is_told(settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(TrainConfig, settings | changes, "train.yaml")
    assert message in str(caught.value)
