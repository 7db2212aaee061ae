from __future__ import annotations

from typing import Any

import pytest
import torch

from saft.errors import UserError
from saft.training.devices import check_devices
from saft.training.trainer import device_of


def machine(
    monkeypatch: pytest.MonkeyPatch, gpus: int, bfloat16: bool = True, built: bool = True
) -> pytest.MonkeyPatch:
    """Let torch say that it finds so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr(torch.version, "cuda", "12.8" if built else None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu", "xla", "hpu"])
@pytest.mark.parametrize("devices", [1, 2, "auto"])
def test_an_accelerator_that_is_not_there_is_told_with_what_is(
    accelerator: str, devices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus=0)
    with pytest.raises(UserError) as caught:
        device_of({"accelerator": accelerator, "devices": devices})
    assert caught.value.problems == (
        f"trainer.accelerator: is {accelerator}, but torch finds none on this machine; write cpu, or leave it "
        "out, which takes the fastest that is there",
    )


def test_a_torch_without_cuda_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=0, built=False)
    with pytest.raises(UserError, match=r"is gpu, but torch 2.* is built without CUDA; write cpu, or leave"):
        check_devices({"accelerator": "gpu"})


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "auto", None])
@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (3, "is 3, but this machine has 2 GPUs; write 2, or fewer"),
        ("3", "is 3, but this machine has 2 GPUs; write 2, or fewer"),
        ([0, 2], "2 is no GPU here: this machine has 2 GPUs, numbered 0 to 1"),
        ("5,", "5 is no GPU here: this machine has 2 GPUs, numbered 0 to 1"),
        ([1, 1], r"is \[1, 1\]; give each GPU once"),
        ([], r"is \[\]; give each GPU once"),
        (0, "is 0; write how many GPUs, at least 1, or -1 for all: this machine has 2 GPUs"),
        ("two", "is two; write how many GPUs, their numbers in a list, or auto"),
    ],
)
def test_gpus_that_are_not_there_are_told(
    accelerator: str | None, devices: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus=2)
    with pytest.raises(UserError, match=f"^trainer.devices: {message}"):
        check_devices({"accelerator": accelerator, "devices": devices})


@pytest.mark.parametrize("devices", [0, -1, [0], [0, 1], "0,1", "many", ""])
def test_on_the_cpu_devices_are_a_number_of_processes(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=0)
    for accelerator in ("cpu", "auto"):
        with pytest.raises(UserError, match=r"^trainer.devices: is .*, but on the CPU it is the number of"):
            device_of({"accelerator": accelerator, "devices": devices})


@pytest.mark.parametrize("devices", [1, 2, "2", -1, "-1", "auto", [0], [1, 0], "0,1"])
def test_what_is_there_is_taken(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=2)
    check_devices({"accelerator": "gpu", "devices": devices, "precision": "bf16-mixed"})


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
def test_a_gpu_without_bfloat16_is_told(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1, bfloat16=False)
    with pytest.raises(
        UserError, match=f"^trainer.precision: is {precision}, but Tesla P100 has no bfloat16"
    ):
        check_devices({"precision": precision})
    check_devices({"precision": precision, "accelerator": "cpu"})
    check_devices({"precision": "32-true"})


def test_where_other_machines_train_this_one_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=0)
    assert device_of({"accelerator": "gpu", "devices": [3]}, elsewhere=True) == torch.device("cpu")
    with pytest.raises(UserError, match="trainer: "):
        device_of({"accelerator": "gpuu"}, elsewhere=True)
