"""Windows that a sample tells: most hold the quantile, and what is found in one pass is right to the bit or None."""

from __future__ import annotations

import pytest
import torch

from saft.merging.stream import windows as module
from saft.merging.stream.windows import Sample, values_in_windows


def whole(values):
    return lambda function: map(function, values.split(1000, dim=1))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.99])
def test_quantiles_are_found_in_one_pass_to_the_bit(share, sign):
    values = torch.randn(2, 100_000, generator=torch.manual_seed(0)).abs() * sign
    rank = int(share * 100_000)
    found = values_in_windows(whole(values), (rank,), Sample(whole(values[:, ::2]), 100_000))
    assert found is not None
    assert found[:, 0].equal(values.kthvalue(rank + 1, dim=1).values)


def test_the_first_and_the_last_need_no_window_and_a_rank_may_come_twice():
    values = torch.randn(3, 5000, generator=torch.manual_seed(0))
    sample = Sample(whole(values[:, :7]), 5000)
    found = values_in_windows(whole(values), (0, 4999, 4999), sample)
    assert found.equal(values.sort(dim=1).values[:, (0, 4999, 4999)])


def test_a_rank_outside_of_its_window_has_no_answer():
    values = torch.rand(2, 5000, generator=torch.manual_seed(0)) + 1
    for sample in (values + 1, values * 0.4, -values, torch.cat([values[:1], values[:1] + 2])):
        assert values_in_windows(whole(values), (2500,), Sample(whole(sample), 5000)) is None


def test_a_sample_of_another_stream_has_no_answer():
    values = torch.rand(2, 5000, generator=torch.manual_seed(0))
    for count in (4000, 6000):
        assert values_in_windows(whole(values), (100, count - 1), Sample(whole(values), count)) is None


def test_other_floats_have_no_answer():
    values = torch.rand(2, 5000, generator=torch.manual_seed(0), dtype=torch.float64)
    assert values_in_windows(whole(values), (100, 4999), Sample(whole(values), 5000)) is None


def test_windows_take_no_more_counters_than_they_may(monkeypatch):
    sample = torch.rand(4, 1000, generator=torch.manual_seed(0)) + 1

    def steps(*ranks):
        return sum(window.size for window in module._windows(sample, ranks, 100_000)) // module._STEP

    wide = steps(50_000)
    monkeypatch.setattr(module, "_MOST", wide - 1)
    assert 0 < steps(50_000) < wide
    monkeypatch.setattr(module, "_MOST", 3)
    assert steps(50_000) == 0  # none, and so no answer
    assert values_in_windows(whole(sample), (500,), Sample(whole(sample), 1000)) is None


@pytest.mark.parametrize("middle", [-0.01, 0.01])
def test_a_window_stays_on_the_side_of_zero_where_its_middle_is(middle):
    low, between, high = (
        int(module._ordered(torch.tensor(value).view(torch.int32).numpy())) for value in (-0.1, middle, 0.1)
    )
    window = module._window(0, low, between, high)
    ends = torch.tensor([window.low, window.low + window.size - 1], dtype=torch.int32).view(torch.float32)
    nearest, farthest = sorted(ends.abs().tolist())
    assert nearest == 0
    assert 0.1 <= farthest < 0.101
    assert (ends * middle >= 0).all()
