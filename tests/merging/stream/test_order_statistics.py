"""Order statistics equal sorting to the bit, whatever a sample says; a sample that is like the whole saves a pass."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from saft.merging.stream import order_statistics as module
from saft.merging.stream.order_statistics import order_statistics, passes_of
from saft.merging.stream.windows import Sample

DOUBLES = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 5e-324, -5e-324, 1.0, 1.0 + 2**-52, 1.0 + 2**-40]
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 1.0, 1.0 + 2**-20, -1.0, -1.0 - 2**-20]
)
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=20)
MATRICES = arrays("float32", SHAPES, elements=FLOATS) | arrays("float64", SHAPES, elements=DOUBLES)
COUNTED, SORTED = 0, module._SMALL  # entries that are sorted at once: none, and those of all tests here


class Blocks:
    """A matrix as a stream, which counts how often it is gone over."""

    def __init__(self, matrix, length):
        self.blocks = [matrix[:, start : start + length] for start in range(0, matrix.shape[1], length)]
        self.passes = 0

    def __call__(self, function):
        self.passes += 1
        return map(function, self.blocks)


def bits(tensor):
    return (tensor + 0.0).view(torch.int32 if tensor.dtype == torch.float32 else torch.int64).tolist()


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    small=st.sampled_from([COUNTED, 7, SORTED]), matrix=MATRICES, length=st.integers(1, 50), data=st.data()
)
def test_order_statistics_equal_sorting_to_the_bit_whatever_the_sample(small, matrix, length, data):
    matrix = torch.from_numpy(matrix)
    count = matrix.shape[1]
    ranks = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4))
    kinds = st.sampled_from(["none", "part", "whole", "misleading"])
    kind = data.draw(kinds)
    sample = {
        "none": None,
        "part": matrix[:, :: data.draw(st.integers(1, 3))],
        "whole": matrix,
        "misleading": matrix.flip(0) * -0.5 + 1,
    }[kind]
    sampled = sample is not None and matrix.dtype == torch.float32
    like = Sample(Blocks(sample, 3), count) if sampled else None
    with mock.patch.object(module, "_SMALL", small):
        found = order_statistics(Blocks(matrix, length), ranks, like)
    assert found.dtype == matrix.dtype
    assert bits(found) == bits(matrix.sort(dim=1).values[:, ranks])


def drawn(kind, seed, count=10_000):
    values = torch.randn(2, count, generator=torch.manual_seed(seed)) * 1e-3
    if kind == "bfloat16":
        values = values.bfloat16().float()
    if kind == "ties":
        values = values.mul(2000).round()
    if kind == "sparse":
        values = values * (torch.rand(values.shape) < 0.1)
    return values


@pytest.mark.parametrize("small", [COUNTED, SORTED])
@pytest.mark.parametrize("k", [1, 2, 5000, 7999, 8000, 9999, 10000])
@pytest.mark.parametrize("kind", ["normal", "bfloat16", "ties", "sparse"])
def test_magnitudes_equal_kthvalue_to_the_bit(kind, k, small, monkeypatch):
    monkeypatch.setattr(module, "_SMALL", small)
    values = drawn(kind, k).abs()
    for sample in (None, Sample(Blocks(values[:, ::10], 64), 10_000)):
        found = order_statistics(Blocks(values, 4096), (k - 1,), sample)
        assert bits(found[:, 0]) == bits(values.kthvalue(k, dim=1).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_passes_are_as_many_as_are_promised(dtype, monkeypatch):
    values = drawn("normal", 0).to(dtype)
    for small in (COUNTED, SORTED):
        monkeypatch.setattr(module, "_SMALL", small)
        stream = Blocks(values, 4096)
        assert bits(order_statistics(stream, (5000,))) == bits(values.sort(dim=1).values[:, (5000,)])
        assert stream.passes == passes_of(dtype, 10_000)


@pytest.mark.parametrize("kind", ["normal", "bfloat16", "ties", "sparse"])
def test_a_sample_like_the_whole_saves_a_pass_and_another_costs_one(kind, monkeypatch):
    monkeypatch.setattr(module, "_SMALL", COUNTED)
    count = 100_000
    values = drawn(kind, 1, count)
    ranks = (0, count // 100, count // 3, int(count * 0.97), count - 1)
    expected = values.sort(dim=1).values[:, ranks]
    passes = {}
    for name, part in {
        "like": values[:, ::2],
        "unlike": values[:, ::2] * 100 - 1,
        "empty": values[:, :0],
    }.items():
        stream = Blocks(values, 4096)
        found = order_statistics(stream, ranks, Sample(lambda function, part=part: [function(part)], count))
        assert bits(found) == bits(expected)
        passes[name] = stream.passes
    assert passes == {"like": 1, "unlike": 3, "empty": 2}


def test_a_small_stream_is_gone_over_once_in_whatever_blocks():
    values = drawn("normal", 3)
    for length in (1, 1000, 10_000):
        stream = Blocks(values, length)
        found = order_statistics(stream, (0, 5000, 9999))
        assert (stream.passes, bits(found)) == (1, bits(values.sort(dim=1).values[:, (0, 5000, 9999)]))


def test_an_empty_stream_has_no_statistics():
    with pytest.raises(ValueError, match="empty stream"):
        order_statistics(lambda function: [], (0,))
