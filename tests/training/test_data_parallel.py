"""Two processes over gloo train what one trains: the weights agree to round-off, and are written once."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from safetensors.torch import load_file

from saft import config
from saft.errors import UserError
from saft.train import TrainConfig, TrainResult, train
from saft.training import fine_tuning, ranks
from saft.training.data_parallel import Replicas
from saft.training.work_folder import LAST

gloo = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")


@pytest.fixture(scope="module")
def without_dropout(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model without dropout, of which every process draws masks of its own."""
    folder = tmp_path_factory.mktemp("steady")
    transformers.AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(tiny_model)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(without_dropout: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path) -> TrainConfig:
    mapping = {
        "model": {"path": str(without_dropout)},
        "task": tiny_tasks["colour"] | {"head": "linear"},
        "name": "colour",
        "out": str(tmp_path / "out"),
        "training": {
            "steps": 4,
            "select_steps": [2, 4],
            "batch_size": 8,
            "micro_batch_size": 3,
            "learning_rate": 1e-2,
            "perturbation": {"name": "sam", "rho": 0.1},
            "parametrization": {"name": "lora", "rank": 2, "rho_space": "weights"},
            "penalty": {
                "name": "drift",
                "inputs": "own_shuffled",
                "every": 2,
                "examples": 4,
                "ascend": "both",
            },
        },
        "train_examples": 24,
        "validation_examples": 12,
        "trainer": {"accelerator": "cpu"},
    }
    return config.parse(TrainConfig, mapping, "test")


def on_two(settings: TrainConfig, **more: Any) -> TrainConfig:
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    return dataclasses.replace(settings, out=settings.out + "-two", trainer=trainer, **more)


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(result.folder / "adapter_model.safetensors") | {
        f"head {name}": value for name, value in load_file(result.folder / "heads/colour.safetensors").items()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
@gloo
def test_two_devices_end_with_the_weights_of_one_and_go_on_to_the_bit(
    settings: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    goes_on = []

    def keeping(order: ranks.Order, *arguments: Any) -> None:
        goes_on.append((order.work / LAST).exists())
        ranks.launch(order, *arguments)
        if not any(goes_on):
            shutil.copytree(order.work, tmp_path / "kept" / "work")

    monkeypatch.setattr(fine_tuning, "launch", keeping)
    both = on_two(settings, checkpoint_every=2)
    one, two = train(settings), train(both)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-4, atol=1e-6)
    assert (two.steps, two.validation) == (one.steps, one.validation)
    names = [sorted(p.name for p in result.folder.rglob("*")) for result in (one, two)]
    assert names[0] == names[1]
    assert sorted(entry.name for entry in one.folder.parent.iterdir()) == ["kept", "out", "out-two"]
    log = [(result.folder / "logs" / "metrics.csv").read_text().splitlines() for result in (one, two)]
    assert len(log[0]) == len(log[1])

    before, work = weights(two), two.folder.parent / f".{two.folder.name}.work"
    shutil.copytree(tmp_path / "kept", work)
    resumed = train(both, overwrite=True)
    assert goes_on == [False, True]
    assert all(torch.equal(weights(resumed)[name], value) for name, value in before.items())

    shutil.copytree(tmp_path / "kept", work)  # one device goes on where two stopped
    changed = train(dataclasses.replace(both, trainer=settings.trainer), overwrite=True)
    assert "begins anew" not in capsys.readouterr().err
    for name, value in before.items():
        torch.testing.assert_close(weights(changed)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
@gloo
def test_what_goes_wrong_in_a_process_is_told_in_one_line_and_ends_them_all(settings: TrainConfig) -> None:
    training = dataclasses.replace(
        settings.training, learning_rate=1e30, gradient_clip=None, select_steps=[], steps=40
    )
    with pytest.raises(UserError, match=r"^training diverged: the loss is") as caught:
        train(on_two(settings, training=training))
    assert "\n" not in str(caught.value)
    assert not Path(settings.out + "-two").exists()


@pytest.mark.slow  # two processes import torch and Lightning
@gloo
def test_a_process_that_the_system_ends_is_named_and_the_training_goes_on_from_its_checkpoint(
    settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = subprocess.Popen
    kept = []

    def ends(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """The second process is killed once the first has kept a checkpoint."""
        process = begin(command, **options)
        if options["env"]["LOCAL_RANK"] == "1":
            work = Path(json.loads(command[-1])["work"])

            def kill() -> None:
                while not (work / LAST).exists():
                    time.sleep(0.01)
                kept.append(work)
                process.kill()

            threading.Thread(target=kill, daemon=True).start()
        return process

    two = on_two(settings, training=dataclasses.replace(settings.training, steps=400, select_steps=[]))
    two = dataclasses.replace(two, checkpoint_every=2)
    monkeypatch.setattr(subprocess, "Popen", ends)
    with pytest.raises(UserError, match=r"^process 1 of 2 was ended by SIGKILL, .* goes on from its last"):
        train(two)
    assert (kept[0] / LAST).exists()
    assert not Path(two.out).exists()


@pytest.mark.parametrize(
    ("trainer", "training", "message"),
    [
        (
            {"devices": 2},
            {"batch_size": 7},
            "batch_size: is 7, which 2 devices cannot share equally; write 8",
        ),
        ({"devices": 2}, {"batch_size": 1}, "write 2"),
        ({"devices": 2, "num_nodes": 2}, {}, "trainer.num_nodes: is 2, but saft trains a model on"),
    ],
)
def test_what_devices_cannot_share_is_refused(
    settings: TrainConfig, trainer: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    changed = dataclasses.replace(
        settings,
        trainer={"accelerator": "cpu"} | trainer,
        training=dataclasses.replace(settings.training, **training),
    )
    with pytest.raises(UserError, match=message):
        train(changed)


@pytest.mark.slow  # a process imports torch
def test_processes_that_wait_for_each_other_end_at_once() -> None:
    """As SIGTERM could not: Lightning's handler sends a message first, which nobody may wait for."""
    waiting = """if True:
        import signal, threading, time
        from saft.training.ranks import _end_with_parent
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        print("ready", flush=True)
        time.sleep(90)
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", waiting], **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == b"ready\n"
    begun = time.monotonic()
    ranks._end([process])
    assert process.returncode == -signal.SIGKILL
    assert time.monotonic() - begun < ranks.GRACE / 2


def test_batch_norms_which_would_see_a_part_of_a_batch_are_refused() -> None:
    replica = Replicas(cluster_environment=LightningEnvironment(), parallel_devices=[torch.device("cpu")] * 2)
    replica.model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    with pytest.raises(UserError, match=r"^trainer\.devices: is 2, but the model has batch norms"):
        replica.configure_ddp()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("deepspeed", "weights are divided among devices by strategy: fsdp"),
        ("dpp", "it is one of auto, ddp, fsdp"),
    ],
)
def test_another_strategy_is_refused_at_once(strategy: str, message: str) -> None:
    plain = {"model": {"path": "x"}, "task": {}, "out": "y", "trainer": {"strategy": strategy}}
    with pytest.raises(UserError, match=message):
        config.parse(TrainConfig, plain, "f.yaml")
