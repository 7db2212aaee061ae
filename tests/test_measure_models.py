"""The budget, the choice of the coefficient, and the loop over measures."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from saft.errors import UserError
from saft.interference.chosen_measures import chosen
from saft.interference.feature_drift import FeatureDrift
from saft.interference.task_space import TaskSpace
from saft.interference.transfer import Transfer
from saft.measure_config import MeasureConfig
from saft.measure_models import ModelMeasurement, best_scaling, note_empty, values_of
from saft.merging.methods.task_arithmetic import TaskArithmetic
from saft.progress import Bar
from saft.tasks import Metric
from tests.oracles.toy_space import Dense, toy_space

TASK = SimpleNamespace(metric=Metric("accuracy", "%"), loss_unit="mean square")


def measurement(measures, **options):
    config = MeasureConfig("base", ["a"], **options)
    return ModelMeasurement(config, toy_space(), [TASK], chosen(measures, "m"), None, {})


def made(measures, problems=None):
    measured, quantities = {}, {}
    measurement(measures).make(measured, quantities, [] if problems is None else problems)
    return measured, quantities


def clock(monkeypatch, of_pass, of_score):
    """Let a pass of one of the three tasks take so many seconds, and one that gives a score."""
    ticks = iter([0.0, 3 * of_pass, 0.0, 3 * of_score])
    monkeypatch.setattr("saft.measure_models.time.perf_counter", lambda: next(ticks))


def test_the_best_coefficient_is_the_one_that_the_dense_models_have():
    space, grid = toy_space(), [0.0, 0.3, 0.6, 1.0]
    dense, before = Dense(space), space.scaling

    def worth(scaling):
        shares = [
            dense.score(t, dict.fromkeys(space.tasks, scaling)) / dense.score(t, {t: 1.0})
            for t in space.tasks
        ]
        return sum(shares) / 3

    best = best_scaling(space, grid)
    assert worth(best) == max(map(worth, grid))
    assert not [scaling for scaling in grid if scaling < best and worth(scaling) == worth(best)]
    assert space.scaling == before


def test_a_task_whose_expert_is_at_zero_does_not_choose_the_coefficient():
    """A correlation may be 0 or below; the others' scores were not looked at, and the least coefficient won."""
    space = toy_space()
    scores = {0.1: 0.5, 0.4: 0.9, 0.7: 0.6}

    class Half(TaskSpace):
        def score(self, task, point):
            of_a = scores[point.scaling] if point.merged else 1.0
            return of_a if task == "a" else 0.0

    space.__class__ = Half
    assert best_scaling(space, list(scores)) == 0.4


def test_measures_of_the_loss_are_made_at_each_expert():
    space = toy_space()
    dense = Dense(space)
    measure = chosen(["sharpness"], "m")["sharpness"]
    bar = Bar(total=1)
    losses = values_of(measure, space, bar, 1.0)["loss"]
    assert losses == pytest.approx({t: dense.loss(t, {t: 1.0}) for t in space.tasks})
    assert bar.done == pytest.approx(1.0)


def test_everything_measured_says_what_it_is_in_the_unit_of_the_tasks():
    measured, quantities = made(["transfer", "sharpness", "feature_drift"])
    assert set(measured) == set(quantities)
    assert {"transfer", "sharpness", "feature_drift"} <= set(measured)
    assert quantities["transfer"].unit == "%"
    assert quantities["sharpness"].unit == "mean square"
    assert quantities["transfer"].format(0.5) == "50.0"
    assert quantities["transfer_gain"].unit == quantities["transfer_gain_error"].unit == "points"


def test_the_budget_leaves_out_what_does_not_fit_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr("saft.progress._noted", set())
    clock(monkeypatch, of_pass=1.0, of_score=1.0)
    some = measurement(["transfer", "hessian_eigenvalue", "feature_drift"], seconds=30)
    inside, costs = some._within_budget()
    assert list(inside) == ["transfer", "feature_drift"]
    assert costs["hessian_eigenvalue"].forwards > 30
    told = capsys.readouterr().err
    assert "measures of 3 models: at most 24 passes forward and 0 forward and backward" in told
    assert "about 24 s" in told
    assert "seconds: 30 leaves no room for hessian_eigenvalue (about 108 s)" in told


def test_the_search_of_a_coefficient_is_paid_by_the_first_measure_of_a_merge(monkeypatch, capsys):
    monkeypatch.setattr("saft.progress._noted", set())
    monkeypatch.setattr("saft.measure_models.time_estimate.seconds", lambda plan: 0.0)
    wanted = ["sharpness", "leave_one_out", "recovered"]

    def told(**options):
        clock(monkeypatch, of_pass=1.0, of_score=1.0)
        some = dataclasses.replace(measurement(wanted, **options), merge=TaskArithmeticOf())
        return list(some._within_budget()[0]), capsys.readouterr().err

    class TaskArithmeticOf:
        method = TaskArithmetic()

    search = 3 * (1 + len(TaskArithmetic.scaling_grid))
    inside, _ = told(seconds=12)
    assert inside == ["sharpness"]  # of which none is a merge: nothing is searched
    inside, text = told()
    assert inside == wanted
    assert f"at most {3 + 12 + 9 + search} passes forward and 3 forward and backward" in text
    assert f"about {3 + 12 + 9 + search + 3 * 3} s" in text


def test_scores_that_take_longer_than_a_pass_are_foretold(monkeypatch, capsys):
    """A metric of generated texts takes many passes: a measure of 11 s was foretold to take 1."""
    monkeypatch.setattr("saft.progress._noted", set())
    clock(monkeypatch, of_pass=1.0, of_score=20.0)
    some = measurement(["feature_drift", "transfer"], seconds=100)
    assert list(some._within_budget()[0]) == ["feature_drift"]
    told = capsys.readouterr().err
    assert "about 12 s" in told
    assert "leaves no room for transfer (about 240 s)" in told
    clock(monkeypatch, of_pass=1.0, of_score=20.0)
    without = measurement(["feature_drift"])
    without._within_budget()
    assert not without.space._scores  # which nobody asked for


def test_what_gives_nothing_is_told(capsys, monkeypatch):
    monkeypatch.setattr("saft.progress._noted", set())
    assert "adapter_gap" not in made(["adapter_gap", "transfer"])[0]
    assert "nothing is measured by adapter_gap: these models have nothing" in capsys.readouterr().err
    note_empty(["pairwise", "disentanglement"], ["a"])
    assert (
        "pairwise, disentanglement: they compare several models that have a task, and only 'a' has one"
        in (capsys.readouterr().err)
    )


def test_a_measure_that_cannot_be_made_does_not_lose_the_others(monkeypatch):
    """After an hour of measures, one that the memory did not hold ended in a traceback, and nothing was printed."""

    def fails(self, space):
        raise error

    problems, error = [], torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(FeatureDrift, "values", fails)
    assert list(made(["feature_drift", "transfer"], problems)[0]) == list(Transfer.quantities)
    error = UserError("base: is damaged")
    made(["feature_drift", "transfer"], problems)
    memory = "measures: feature_drift: not enough memory; leave it out, or take a smaller batch_size"
    assert problems == [memory, "base: is damaged"]
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        made(["feature_drift"], problems)


def test_only_what_was_measured_is_returned():
    assert list(made(["transfer"])[0]) == list(Transfer.quantities)
