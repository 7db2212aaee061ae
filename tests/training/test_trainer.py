from __future__ import annotations

import os
import signal

import pytest
import torch

from saft.errors import UserError
from saft.training.trainer import device_count, device_of, interruptible, make_trainer


def test_the_device_is_the_trainers() -> None:
    assert device_of({"accelerator": "cpu"}) == torch.device("cpu")
    assert device_of({"devices": "auto", "accelerator": "cpu"}) == torch.device("cpu")
    assert device_of({"devices": 2, "accelerator": "cpu"}) == torch.device("cpu")
    assert [device_count({"devices": count, "accelerator": "cpu"}) for count in (1, "2")] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "gpuu"}, r"trainer: "),
        ({"accelerator": "cpu", "precision": "7-true"}, r"trainer: "),
        ({"accelerator": "cpu", "num_nodes": 2}, r"trainer.num_nodes: is 2, but saft trains a model on"),
    ],
)
def test_what_lightning_refuses_is_told_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        device_of(options)
    assert "\n" not in str(caught.value)


def test_sigterm_is_an_interrupt_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_exit_of_lightning_is_the_callers_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise SystemExit(1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, torch.float32),
        ({"precision": "32-true"}, torch.float32),
        ({"precision": "bf16-mixed"}, torch.bfloat16),
        ({"precision": "bf16"}, torch.bfloat16),
    ],
)
def test_a_training_is_in_the_precision_of_its_device_unless_told_otherwise(
    options: dict[str, object], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    with make_trainer({"accelerator": "cpu"} | options, logger=False).precision_plugin.forward_context():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == expected
