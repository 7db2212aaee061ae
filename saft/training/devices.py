"""Whether this machine has the devices that a trainer is told to train on, in words of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from saft.errors import UserError

__all__ = ["BFLOAT16", "NoSuchDevice", "check_devices", "has_bfloat16"]

BFLOAT16 = ("bf16", "bf16-mixed")
# A word of Lightning's -> the kinds of accelerators that it stands for, the first that is there.
MEANT = {
    "auto": ("tpu", "mps", "cuda"),
    "cpu": (),
    "cuda": ("cuda",),
    "gpu": ("mps", "cuda"),
    "hpu": ("hpu",),
    "mps": ("mps",),
    "tpu": ("tpu",),
    "xla": ("tpu",),
}


class NoSuchDevice(UserError):
    """This machine has not what the config asks for; another, that computes the cells, may have it."""


def check_devices(trainer: Mapping[str, Any]) -> None:
    """Check that the devices of a trainer are there, and compute in its precision.

    Args:
        trainer: arguments for lightning.Trainer. An `accelerator` of another name is for Lightning to check.

    Raises:
        NoSuchDevice: they are not.

    Example:
        >>> check_devices({"accelerator": "cpu", "devices": -1})
        Traceback (most recent call last):
        saft.training.devices.NoSuchDevice: trainer.devices: is -1, but on the CPU it is the number of ...
    """
    accelerator = trainer.get("accelerator") or "auto"
    if not isinstance(accelerator, str) or accelerator not in MEANT:
        return
    have = _found()
    there = [name for name in MEANT[accelerator] if have[name]]
    if not there and accelerator not in ("auto", "cpu"):
        raise NoSuchDevice(f"trainer.accelerator: is {accelerator}, but {_why_none(accelerator, have)}")
    devices, precision = _parsed(trainer.get("devices", 1)), str(trainer.get("precision"))
    if "cuda" in there:
        problems = list(_problems_of_gpus(devices, have["cuda"]))
        if not problems and precision in BFLOAT16 and not has_bfloat16():
            problems.append(
                f"trainer.precision: is {precision}, but {torch.cuda.get_device_name()} has no bfloat16, and "
                "would take longer than in float32; leave it out"
            )
    elif not there and not (devices == "auto" or (isinstance(devices, int) and devices > 0)):
        problems = [
            f"trainer.devices: is {trainer['devices']}, but on the CPU it is the number of processes that "
            "share every batch; write 1, or leave it out"
        ]
    else:
        problems = []
    if problems:
        raise NoSuchDevice(*problems)


def has_bfloat16() -> bool:
    """Return whether the GPU computes in bfloat16 itself."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _found() -> dict[str, int]:
    """Return kind of accelerator -> how many of it torch can use here."""
    return {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "tpu": int(_has_tpu()),
        "hpu": int(hasattr(torch, "hpu")),
    }


def _has_tpu() -> bool:
    try:
        from lightning.pytorch.accelerators import XLAAccelerator

        return bool(XLAAccelerator.is_available())
    except Exception:  # torch_xla says in many ways that it cannot be used
        return False


def _why_none(accelerator: str, have: Mapping[str, int]) -> str:
    others = [name for name, count in have.items() if count] + ["cpu"]
    cure = f"write {' or '.join(others)}, or leave it out, which takes the fastest that is there"
    if accelerator in ("gpu", "cuda") and torch.version.cuda is None and torch.version.hip is None:
        return (
            f"torch {torch.__version__} is built without CUDA; {cure}; for a GPU, install one that has "
            "it (https://pytorch.org/get-started)"
        )
    return f"torch finds none on this machine; {cure}"


def _parsed(devices: Any) -> Any:
    """Return what a text stands for, as Lightning reads it: a number, or a list of them."""
    if not isinstance(devices, str):
        return devices
    try:
        return [int(part) for part in devices.split(",") if part.strip()] if "," in devices else int(devices)
    except ValueError:
        return devices


def _problems_of_gpus(devices: Any, count: int) -> Iterator[str]:
    there = f"this machine has {count} GPU{'s' if count > 1 else ''}"
    numbers = "0" if count == 1 else f"0 to {count - 1}"
    if isinstance(devices, list):
        absent = [index for index in devices if index not in range(count)]
        if absent:
            yield f"trainer.devices: {absent[0]} is no GPU here: {there}, numbered {numbers}"
        elif len(set(devices)) < len(devices) or not devices:
            yield f"trainer.devices: is {devices}; give each GPU once: {there}, numbered {numbers}"
    elif not isinstance(devices, int) and devices != "auto":
        yield f"trainer.devices: is {devices}; write how many GPUs, their numbers in a list, or auto"
    elif isinstance(devices, int) and (devices == 0 or devices < -1):
        yield f"trainer.devices: is {devices}; write how many GPUs, at least 1, or -1 for all: {there}"
    elif isinstance(devices, int) and devices > count:
        yield f"trainer.devices: is {devices}, but {there}; write {count}, or fewer"
