from __future__ import annotations

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from saft.merging.stream.order_statistics import SUM_GRAIN, extremes, order_statistics, sums

DOUBLES = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 5e-324, -5e-324, 1.0, 1.0 + 2**-52, 1.0 + 2**-40]
)
DOUBLE_MATRICES = arrays.arrays(
    "float64", arrays.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=DOUBLES
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 1.0]
)
MATRICES = arrays.arrays("float32", arrays.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=FLOATS)


def in_blocks(matrix, length):
    blocks = [matrix[:, start : start + length] for start in range(0, matrix.shape[1], length)]
    return lambda function: map(function, blocks)


def bits(tensor):
    return (tensor + 0.0).view(torch.int32 if tensor.dtype == torch.float32 else torch.int64).tolist()


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=150)
@given(matrix=MATRICES | DOUBLE_MATRICES, length=st.integers(1, 50), data=st.data())
def test_order_statistics_equal_sorting_to_the_bit(matrix, length, data):
    matrix = torch.from_numpy(matrix)  # float32 takes two passes, float64 four
    ranks = data.draw(st.lists(st.integers(0, matrix.shape[1] - 1), min_size=1, max_size=4))
    found = order_statistics(in_blocks(matrix, length), ranks)
    assert bits(found) == bits(matrix.sort(dim=1).values[:, ranks])


@pytest.mark.parametrize("k", [1, 2, 5000, 7999, 8000, 9999, 10000])
@pytest.mark.parametrize("kind", ["normal", "bfloat16", "ties", "sparse"])
def test_magnitudes_equal_kthvalue_to_the_bit(kind, k):
    values = torch.randn(2, 10_000, generator=torch.manual_seed(k)) * 1e-3
    if kind == "bfloat16":
        values = values.bfloat16().float()
    if kind == "ties":
        values = values.mul(2000).round()
    if kind == "sparse":
        values = values * (torch.rand(values.shape) < 0.1)
    found = order_statistics(in_blocks(values.abs(), 4096), (k - 1,))
    assert bits(found[:, 0]) == bits(values.abs().kthvalue(k, dim=1).values)


@pytest.mark.parametrize("statistic", [lambda over: order_statistics(over, (0,)), extremes, sums])
def test_an_empty_stream_has_no_statistics(statistic):
    with pytest.raises(ValueError, match="empty stream"):
        statistic(lambda function: [])


def test_extremes_are_those_of_the_whole_stream():
    matrix = torch.randn(3, 1000)
    assert extremes(in_blocks(matrix, 7)).equal(torch.stack(matrix.aminmax(dim=1), dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("grains", [1, 2, 5, 100])
def test_sums_are_the_same_bits_whatever_the_blocks_and_the_threads(grains, rows, dtype):
    matrix = torch.randn(rows, 50_000, generator=torch.manual_seed(0), dtype=dtype)
    expected = sums(in_blocks(matrix, SUM_GRAIN))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert sums(in_blocks(matrix, grains * SUM_GRAIN)).equal(expected)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(expected, matrix.double().sum(dim=1, keepdim=True))
