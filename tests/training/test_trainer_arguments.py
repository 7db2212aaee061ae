from __future__ import annotations

from typing import Any

import pytest

from saft.errors import UserError
from saft.training.trainer_arguments import check_trainer


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_steps": 3}, "trainer.max_steps: is set by saft; use training.steps"),
        ({"enable_checkpointing": True}, "use checkpoint_every of saft train; saft run writes one every 200"),
        ({"overfit_batches": 1}, "use train_examples of saft train, or regimes of saft run"),
        ({"devcies": 1}, "trainer.devcies: unknown argument; did you mean 'devices'?"),
        *(
            ({"precision": value}, f"trainer.precision: {value} is not supported, since weights are float32")
            for value in ("16-mixed", "16-true", 16, "bf16-true", "64-true", 64, "64", "transformer-engine")
        ),
        ({"precision": "bf17"}, "trainer.precision: unknown value 'bf17'; did you mean 'bf16'?"),
        ({"precision": "fp8"}, "trainer.precision: unknown value 'fp8'; choose from: 32, 32-true, bf16"),
        ({"accelerator": "gpuu"}, "trainer.accelerator: unknown value 'gpuu'; did you mean 'gpu'?"),
        (
            {"devices": {"a": 1}},
            "trainer.devices: must be list | text | whole number, but is {'a': 1}",
        ),
        ({"benchmark": "yes"}, "trainer.benchmark: must be null | true | false, but is 'yes'"),
    ],
)
def test_mistakes_are_named(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_trainer(trainer)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "trainer",
    [
        {"accelerator": "cpu", "devices": 1, "precision": "bf16-mixed"},
        {"devices": "auto", "precision": 32, "deterministic": "warn"},
        {"devices": [0], "precision": None},
        {"plugins": [object()], "accelerator": object()},
    ],
)
def test_what_lightning_takes_is_taken(trainer: dict[str, Any]) -> None:
    check_trainer(trainer)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        check_trainer({"max_steps": 3, "devcies": 1})
    assert len(caught.value.problems) == 2
