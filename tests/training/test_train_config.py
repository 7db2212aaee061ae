from __future__ import annotations

from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.training.train_config import TrainConfig


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"trainer": {"acelerator": "cpu"}},
            "trainer.acelerator: unknown argument; did you mean 'accelerator'",
        ),
        (
            {"trainer": {"limit_train_batches": 3}},
            "trainer.limit_train_batches: is set by saft; use training.steps",
        ),
        ({"trainer": {"gradient_clip_algorithm": "value"}}, "training.gradient_clip is of the norm"),
        ({"trainer": {"max_steps": 3}}, "trainer.max_steps: is set by saft; use training.steps"),
        ({"trainer": {"precision": "16-mixed"}}, "use bf16-mixed"),
        ({"name": "../../evil"}, "name: '../../evil' cannot be a name"),
        ({"train_examples": 0}, "train_examples: must be at least 1"),
        ({"validation_examples": -5}, "validation_examples: must be at least 1"),
        ({"checkpoint_every": -1}, "checkpoint_every: must be at least 0"),
        ({"seed": -1}, "seed: must be at least 0"),
        ({"training": {"betas": [2, 0.9]}}, "training.betas.0: "),
        ({"training": {"warmup_steps": -2}}, "training.warmup_steps: must be at least 0"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: must be a finite number"),
        ({"training": {"steps": 0}}, "training.steps: must be at least 1, but is 0"),
        ({"training": {"select_steps": [300]}}, "training: select_steps must lie in 1..200"),
        ({"training": {"select_steps": [1, 1]}}, "training: select_steps: holds a number twice: [1, 1]"),
        (
            {"training": {"warmup_steps": 201}},
            "training: warmup_steps: is 201, but there are 200 steps (steps): learning_rate would never",
        ),
        ({"out": ""}, "out: is empty; write a path"),
        ({"training": {"gradient_clip": 0}}, "training.gradient_clip: "),
        ({"training": {"learning_rate": -1}}, "training.learning_rate: must be at least 0, but is -1"),
        (
            {"training": {"perturbation": {"name": "sma"}}},
            "training: perturbation: unknown perturbation 'sma'",
        ),
        ({"training": {"perturbation": {"name": "sam", "roh": 1}}}, "did you mean 'rho'"),
        ({"training": {"perturbation": {"name": "sam", "rho": -1}}}, "rho"),
        ({"training": {"perturbation": {"rho": 0.1}}}, "name"),
    ],
)
def test_mistakes_are_named(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(TrainConfig, {"model": {"path": "x"}, "task": {}, "out": "y"} | mapping, "f.yaml")
    assert message in str(caught.value)
