"""A bound task as measures see it, and the space of real checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from saft import tasks
from saft.interference.task_space import BASE, TaskSpace
from saft.measure_probe import TaskProbe, task_space
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.model_config import ModelConfig
from saft.tasks import BoundTask, Limits
from tests.moved import moved


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("experts")
    return {name: moved(tiny_model, place / name, seed) for seed, name in enumerate(("colour", "size"))}


@pytest.fixture(scope="module")
def bound(tiny_tasks: dict[str, dict[str, Any]], folders: dict[str, Path]) -> dict[str, BoundTask]:
    return {
        name: tasks.build(name, tiny_tasks[name], "tasks").bind(name, ModelConfig(str(folder)), "tasks")
        for name, folder in folders.items()
    }


@pytest.fixture(scope="module")
def space(tiny_model: Path, folders: dict[str, Path], bound: dict[str, BoundTask]) -> TaskSpace:
    config = MergeConfig("task_arithmetic", str(tiny_model), {n: str(f) for n, f in folders.items()})
    limits = Limits(train=0, validation=10, test=0)
    examples = {name: task.examples(limits).validation for name, task in bound.items()}
    return task_space(check(config), bound, examples, folders, batch_size=4, merge=config)


def test_an_expert_is_the_model_in_its_folder(
    space: TaskSpace, folders: dict[str, Path], bound: dict[str, BoundTask]
) -> None:
    for name, task in bound.items():
        model = task.model(task.load_trunk(folders[name]), folders[name]).eval()
        examples = space.probes[name].examples  # type: ignore[attr-defined]
        assert space.score(name, space.expert(name)) == task.score(model, examples).value
        batch = examples.collate(list(range(10)))
        response = space.response(name, space.expert(name))
        assert response.loss == pytest.approx(float(task.loss(model, batch).detach()), rel=1e-5)
        logits = torch.cat([model(part.inputs) for part in examples.batches(4)])
        assert torch.equal(response.predictions, logits.argmax(-1))
        features = torch.cat([model.features(part.inputs) for part in examples.batches(4)])
        assert torch.allclose(response.features, features, atol=1e-6)


def test_a_merge_is_that_of_the_engine(space: TaskSpace, tiny_model: Path, folders: dict[str, Path]) -> None:
    space.scaling = 0.5
    space.move(space.merged(["size"]))
    base, own = (load_file(folder / "model.safetensors") for folder in (tiny_model, folders["size"]))
    for name, value in space.parameters.items():
        assert torch.allclose(value, base[name] + 0.5 * (own[name] - base[name]), atol=1e-6)


def test_layers_are_means_over_the_tokens_that_are_there(space: TaskSpace) -> None:
    layers = space.layers("colour", BASE)
    assert list(layers) == ["encoder.layer.0", "encoder.layer.1"]
    probe = space.probes["colour"]
    features = torch.cat([probe.module.features(batch.inputs) for batch in probe.batches])
    assert torch.allclose(
        layers["encoder.layer.1"], features.detach(), atol=1e-6
    )  # this task pools by the mean


def test_outputs_are_logits_of_as_many_examples_whatever_the_batch_size(
    space: TaskSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    space.move(BASE)
    probe = space.probes["colour"]
    every = torch.cat([probe.module(batch.inputs) for batch in probe.batches])
    assert torch.allclose(probe.outputs(), every, atol=1e-6)
    monkeypatch.setattr("saft.measure_probe.OUTPUTS", 6)
    assert torch.allclose(probe.outputs(), every[:6], atol=1e-6)


def test_layers_of_a_decoder_are_means_over_the_targets_and_not_their_padding(
    tiny_t5: Path, tiny_tasks: dict[str, dict[str, Any]]
) -> None:
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    mapping = {"kind": "text_to_text", "data": data, "input": "{text} :", "target": "{label} {text}"}
    task = tasks.build("colour", mapping, "tasks").bind("colour", ModelConfig(str(tiny_t5)), "tasks")
    examples = task.examples(Limits(train=0, validation=8, test=0)).validation
    model = task.model(task.load_trunk())
    alone, together = (TaskProbe(task, model, examples, size).layers() for size in (1, 8))
    assert [name for name in alone if name.endswith("block.1")] == ["encoder.block.1", "decoder.block.1"]
    for layer, features in alone.items():
        assert torch.allclose(features, together[layer], atol=1e-5), layer
