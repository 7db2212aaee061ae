"""What every registered parametrization owes: what is declared moves, and becomes weights that merge."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saft import config, tasks
from saft.errors import UserError
from saft.merge import MergeConfig, merge
from saft.model_config import ModelConfig
from saft.parametrizations import PARAMETRIZATIONS, parametrization
from saft.tasks import Limits, TaskModel
from saft.train import TrainConfig, TrainResult, train
from saft.training.module import TaskModule

pytestmark = pytest.mark.slow  # trainings

NAMES = PARAMETRIZATIONS.names()
OPTIONS: dict[str, dict[str, Any]] = {
    "only": {"tensors": ["*.layer.1.*"]},
    "lora": {"rank": 4, "alpha": 6, "targets": ["query", "value"], "dropout": 0.1},
    "sparse": {"density": 0.2, "examples": 6},
}
STEPS = 4


def written(name: str) -> dict[str, Any]:
    return {"name": name, **OPTIONS.get(name, {})}


def settings_of(
    model: Path, mapping: dict[str, Any], out: Path, name: str, seed: int = 0, **training: Any
) -> TrainConfig:
    options = {
        "steps": STEPS,
        "learning_rate": 3e-3,
        "parametrization": written(name),
        "perturbation": {"name": "sam", "rho": 0.1},
    }
    plain = {
        "model": {"path": str(model)},
        "task": mapping,
        "name": "colour",
        "out": str(out),
        "training": options | training,
        "train_examples": 24,
        "validation_examples": 12,
        "seed": seed,
        "trainer": {"accelerator": "cpu"},
    }
    return config.parse(TrainConfig, plain, "test")


@pytest.fixture
def mapping(tiny_tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return tiny_tasks["colour"]


def module_of(settings: TrainConfig) -> TaskModule:
    """Return the module of a training, as it is before the first step."""
    task = tasks.build("colour", settings.task, "t").bind("colour", ModelConfig(settings.model.path), "t")
    examples = task.examples(Limits(24, 12, 0, 0)).train
    torch.manual_seed(settings.seed)
    return TaskModule(task.model(task.load_trunk()), task, examples, settings.training, settings.seed)


def logits(model: TaskModel, settings: TrainConfig) -> Tensor:
    task = tasks.build("colour", settings.task, "t").bind("colour", ModelConfig(settings.model.path), "t")
    batch = task.examples(Limits(24, 12, 0, 0)).validation.collate(list(range(12)))
    with torch.no_grad():
        output: Tensor = model.eval()(batch.inputs)
    return output


def reloaded(settings: TrainConfig, folder: Path) -> TaskModel:
    task = tasks.build("colour", settings.task, "t").bind("colour", ModelConfig(settings.model.path), "t")
    return task.model(task.load_trunk(folder), head_from=folder)


def trunk_of(settings: TrainConfig, folder: Path) -> dict[str, Tensor]:
    return reloaded(settings, folder).trunk.state_dict()


def trained(settings: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[TrainResult, TaskModel]:
    """Train; return the model itself too, as it was when it was saved."""
    kept: list[TaskModel] = []
    init = TaskModule.__init__

    def watch(self: TaskModule, model: TaskModel, *rest: Any) -> None:
        kept.append(model)
        init(self, model, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TaskModule, "__init__", watch)
        result = train(settings)
    return result, kept[0]


def test_the_registry_holds_what_is_promised() -> None:
    assert {"full", "attention", "only", "lora", "sparse", "linearized"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_before_the_first_step_the_outputs_are_those_of_the_base(
    name: str, tiny_model: Path, mapping: dict[str, Any], tmp_path: Path
) -> None:
    settings = settings_of(tiny_model, mapping, tmp_path / "out", name)
    module = module_of(settings)
    base = reloaded(settings, tiny_model)
    off = 1e-5 if name == "linearized" else 0  # whose attention is computed otherwise
    torch.testing.assert_close(logits(module.model, settings), logits(base, settings), rtol=off, atol=off)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_gives_the_outputs_of_what_was_trained(
    name: str, tiny_model: Path, mapping: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tiny_model, mapping, tmp_path / "out", name)
    result, model = trained(settings, monkeypatch)
    read = reloaded(settings, result.folder)
    if name == "linearized":  # its weights stand for the tangent at the base
        state = read.trunk.state_dict()
        read = module_of(settings).model
        read.trunk.load_state_dict(state)
    torch.testing.assert_close(logits(read, settings), logits(model, settings), rtol=1e-5, atol=1e-5)
    base = trunk_of(settings, tiny_model)
    moved = {n for n, value in read.trunk.state_dict().items() if not torch.equal(value, base[n])}
    assert moved
    declared = {n for n, p in model.trunk.named_parameters() if p.requires_grad}
    if name in ("full", "attention", "only", "sparse"):
        assert moved <= declared


@pytest.mark.parametrize("name", NAMES)
def test_sam_perturbs_what_is_trained_and_gives_every_bit_back(
    name: str, tiny_model: Path, mapping: dict[str, Any], tmp_path: Path
) -> None:
    settings = settings_of(tiny_model, mapping, tmp_path / "out", name)
    module = module_of(settings)
    module.configure_optimizers()
    assert module.ascent is not None
    before = {n: value.clone() for n, value in module.state_dict().items()}
    fixed = {n for n, p in module.named_parameters() if not p.requires_grad}
    batch = module.examples.collate(list(range(8)))
    with module.ascent.first_pass():
        module.task.loss(module.model, batch).backward()
    with module.ascent.perturbed():
        inside = module.state_dict()
        moved = {n for n in before if not torch.equal(before[n], inside[n])}
        module.task.loss(module.model, batch).backward()
    assert moved
    assert not moved & fixed
    after = module.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_training_ends_with_the_same_bits(
    name: str, tiny_model: Path, mapping: dict[str, Any], tmp_path: Path, interrupted_after: Any
) -> None:
    def of(out: str) -> TrainConfig:
        made = settings_of(tiny_model, mapping, tmp_path / out, name)
        return dataclasses.replace(made, checkpoint_every=2)

    whole = train(of("whole"))
    with interrupted_after(3):
        train(of("broken"))
    broken = train(of("broken"))
    files = [file for file in whole.folder.iterdir() if file.suffix == ".safetensors"]
    assert files
    assert all(file.read_bytes() == (broken.folder / file.name).read_bytes() for file in files)


@pytest.mark.parametrize("name", NAMES)
def test_two_experts_merge_by_their_full_change(
    name: str, tiny_model: Path, mapping: dict[str, Any], tmp_path: Path
) -> None:
    one, other = (settings_of(tiny_model, mapping, tmp_path / f"{seed}", name, seed) for seed in (0, 1))
    folders = {"one": str(train(one).folder), "other": str(train(other).folder)}
    recipe = MergeConfig(method="task_arithmetic", base=str(tiny_model), models=folders, scaling=0.5)
    merge(recipe, tmp_path / "merged")
    found = trunk_of(one, tmp_path / "merged")
    first, second = trunk_of(one, Path(folders["one"])), trunk_of(other, Path(folders["other"]))
    base = trunk_of(one, tiny_model)
    for key, value in found.items():
        if value.is_floating_point():
            expected = base[key] + 0.5 * ((first[key] - base[key]) + (second[key] - base[key]))
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_told_with_their_place(name: str) -> None:
    with pytest.raises(UserError, match=r"arms\.a\.parametrization: colour: unknown key"):
        parametrization(name, "arms.a.parametrization", colour=1, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_trunk_without_what_is_declared_is_refused_or_trained_whole(name: str) -> None:
    trunk = nn.Sequential(nn.LayerNorm(3))
    if name in ("attention", "only", "lora", "sparse"):
        with pytest.raises(UserError, match="parametrization: "):
            parametrization(name, **OPTIONS.get(name, {})).wrap(trunk, lambda count: iter(()))
