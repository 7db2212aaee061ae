from __future__ import annotations

from pathlib import Path

import pytest

from saft.tasks import Metric
from saft.training.callbacks import SelectSteps, Stopwatch

ACCURACY = Metric("accuracy", "%")


def test_the_best_candidate_is_the_earliest_of_equals(tmp_path: Path) -> None:
    select = SelectSteps([1, 2, 3], lambda: 0.0, ACCURACY, tmp_path / "best.safetensors")
    select.figures = {1: 0.5, 2: 0.7, 3: 0.7}
    assert select.best == 2
    loss = Metric("loss", "nats", higher_is_better=False)
    select = SelectSteps([1, 2, 3], lambda: 0.0, loss, tmp_path / "best.safetensors")
    select.figures = {1: 0.7, 2: 0.5, 3: 0.5}
    assert select.best == 2


def test_what_was_validated_survives_a_checkpoint(tmp_path: Path) -> None:
    select = SelectSteps([1, 2], lambda: 0.0, ACCURACY, tmp_path / "best.safetensors")
    select.figures = {1: 0.5}
    other = SelectSteps([1, 2], lambda: 0.0, ACCURACY, tmp_path / "best.safetensors")
    other.load_state_dict(select.state_dict())
    assert other.figures == {1: 0.5}


def test_a_stopwatch_goes_on_where_it_was() -> None:
    watch, other = Stopwatch(), Stopwatch()
    watch.load_state_dict({"seconds": 5.0})
    other.load_state_dict(watch.state_dict())
    assert other.seconds == 5.0


def test_a_stopwatch_counts_what_a_penalty_computes_before_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 13.0])
    monkeypatch.setattr("saft.training.callbacks.time.perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    with watch.at_base():
        pass
    assert watch.seconds == 3.0
    watch.load_state_dict({"seconds": 5.0})  # resumed: in these the 3 are
    assert watch.seconds == 5.0
