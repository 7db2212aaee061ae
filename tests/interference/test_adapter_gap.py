"""Adapters beside the base against weights that are rounded."""

from __future__ import annotations

import torch
from torch import nn

from saft.interference.adapter_gap import AdapterGap
from saft.interference.task_space import TaskSpace
from saft.merging.inputs.factors import Factors


def adapted(space, dtype):
    """Return the space of an adapter on the first layer, its base stored in a dtype, and the adapter."""
    base = {name: value.to(dtype) for name, value in space.base.items()}
    factors = Factors(torch.full((1, 4), 0.01), torch.full((5, 1), 0.3), scale=2.0)
    change = factors.change((5, 4))
    expert = {name: value.float() for name, value in base.items()}
    expert["0.weight"] = expert["0.weight"] + change
    return TaskSpace(
        space.trunk, base, {"a": expert}, space.probes, adapters={"a": {"0.weight": factors}}
    ), change


def test_in_float32_both_are_one(space):
    gap = AdapterGap().values(adapted(space, torch.float32)[0])["adapter_gap"]["a"]
    assert 0 <= gap < 1e-6


def test_in_bfloat16_it_is_the_difference_of_the_two_models_written_out(space):
    rounded, change = adapted(space, torch.bfloat16)
    probe, base = space.probes["a"], {name: value.float() for name, value in rounded.base.items()}

    def outputs(weight):
        return torch.func.functional_call(space.trunk, base | {"0.weight": weight}, probe.x) @ probe.head.T

    exact = base["0.weight"] + change
    expected = (outputs(exact) - outputs(exact.bfloat16().float())).abs().max()
    gap = AdapterGap().values(rounded)["adapter_gap"]["a"]
    assert gap > 1e-4
    assert abs(gap - expected.item()) < 1e-6


def test_whole_models_have_none(space):
    assert AdapterGap().values(space) == {}
    factors = Factors(torch.ones(1, 2), torch.ones(2, 1))
    of_embedding = TaskSpace(
        nn.Embedding(2, 2), {}, {"a": {}}, space.probes, adapters={"a": {"weight": factors}}
    )
    assert AdapterGap().values(of_embedding) == {}
