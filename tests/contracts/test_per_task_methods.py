"""What every method that keeps a part per task keeps to, whatever it keeps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings

from saft.merging.method import Elementwise, Tensorwise
from saft.merging.per_task import PerTaskMethod
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors
from saft.merging.stream.gathering import SUM_GRAIN, run_steps
from tests.contracts.test_merge_methods import EVERYTHING, task_vectors

KEEPING = [method for method in EVERYTHING if isinstance(method, PerTaskMethod)]
every_method = pytest.mark.parametrize("method", KEEPING, ids=repr)
every_elementwise = pytest.mark.parametrize(
    "method", [method for method in KEEPING if isinstance(method, Elementwise)], ids=repr
)
every_tensorwise = pytest.mark.parametrize(
    "method", [method for method in KEEPING if isinstance(method, Tensorwise)], ids=repr
)
SHAPES = [(), (1,), (7,), (0,), (1, 5), (6, 1), (3, 4), (5, 3), (0, 4), (2, 3, 2, 2)]


def kept(method, block):
    """Run a method that asks for the statistics of one block."""
    return run_steps(method.split(block.tasks, block.base.numel()), lambda function: [function(block)])


@every_method
@settings(deadline=None, derandomize=True, max_examples=40)
@given(vectors=task_vectors())
def test_any_input_gives_finite_vectors_and_is_left_alone(method, vectors):
    shape = vectors.shape if isinstance(method, Elementwise) else (*vectors.shape[:1], 1, *vectors.shape[1:])
    vectors = vectors.view(shape)
    before = vectors.clone()
    found = merge_task_vectors(method, vectors)
    assert vectors.equal(before)
    assert found.dtype == torch.float32
    assert found.shape == vectors.shape
    assert found.isfinite().all()


@every_method
@pytest.mark.parametrize("tasks", [1, 3])
def test_zeros_give_zeros(method, tasks):
    assert merge_task_vectors(method, torch.zeros(tasks, 4, 6).flatten(1)).count_nonzero() == 0
    if isinstance(method, Tensorwise):
        assert merge_task_vectors(method, torch.zeros(tasks, 4, 6)).count_nonzero() == 0


@every_method
def test_one_task_alone_is_given_back(method):
    shape = (1, 500) if isinstance(method, Elementwise) else (1, 20, 25)
    vector = torch.randn(shape, generator=torch.manual_seed(0))
    torch.testing.assert_close(merge_task_vectors(method, vector), vector, rtol=1e-4, atol=1e-5)


@every_method
def test_the_order_of_the_tasks_is_visible_in_the_last_bits_alone(method):
    shape = (4, 2000) if isinstance(method, Elementwise) else (4, 50, 40)
    vectors = torch.randn(shape, generator=torch.manual_seed(0)) * 0.1
    found = merge_task_vectors(method, vectors)
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        permuted = merge_task_vectors(method, vectors[order])
        torch.testing.assert_close(permuted, found[order], rtol=1e-4, atol=1e-6)


@every_method
@pytest.mark.parametrize("shape", SHAPES)
def test_the_layout_says_what_is_kept(method, shape):
    vectors = torch.randn(3, *shape, generator=torch.manual_seed(0))
    if isinstance(method, Elementwise):
        vectors = vectors.view(3, math.prod(shape))
    if not vectors.numel() and isinstance(method, Elementwise):
        return  # an empty tensor has no block
    block = Block(vectors, torch.zeros(vectors.shape[1:]))
    found = kept(method, block)(block)
    layout = method.layout(shape)
    assert {name: (rows.dtype, tuple(rows.shape[1:])) for name, rows in found.parts.items()} == dict(layout)
    assert (found.vector is not None) == method.shares
    assert found.rescalers.dtype == torch.float64
    assert found.rescalers.isfinite().all()
    whole = method.restored(shape, found.vector, {name: rows[0] for name, rows in found.parts.items()}, 1.0)
    assert whole.shape == shape


@every_elementwise
@pytest.mark.parametrize("grains", [1, 2, 3])
def test_the_size_of_the_blocks_does_not_change_a_bit(method, grains):
    vectors = torch.randn(3, 20_001, generator=torch.manual_seed(0)) * 1e-2
    whole = Block(vectors, torch.zeros(vectors.shape[1]))
    function = kept(method, whole)
    length = grains * SUM_GRAIN
    parts = vectors.split(length, dim=1)
    blocks = [Block(part, torch.zeros(part.shape[1]), start=at * length) for at, part in enumerate(parts)]
    found, expected = [function(block) for block in blocks], function(whole)
    assert torch.cat([part.vector for part in found]).equal(expected.vector)
    for name, rows in expected.parts.items():
        assert torch.cat([part.parts[name] for part in found], dim=-1).equal(rows)


@every_tensorwise
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if math.prod(shape)])
def test_tensors_of_any_shape_keep_it_and_are_finite(method, shape):
    for vectors in (torch.randn(3, *shape, generator=torch.manual_seed(0)), torch.zeros(3, *shape)):
        found = merge_task_vectors(method, vectors)
        assert found.shape == vectors.shape
        assert found.isfinite().all()


@every_elementwise  # the reader gives one thread to a method of whole tensors: tests/merging/test_parts.py
def test_threads_do_not_change_a_bit(method):
    vectors = torch.randn(3, 300_000, generator=torch.manual_seed(0)) * 1e-2
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(merge_task_vectors(method, vectors))
    finally:
        torch.set_num_threads(threads)
    assert found[0].equal(found[1])
