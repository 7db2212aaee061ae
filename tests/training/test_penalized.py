"""Trainings with a penalty or an average: against loops written by hand, resumed, and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from saft import config, tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.optim import Ascent
from saft.penalties import Setting, Unlabelled, penalty
from saft.tasks import Limits, TaskModel
from saft.train import TrainConfig, TrainResult, train
from saft.training.options import TrainingOptions

pytestmark = pytest.mark.slow  # trainings

STEPS = 6
DRIFT = {"name": "drift", "strength": 5.0, "every": 2, "examples": 6}


SETTINGS = {
    "training": {"steps": STEPS, "learning_rate": 1e-3, "penalty": DRIFT},
    "validation_examples": 8,
}


def changed(settings: TrainConfig, out: str, **training: Any) -> TrainConfig:
    options = dataclasses.replace(settings.training, **training)
    return dataclasses.replace(settings, out=str(Path(settings.out).parent / out), training=options)


def weights(result: TrainResult) -> dict[str, Tensor]:
    return load_file(result.folder / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class ByHand:
    """The training as a raw loop over the same batches."""

    def __init__(self, settings: TrainConfig) -> None:
        base = ModelConfig(str(settings.model.path))
        task, other = (
            tasks.build(name, mapping, "tasks").bind(name, base, name)
            for name, mapping in (("colour", settings.task), ("size", settings.reference["size"]))
        )
        limits = Limits(settings.train_examples, 8, 0, settings.seed)
        self.task, self.options, self.examples = task, settings.training, task.examples(limits).train
        self.model: TaskModel = task.model(task.load_trunk()).train()
        reference = {"size": Unlabelled(other.features, other.examples(limits).train)}
        own = Unlabelled(task.features, self.examples)
        self.penalty = penalty(**(settings.training.penalty or DRIFT))
        self.bound = self.penalty.bind(self.model.trunk, Setting(own, reference, settings.seed, STEPS))
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
            lr=settings.training.learning_rate,
            weight_decay=settings.training.weight_decay,
            fused=True,
        )

    def steps(self) -> Iterator[tuple[int, Any]]:
        order = self.examples.training_order(self.options.batch_size, STEPS, 0)
        for step in range(STEPS):
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.learning_rate * self.options.learning_rate_factor(step)
            self.optimizer.zero_grad()
            torch.manual_seed(step * 1009)
            yield step, self.examples.collate(order[step])
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

    def loss(self, batch: Any) -> Tensor:
        return self.task.loss(self.model, batch)

    def added(self, step: int) -> Tensor:
        return self.bound.loss(self.model.trunk, step) if step % 2 == 0 else torch.zeros(())


def test_the_penalty_is_added_to_the_loss_on_every_k_th_step(settings: TrainConfig) -> None:
    hand = ByHand(settings)
    for step, batch in hand.steps():
        (hand.loss(batch) + hand.added(step)).backward()
    for name, value in weights(train(settings)).items():
        torch.testing.assert_close(value, hand.model.trunk.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("climbed", ["loss", "penalty", "both"])
def test_sam_climbs_what_it_is_told_and_descends_both(settings: TrainConfig, climbed: str) -> None:
    settings = changed(
        settings, "out", penalty=DRIFT | {"ascend": climbed}, perturbation={"name": "sam", "rho": 0.5}
    )
    hand = ByHand(settings)
    ascent = Ascent(hand.optimizer, "sam", modules=hand.model)
    ascent.perturbation = dataclasses.replace(ascent.perturbation, rho=0.5)
    for step, batch in hand.steps():
        with ascent.first_pass():
            if climbed == "penalty" and step % 2 == 0:
                hand.added(step).backward()
            elif climbed == "both" and step % 2 == 0:
                (hand.loss(batch) + hand.added(step)).backward()
            else:
                hand.loss(batch).backward()
        if climbed == "penalty" and step % 2:
            ascent.skip_replay()
            continue
        with ascent.perturbed():
            hand.loss(batch).backward()
            if step % 2 == 0:
                hand.added(step).backward()
    for name, value in weights(train(settings)).items():
        torch.testing.assert_close(value, hand.model.trunk.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("climbed", ["loss", "penalty", "both"])
@pytest.mark.parametrize("perturbation", [None, {"name": "sam", "every": 3}, {"name": "momentum_sam"}])
def test_passes_are_those_that_are_run(
    settings: TrainConfig, climbed: str, perturbation: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = changed(
        settings, "out", penalty=DRIFT | {"ascend": climbed, "examples": 8}, perturbation=perturbation
    )
    passes: list[float] = []
    features = tasks.pooling.TextClassifier.features

    def counted(self: TaskModel, inputs: dict[str, Tensor]) -> Tensor:
        output = features(self, inputs)
        if self.training or isinstance(self.head, nn.Identity):  # no validation
            passes.append(len(output) / 8 * (1 if output.requires_grad else 1 / 3))
        return output

    monkeypatch.setattr(tasks.pooling.TextClassifier, "features", counted)
    train(options)
    first_head = 1 / 3 * 3 / 8  # three prompts
    assert sum(passes) - first_head == pytest.approx(options.training.passes)


@pytest.mark.parametrize("name", ["drift", "kfac_drift", "l2_base", "tau_jp"])
@pytest.mark.parametrize("averaging", [None, {"name": "ema"}, {"name": "tail"}])
def test_an_interrupted_training_ends_with_the_same_bits(
    settings: TrainConfig, name: str, averaging: Any, interrupted_after: Any
) -> None:
    options = {"penalty": {"name": name, "every": 2}, "averaging": averaging}
    whole = train(dataclasses.replace(changed(settings, "whole", **options), checkpoint_every=3))
    broken = dataclasses.replace(changed(settings, "broken", **options), checkpoint_every=3)
    with interrupted_after(4):
        train(broken)
    assert equal(weights(train(broken)), weights(whole))


def test_without_strength_it_is_the_plain_training_to_the_bit(settings: TrainConfig) -> None:
    plain = train(changed(settings, "plain", penalty=None))
    none = train(changed(settings, "none", penalty=DRIFT | {"strength": 0}))
    some = train(changed(settings, "some"))
    assert equal(weights(plain), weights(none))
    assert not equal(weights(plain), weights(some))


@pytest.mark.parametrize("name", ["drift", "tau_jp"])
def test_in_mixed_precision_the_penalty_is_zero_at_the_base(
    settings: TrainConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saft.training.module import TaskModule

    values: list[float] = []
    backward = TaskModule._backward

    def watch(self: TaskModule, batch: Any, terms: frozenset[str]) -> Tensor:
        if "penalty" in terms:
            assert self.bound_penalty is not None
            values.append(self.bound_penalty.loss(self.model.trunk, self.global_step).item())
        return backward(self, batch, terms)

    monkeypatch.setattr(TaskModule, "_backward", watch)
    mixed = changed(settings, "mixed", penalty={"name": name, "every": 1})
    train(dataclasses.replace(mixed, trainer={"accelerator": "cpu", "precision": "bf16-mixed"}))
    assert values[0] == 0
    assert values[1] > 0


def test_validation_and_test_inputs_are_never_read_by_a_penalty(
    settings: TrainConfig, tiny_tasks: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ModelConfig(str(settings.model.path))
    allowed: dict[str, set[tuple[int, ...]]] = {}
    for name in tiny_tasks:
        train_split = (
            tasks.build(name, tiny_tasks[name], "t").bind(name, base, "t").examples(Limits(40)).train
        )
        rows = [train_split.collate([index]) for index in range(len(train_split))]
        allowed[name] = {tuple(row.inputs["input_ids"][0].tolist()) for row in rows}
    seen: list[tuple[int, ...]] = []
    inputs = Unlabelled.inputs

    def watch(self: Unlabelled, indices: Any, device: Any) -> dict[str, Tensor]:
        found = inputs(self, indices, device)
        rows = zip(found["input_ids"], found["attention_mask"].bool(), strict=True)
        seen.extend(tuple(ids[mask].tolist()) for ids, mask in rows)
        return found

    monkeypatch.setattr(Unlabelled, "inputs", watch)
    for number, options in enumerate((DRIFT, {"name": "kfac_drift", "examples": 100})):
        train(changed(settings, f"out{number}", penalty=options))
    assert seen
    assert set(seen) <= allowed["size"]


def test_the_folder_tells_what_was_added(settings: TrainConfig) -> None:
    import json

    result = train(changed(settings, "out", averaging={"name": "ema"}))
    card = (result.folder / "README.md").read_text()
    assert "AdamW with the penalty {'name': 'drift'" in card
    assert "the average {'name': 'ema'}" in card
    manifest = json.loads((result.folder / "saft.json").read_text())
    assert manifest["config"]["training"]["penalty"] == DRIFT
    files = settings.reference["size"]["data"]["files"].values()
    assert set(files) <= manifest["data"]["sha256"].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": {}}, "reference: is missing: training.penalty has inputs: others"),
        ({"training": {"penalty": {"strength": 1}}}, "penalty: `name` is missing; write {name: drift"),
        ({"training": {"penalty": {"name": "drift", "evry": 2}}}, "evry: unknown key; did you mean 'every'"),
        ({"training": {"averaging": {"name": "emma"}}}, "unknown averaging 'emma'; did you mean 'ema'"),
        (
            {"training": {"steps": 4, "averaging": {"name": "ema"}, "select_steps": [2]}},
            "averaging: an average has no candidates; leave out select_steps",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    settings: TrainConfig, change: dict[str, Any], message: str
) -> None:
    mapping = config.overridden(dataclasses.asdict(settings), []) | change
    with pytest.raises(UserError) as caught:
        config.parse(TrainConfig, mapping, "f.yaml")
    assert message in str(caught.value)


def test_every_wrong_task_is_told_at_once(settings: TrainConfig) -> None:
    wrong = {"task": {"kind": "a"}, "reference": {"one": {"kind": "b"}, "two": {"kind": "c"}}}
    with pytest.raises(UserError) as caught:
        config.parse(TrainConfig, config.overridden(dataclasses.asdict(settings), []) | wrong, "")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "task.kind",
        "reference.one.kind",
        "reference.two.kind",
    ]


def test_options_say_their_passes() -> None:
    drift = {"name": "drift", "every": 4, "examples": 8}
    assert TrainingOptions(steps=8, batch_size=8, penalty=drift).passes == 8 + 2 * (1 + 1 / 3)
