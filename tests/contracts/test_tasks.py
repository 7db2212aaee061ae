"""What every registered task kind owes: the step of a plain loop, the same dropout twice, every bit resumed."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saft import config, tasks
from saft.dry_run.tiny_data import table_of
from saft.dry_run.tiny_model import write_model
from saft.errors import UserError
from saft.tasks import TASKS, Batch, BoundTask, Limits, TaskModel
from saft.train import TrainConfig, train

NAMES = TASKS.names()
COLOURS = {"red": "red", "blue": "blue", "green": "green"}
ANSWERS = {"words": {"answer": COLOURS}, "max_length": 96}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # the tiny model that it is faced with, and its own keys
    "image_classification": ("vit", {"labels": COLOURS, "flip": True}),
    "language_modeling": ("gpt2", ANSWERS | {"prompt": "{text} is ", "completion": "{answer}"}),
    "text_classification": ("bert", {"labels": COLOURS, "data": {"text": "text", "label": "label"}}),
    "text_regression": ("bert", {"data": {"text": "text", "label": "label"}}),
    "text_to_text": ("t5", ANSWERS | {"input": "{text}", "target": "{answer}", "metric_name": "loss"}),
}
STEPS = 4


@pytest.fixture(scope="module", params=NAMES)
def mapping(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a task of each kind, as the YAML mapping `task:` would hold it."""
    folder = tmp_path_factory.mktemp("data")
    assert request.param in KINDS, f"a new task kind: name a tiny model and its keys in {__file__}"
    _, keys = KINDS[request.param]
    task = {"kind": request.param, "data": {}} | copy.deepcopy(keys)
    files = {split: folder / f"{split}.parquet" for split in ("train", "test")}
    for seed, file in enumerate(files.values()):
        table_of(task, seed, file)
    task["data"] |= {"path": "parquet", "files": {split: str(file) for split, file in files.items()}}
    return task


def settings(mapping: dict[str, Any], folder: Path, dropout: float = 0.0, **training: Any) -> TrainConfig:
    """Return a training, by an optimizer that does not make a step of a gradient that is but round-off."""
    model = write_model(folder / "model", KINDS[mapping["kind"]][0])
    content = json.loads((model / "config.json").read_text())
    rates = {key: dropout for key in content if "dropout" in key or key.endswith("_pdrop")}
    assert rates
    (model / "config.json").write_text(json.dumps(content | rates))
    options = {
        "steps": STEPS,
        "batch_size": 6,
        "learning_rate": 0.1,
        "schedule": "constant",
        "optimizer": {"name": "torch.optim:SGD", "momentum": 0.9},
    }
    plain = {
        "model": {"path": str(model)},
        "task": mapping,
        "out": str(folder / "out"),
        "training": options | training,
        "checkpoint_every": 2,
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
    }
    return config.parse(TrainConfig, plain, "test")


def bound(given: TrainConfig) -> BoundTask:
    return tasks.build("", given.task, "task").bind(given.name, given.model, "task")


def weights(folder: Path) -> dict[str, bytes]:
    """Return the bytes of trunk and heads."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.safetensors")}


def plain_loss(kind: str, outputs: Tensor, labels: Tensor) -> Tensor:
    if kind == "text_regression":
        return (outputs.squeeze(-1) - labels).square().mean()
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


@pytest.mark.slow
def test_the_step_is_that_of_a_loop_written_by_hand(mapping: dict[str, Any], tmp_path: Path) -> None:
    given = settings(mapping, tmp_path)
    options, task = given.training, bound(given)
    examples, model = task.examples(Limits()).train, task.model(task.load_trunk()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    losses = []
    for step, indices in enumerate(examples.training_order(6, STEPS, given.seed)):
        batch = examples.training_batch(indices, step, given.seed)
        optimizer.zero_grad()
        loss = plain_loss(mapping["kind"], model(batch.inputs), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    result = train(given)
    trained = task.model(task.load_trunk(result.folder), head_from=result.folder)
    moved = 0
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)
        moved += not torch.equal(value, before[name])
    assert moved > len(before) / 2
    with (result.folder / "logs" / "metrics.csv").open() as stream:
        told = [float(row["loss"]) for row in csv.DictReader(stream) if row["loss"]]
    assert told == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_both_passes_drop_the_same_units(
    mapping: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a radius of almost nothing, the loss of the second pass is that of the first."""
    given = settings(mapping, tmp_path, 0.3, perturbation={"name": "sam", "rho": 1e-12})
    kind, losses, masked = type(bound(given)), list[float](), list[bool]()
    loss_of = kind.loss

    def recorded(self: BoundTask, model: TaskModel, batch: Batch) -> Tensor:
        with torch.no_grad():
            calm = loss_of(self, model.eval(), batch)
        loss = loss_of(self, model.train(), batch)
        losses.append(loss.item())
        masked.append(not torch.isclose(calm, loss.detach(), rtol=1e-5))
        return loss

    monkeypatch.setattr(kind, "loss", recorded)
    train(given)
    assert len(losses) == 2 * STEPS
    assert losses[::2] == pytest.approx(losses[1::2], rel=1e-6)
    assert all(masked[2:])  # before the first step a linear head is zero


@pytest.mark.slow
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(
    mapping: dict[str, Any],
    tmp_path: Path,
    interrupted_after: Callable[[int], AbstractContextManager[None]],
) -> None:
    given = settings(mapping, tmp_path, 0.3, perturbation={"name": "sam", "rho": 0.05})
    whole = weights(train(given).folder)
    with interrupted_after(3):
        train(given, overwrite=True)
    assert weights(train(given, overwrite=True).folder) == whole
    assert any(name.startswith("model") for name in whole)


def test_the_score_does_not_depend_on_the_batch_size(mapping: dict[str, Any], tmp_path: Path) -> None:
    task = bound(settings(mapping, tmp_path))
    model, examples = task.model(task.load_trunk()), task.examples(Limits()).test
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # a head may be zero yet
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    whole = task.outcomes(model, examples, len(examples))
    assert any(len(row.unique(dim=0)) > 1 for row in whole.rows)
    for batch_size in (1, 5):
        parts = task.outcomes(model, examples, batch_size)
        for one, other in zip(parts.rows, whole.rows, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert task.score(model, examples, batch_size).value == pytest.approx(whole.score().value, rel=1e-4)


@pytest.mark.parametrize("head", ["linear", "zero_shot", "prototype"])
def test_what_is_trained_of_a_head_is_known_before_a_model_is_loaded(
    mapping: dict[str, Any], tmp_path: Path, head: str
) -> None:
    kinds = {"linear": ("text_c", "image"), "zero_shot": ("text_c",), "prototype": ("image",)}[head]
    if mapping["kind"].startswith(kinds):
        mapping = mapping | {"head": head}
    elif head != "linear":
        pytest.skip("no head of this name")
    given = settings(mapping, tmp_path)
    made = bound(given).model(bound(given).load_trunk()).head
    trained = {name: list(p.shape) for name, p in made.named_parameters() if p.requires_grad}
    width = trained["weight"][1] if "weight" in trained else 1
    told = tasks.build("", given.task, "task").trained_head
    assert {
        name: [width if size == 1 and at else size for at, size in enumerate(shape)]
        for name, shape in told.items()
    } == trained


def test_what_a_model_cannot_compute_is_told_in_one_line_before_training(
    mapping: dict[str, Any], tmp_path: Path
) -> None:
    """A Nystromformer whose config asks for other landmarks ended in a traceback."""
    task = bound(settings(mapping, tmp_path))

    def refuse(*_: object) -> None:
        raise RuntimeError("shape '[-1, 2]' is invalid\nfor input of size 32")

    trunk = task.load_trunk()
    for module in trunk.modules():
        module.register_forward_pre_hook(refuse)
    name = type(trunk).__name__
    with pytest.raises(UserError) as told:
        task.model(trunk)
    assert told.value.problems == (
        f"task.kind: {name} cannot compute what this kind of task gives it (take another model, or mend its "
        "config.json): RuntimeError: shape '[-1, 2]' is invalid",
    )
