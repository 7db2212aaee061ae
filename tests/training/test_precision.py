"""Scores are computed in the precision of trainings on the same device, by every verb that makes some."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import saft
from saft import config
from saft.train import TrainConfig
from saft.training.precision import computing, usual_precision


@pytest.mark.parametrize(
    ("gpu", "accelerator", "expected"),
    [
        (True, "auto", "bf16-mixed"),
        (True, "cuda", "bf16-mixed"),
        (True, "cpu", "32-true"),
        (False, "auto", "32-true"),
        (False, "mps", "32-true"),
    ],
)
def test_a_gpu_that_has_bfloat16_computes_in_it(
    gpu: bool, accelerator: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)
    assert usual_precision(accelerator) == expected


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (None, torch.float32),
        ("32-true", torch.float32),
        (32, torch.float32),
        ("bf16-mixed", torch.bfloat16),
        ("bf16", torch.bfloat16),
    ],
)
def test_a_precision_is_computed_in(precision: str | int | None, expected: torch.dtype) -> None:
    with computing(precision, torch.device("cpu")):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == expected


@pytest.mark.parametrize(("precision", "expected"), [(None, torch.bfloat16), ("32-true", torch.float32)])
def test_who_calls_under_autocast_is_left_in_it_unless_told_otherwise(
    precision: str | None, expected: torch.dtype
) -> None:
    with torch.autocast("cpu", torch.bfloat16), computing(precision, torch.device("cpu")):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == expected


@pytest.mark.slow
def test_every_verb_scores_an_expert_as_its_training_did(
    tiny_llama: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    mapping = {
        "model": {"path": str(tiny_llama)},
        "task": {"kind": "language_modeling", "text": "{text} {label}", "data": data, "max_length": 16},
        "training": {"steps": 2, "learning_rate": 1e-2, "batch_size": 4},
        "trainer": {"accelerator": "cpu", "precision": "bf16-mixed"},
        "name": "colour",
        "out": str(tmp_path / "a"),
    }
    given = config.parse(TrainConfig, mapping, "test")
    trained = saft.train(given).validation.value
    saft.train(dataclasses.replace(given, out=str(tmp_path / "b"), seed=1))
    base, folder = str(tiny_llama), str(tmp_path / "a")
    evaluated, measured = list[float](), list[float]()
    for precision in ("bf16-mixed", None):
        asked = saft.EvaluateConfig([folder], split="validation", precision=precision)
        evaluated.append(saft.evaluate(asked).figures[folder]["colour"])
        models, measures = {"colour": folder, "other": str(tmp_path / "b")}, ["recovered"]
        asked_too = saft.MeasureConfig(base, models, measures, examples=60, precision=precision)
        scores: Any = saft.measure(asked_too).measured["expert_score"]
        measured.append(scores["colour"])
    assert evaluated[0] == trained
    assert measured[0] == trained
    assert evaluated[1] != trained
    assert measured[1] == evaluated[1]
