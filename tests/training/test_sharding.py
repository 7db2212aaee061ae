"""Two processes over gloo, each with a share of every weight, train what one with all of them trains."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from saft import config
from saft.errors import UserError
from saft.progress import Bar
from saft.run import RunConfig
from saft.tasks.language_model import LanguageModel
from saft.train import TrainConfig, TrainResult, train
from saft.training import fine_tuning
from saft.training.ranks import Order, launch
from saft.training.sharding import stacks

two_processes = [
    pytest.mark.slow,
    pytest.mark.usefixtures("forked_ranks"),
    pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo"),
]
SHARED = {"accelerator": "cpu", "devices": 2, "strategy": "fsdp"}
TASK = {"kind": "language_modeling", "text": "{text} {label}"}


@pytest.fixture
def mapping(tiny_gpt2: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """Return a training of a tiny GPT-2, whose head is tied, without dropout, in which processes differ."""
    steady = tmp_path / "gpt2"
    shutil.copytree(tiny_gpt2, steady)
    content = json.loads((steady / "config.json").read_text())
    off = {key: 0.0 for key in content if key.endswith("_pdrop")}
    (steady / "config.json").write_text(json.dumps(content | off))
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    return {
        "model": {"path": str(steady)},
        "task": TASK | {"data": data, "max_length": 16},
        "name": "colour",
        "out": str(tmp_path / "out"),
        "training": {
            "steps": 4,
            "batch_size": 8,
            "micro_batch_size": 3,
            "learning_rate": 1e-2,
            "gradient_clip": 0.1,
            "perturbation": {"name": "sam", "rho": 0.1},
        },
        "train_examples": 24,
        "validation_examples": 12,
        "trainer": {"accelerator": "cpu"},
    }


def settings_of(mapping: dict[str, Any]) -> TrainConfig:
    return config.parse(TrainConfig, mapping, "test")


def on_two(settings: TrainConfig, **more: Any) -> TrainConfig:
    return dataclasses.replace(settings, out=settings.out + "-two", trainer=SHARED, **more)


def weights(result: TrainResult) -> dict[str, Tensor]:
    (file,) = result.folder.glob("*.safetensors")
    return load_file(file)


def assert_close(first: TrainResult, second: TrainResult) -> None:
    expected, got = weights(first), weights(second)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        # A bias of keys has no gradient but for round-off, which AdamW divides by its own size.
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=5e-5)
    assert second.steps == first.steps
    assert second.validation.value == pytest.approx(first.validation.value, rel=1e-4)
    files = [sorted(p.name for p in result.folder.rglob("*")) for result in (first, second)]
    assert files[0] == files[1]


def test_on_a_single_device_nothing_is_divided_and_the_model_is_scored_on_the_device(
    mapping: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `devices: auto` finds one GPU, the score was computed by the CPU, and in float32."""
    mapping["trainer"] = SHARED | {"devices": "auto"}
    mapping["training"] = {"steps": 1, "batch_size": 4}
    settings, to, moved = settings_of(mapping), LanguageModel.to, list[Any]()

    def noted(self: LanguageModel, *to_what: Any) -> Any:
        moved.append(to_what)
        return to(self, *to_what)

    monkeypatch.setattr(LanguageModel, "to", noted)
    assert train(settings).steps == 1
    assert moved[-1:] == [(torch.device("cpu"),)]


class Advances(Bar):
    """Remembers what it is advanced by."""

    def __init__(self, total: float) -> None:
        super().__init__(total)
        self.costs: list[float] = []

    def advance(self, cost: float) -> None:
        self.costs.append(cost)


class TestTwoProcesses:
    """Where weights are divided."""

    pytestmark = two_processes

    def test_they_end_with_the_weights_of_one_and_go_on_to_the_bit(
        self, mapping: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remembers = {"name": "friendly_sam", "rho": 0.1}  # each process of its share
        mapping["training"] |= {"select_steps": [1, 3, 4], "perturbation": remembers}
        mapping["checkpoint_every"] = 2
        kept = tmp_path / "kept"

        def keeping(order: Order, *arguments: Any) -> None:
            launch(order, *arguments)
            shutil.copytree(order.work, kept)

        one = settings_of(mapping)
        with monkeypatch.context() as patch:
            patch.setattr(fine_tuning, "launch", keeping)
            whole = train(on_two(one))
        assert_close(train(one), whole)
        transformers.AutoModelForCausalLM.from_pretrained(whole.folder)
        checkpoint = torch.load(kept / "last.ckpt", weights_only=False)
        assert checkpoint["global_step"] == 2
        assert checkpoint["state_dict"]["model.trunk.transformer.wte.weight"].shape[1] == 32

        before = weights(whole)
        work = whole.folder.parent / f".{whole.folder.name}.work"
        shutil.copytree(kept, work / "kept")
        advances = Advances(0.0)
        resumed = fine_tuning.fine_tune(on_two(one), overwrite=True, progress=advances)
        assert [cost / advances.costs[-1] for cost in advances.costs] == [2, 1, 1]  # two steps were done
        assert all(torch.equal(weights(resumed)[name], value) for name, value in before.items())

    def test_lora_is_written_as_an_adapter(self, mapping: dict[str, Any]) -> None:
        mapping["training"] |= {"parametrization": {"name": "lora", "rank": 2}}
        one = settings_of(mapping)
        assert_close(train(one), train(on_two(one)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"penalty": {"name": "l2_base"}}, "training.penalty: l2_base does not go with"),
        ({"averaging": {"name": "ema", "decay": 0.9}}, "training.averaging: ema does not go with"),
        (
            {"parametrization": {"name": "linearized"}},
            "training.parametrization: linearized does not go with",
        ),
        (
            {"parametrization": {"name": "lora", "rho_space": "weights"}},
            "training.parametrization: rho_space: weights does not go with",
        ),
        (
            {"optimizer": {"name": "torch.optim:Adafactor"}},
            "training.optimizer: torch.optim:Adafactor does not",
        ),
    ],
)
def test_what_needs_whole_weights_is_refused_by_name(
    mapping: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    mapping["trainer"] = SHARED
    mapping["training"] |= changes
    with pytest.raises(UserError, match=message):
        settings_of(mapping)


def test_one_device_and_models_of_other_kinds_are_refused(
    mapping: dict[str, Any], tiny_tasks: dict[str, dict[str, Any]]
) -> None:
    mapping |= {"trainer": {"strategy": "fsdp"}, "task": tiny_tasks["colour"]}
    with pytest.raises(UserError) as caught:
        settings_of(mapping)
    kind, devices = caught.value.problems
    assert kind.startswith("test: task.kind: trainer.strategy: fsdp divides language models")
    assert "trainer.devices: is 1, but strategy: fsdp divides a model among several" in devices


def test_an_experiment_names_the_arm_once_whatever_its_choices(
    mapping: dict[str, Any], tmp_path: Path
) -> None:
    run = {key: mapping[key] for key in ("model", "out")} | {
        "tasks": {"colour": mapping["task"]},
        "training": mapping["training"],
        "arms": {
            "adamw": {"perturbation": None},
            "ema": {"averaging": {"name": "ema", "decay": 0.9}, "choices": {"learning_rate": [1e-4, 2e-4]}},
        },
        "trainer": SHARED,
    }
    with pytest.raises(UserError, match=r"arms\.ema\.averaging: ema does not go with trainer") as caught:
        config.parse(RunConfig, run, "test")
    assert len(caught.value.problems) == 1


def test_layers_are_those_of_the_outer_lists() -> None:
    block = nn.Module()
    block.experts = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    trunk = nn.Module()
    trunk.encoder, trunk.head = nn.Module(), nn.Linear(1, 1)
    trunk.encoder.layers = nn.ModuleList([block])
    assert list(stacks(trunk)) == [block]
