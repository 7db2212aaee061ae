"""NuSLERP against the formula, in two dimensions, and at its edges. mergekit's numbers: test_mergekit.py."""

from __future__ import annotations

import math

import pytest
import torch

from saft.merging.methods.nuslerp import NuSlerp
from saft.merging.stream.engine import merge_task_vectors


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (3.0, 1.0), (1.0, 0.0), (2.0, -0.5)])
def test_on_the_circle_it_goes_by_the_share_of_the_second(first, second):
    vectors = torch.tensor([[1.0, 0.0], [math.cos(0.4), math.sin(0.4)]])
    merged = merge_task_vectors(NuSlerp(weights=(first, second)), vectors)
    angle = 0.4 * second / (first + second)
    torch.testing.assert_close(merged, torch.tensor([math.cos(angle), math.sin(angle)]))


def test_around_the_base_the_task_vectors_are_interpolated():
    vectors, base = torch.randn(2, 30, generator=torch.manual_seed(0)), torch.full((30,), 5.0)
    around_base = merge_task_vectors(NuSlerp(center="base"), vectors, base)
    torch.testing.assert_close(around_base, merge_task_vectors(NuSlerp(), vectors))
    around_zero = merge_task_vectors(NuSlerp(), vectors, base)
    assert not torch.allclose(around_base, around_zero, atol=1e-3)


def test_where_there_is_no_angle_it_is_a_line_and_without_weight_the_middle():
    vectors = torch.tensor([[1.0, 1.0], [-3.0, -3.0]])
    torch.testing.assert_close(merge_task_vectors(NuSlerp(weights=(3.0, 1.0)), vectors), torch.zeros(2))
    orthogonal = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(
        merge_task_vectors(NuSlerp(weights=(1.0, -1.0)), orthogonal), torch.tensor([0.0, 2.0 * 0.5**0.5])
    )
