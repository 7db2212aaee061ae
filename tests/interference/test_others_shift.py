"""The shift that merging makes, against losses of models written out, and against random shifts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from saft.interference.others_shift import OthersShift
from saft.interference.task_space import TaskSpace
from tests.oracles.toy_space import ToyProbe


def test_agrees_with_the_dense_models(space, dense):
    measured = OthersShift(coefficient=0.5).values(space)
    for t in space.tasks:
        own, others = dense.loss(t, {t: 1.0}), [s for s in space.tasks if s != t]
        for s in others:
            rise = dense.loss(t, {t: 1.0, s: 0.5}) - own
            assert measured["shift_by_other"][t][s] == pytest.approx(rise, abs=1e-5)
        rise = dense.loss(t, {t: 1.0} | dict.fromkeys(others, 0.5)) - own
        assert measured["shift_by_others"][t] == pytest.approx(rise, abs=1e-5)


def test_random_shifts_are_as_long_as_the_others_and_follow_the_seed(space):
    lengths, losses = [], []
    shifted = space.shifted

    def recorded(task, point, shift):
        lengths.append(sum(part.square().sum().item() for part in shift.values()) ** 0.5)
        losses.append(shifted(task, point, shift).loss)
        return shifted(task, point, shift)

    space.shifted = recorded
    measured = OthersShift(coefficient=0.5, samples=3).values(space)
    first, of_first = measured["shift_at_random"], losses[:3]
    mean = sum(of_first) / 3
    squares = sum((loss - mean) ** 2 for loss in of_first)
    assert measured["shift_at_random_error"]["a"] == pytest.approx((squares / 2 / 3) ** 0.5)
    assert "shift_at_random_error" not in OthersShift(samples=1).values(space)
    norms = {
        task: sum(part.square().sum().item() for part in space.task_vector(task).values()) ** 0.5
        for task in space.tasks
    }
    assert lengths[:3] == pytest.approx([0.5 * (norms["b"] + norms["c"]) / 2] * 3, rel=1e-5)
    assert OthersShift(coefficient=0.5, samples=3).values(space)["shift_at_random"] == first
    assert OthersShift(coefficient=0.5, samples=3, seed=1).values(space)["shift_at_random"] != first


def test_random_shifts_leave_the_statistics_of_batch_norms():
    """A random step takes a small variance below 0, where the norm divides by no number."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    trunk[1].running_var.fill_(1e-3)
    state = {name: value for name, value in trunk.state_dict().items() if value.is_floating_point()}
    base = {name: value.clone() for name, value in state.items()}
    experts = {
        task: {n: v + (0.0 if n == "1.running_var" else 0.3 * torch.randn(v.shape)) for n, v in base.items()}
        for task in "ab"
    }
    space = TaskSpace(trunk, base, experts, {task: ToyProbe(trunk, seed) for seed, task in enumerate("ab")})
    assert space.trained == ["0.weight", "0.bias", "1.weight", "1.bias"]
    shifts = []
    shifted = space.shifted
    space.shifted = lambda task, point, shift: shifts.append(shift) or shifted(task, point, shift)
    measured = OthersShift(coefficient=1.0, samples=8).values(space)["shift_at_random"]
    assert all(map(math.isfinite, measured.values()))
    own = torch.cat([(experts["b"][name] - base[name]).flatten() for name in space.trained]).norm()
    for shift in shifts[:8]:
        assert torch.cat([part.flatten() for part in shift.values()]).norm().item() == pytest.approx(
            own.item()
        )
    statistics = {name: base[name] for name in ("1.running_mean", "1.running_var")}
    alone = TaskSpace(trunk, statistics, {task: dict(statistics) for task in "ab"}, space.probes)
    assert set(OthersShift().values(alone)["shift_at_random"].values()) == {0.0}
