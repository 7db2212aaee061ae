"""Random numbers of a block: functions of the seed, the tensor, the task and the place, and of nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saft.merging.stream.block import Block


def block(count, start=0, name="weight", seed=0, tasks=2):
    return Block(torch.zeros(tasks, count), torch.zeros(count), name, start, seed)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(start=st.integers(0, 300), count=st.integers(0, 100))
def test_any_cut_draws_the_same_numbers(start, count):
    assert block(400).uniform()[:, start : start + count].equal(block(400).uniform()[:, start:][:, :count])
    assert block(count, start).uniform().equal(block(400).uniform()[:, start : start + count])


@pytest.mark.parametrize("probability", [1e-50, 1e-9, 0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_kept_has_a_number_less_than_the_probability(probability, dtype):
    of = Block(torch.zeros(2, 10_000, dtype=dtype), torch.zeros(10_000, dtype=dtype), start=3)
    assert of.kept(probability).equal((of.uniform().float() < probability).to(dtype))


def test_they_are_uniform_in_the_unit_interval():
    drawn = block(100_000).uniform()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn[0], 10, 0, 1)
    assert ((counts - 10_000).abs() < 500).all()


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "bias"}])
def test_another_seed_or_tensor_draws_others(other):
    assert not block(50).uniform().equal(block(50, **other).uniform())
    assert not block(50).uniform()[0].equal(block(50).uniform()[1])


def test_a_compiled_model_draws_what_the_model_does():
    assert block(50, name="_orig_mod.weight").uniform().equal(block(50).uniform())


def test_a_whole_tensor_has_its_shape_and_the_same_numbers():
    whole = Block(torch.zeros(2, 3, 4), torch.zeros(3, 4), "weight")
    assert whole.uniform().shape == (2, 3, 4)
    assert whole.uniform().flatten(1).equal(block(12).uniform())


def test_the_numbers_stay_the_same_in_every_version():
    assert block(3).uniform()[0].tolist() == [0.49040114879608154, 0.8597574234008789, 0.22912001609802246]
