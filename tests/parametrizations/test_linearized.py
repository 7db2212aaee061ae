"""Linearized: the outputs are those of the first-order expansion, and their gradient is the base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate
from saft.model_config import ModelConfig
from saft.parametrizations.linearized import Linearized
from saft.train import TrainConfig, train
from saft.training.options import TrainingOptions


def test_outputs_and_gradients_are_those_of_the_expansion_at_the_base() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    at_base = trunk(x).sum()
    slope = torch.autograd.grad(at_base, list(trunk.parameters()))
    Linearized().wrap(trunk, lambda count: iter(()))
    steps = [torch.randn_like(p) for p in trunk.parameters()]
    with torch.no_grad():
        for parameter, step in zip(trunk.parameters(), steps, strict=True):
            parameter.add_(step)
    found = trunk(x).sum()
    expected = at_base + sum((g * step).sum() for g, step in zip(slope, steps, strict=True))
    torch.testing.assert_close(found, expected)
    for own, theirs in zip(torch.autograd.grad(found, list(trunk.parameters())), slope, strict=True):
        torch.testing.assert_close(own, theirs)
    with torch.inference_mode():
        torch.testing.assert_close(trunk(x.clone()).sum(), expected.detach())


def test_batch_norms_have_no_tangent() -> None:
    trunk = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(UserError, match="parametrization: linearized: Sequential has batch norms"):
        Linearized().wrap(trunk, lambda count: iter(()))


def test_an_expert_read_as_an_ordinary_model_is_told(
    tiny_model: Path,
    tiny_tasks: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = TrainConfig(
        model=ModelConfig(str(tiny_model)),
        task=tiny_tasks["colour"],
        out=str(tmp_path / "out"),
        name="colour",
        training=TrainingOptions(steps=1, parametrization={"name": "linearized"}),
        train_examples=12,
        validation_examples=6,
        trainer={"accelerator": "cpu"},
    )
    folder = train(settings).folder
    assert "tangent of the model at its base" in (folder / "README.md").read_text()
    evaluate(EvaluateConfig([str(folder)], split="validation", examples=6))
    assert "was trained linearized; it is evaluated here as the ordinary model" in capsys.readouterr().err
