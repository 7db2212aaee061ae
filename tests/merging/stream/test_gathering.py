"""Extremes and sums of a stream, and how many passes a method asks for."""

from __future__ import annotations

import pytest
import torch

from saft.merging.methods.pcb import Pcb
from saft.merging.methods.task_arithmetic import TaskArithmetic
from saft.merging.methods.ties import Ties
from saft.merging.stream.gathering import SUM_GRAIN, extremes, passes_needed, sums


def in_blocks(matrix, length):
    blocks = [matrix[:, start : start + length] for start in range(0, matrix.shape[1], length)]
    return lambda function: map(function, blocks)


@pytest.mark.parametrize("statistic", [extremes, sums])
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


@pytest.mark.parametrize(
    ("method", "passes"), [(TaskArithmetic(), 1), (Ties(), 5), (Ties(density=1.0), 2), (Pcb(), 7)]
)
def test_every_order_statistic_takes_its_passes(method, passes):
    assert passes_needed(method, 3, ordered=3) == passes
