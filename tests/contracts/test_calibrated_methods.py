"""What every method that reads data keeps to, whatever was collected; test_merge_methods.py is without data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saft.calibration import COLLECTORS
from saft.merging.method import Elementwise
from saft.merging.stream.block import Block
from saft.merging.stream.gathering import SUM_GRAIN, prepare
from tests.contracts.test_merge_methods import EVERYTHING

COLLECTING = [method for method in EVERYTHING if method.calibration]
every_method = pytest.mark.parametrize("method", COLLECTING, ids=repr)
every_elementwise = pytest.mark.parametrize(
    "method", [method for method in COLLECTING if isinstance(method, Elementwise)], ids=repr
)
KINDS = {"fisher": ["fisher"], "gram": ["gram", "gram_of_rows"], "coefficients": ["coefficients"]}


def statistic(kind, vectors, scale=1.0, seed=0):
    """A random statistic of this kind for task vectors [n_tasks, *shape], or None where there is none."""
    generator = torch.manual_seed(seed)
    tasks, *shape = vectors.shape
    if kind == "fisher":
        return torch.rand(vectors.shape, generator=generator) ** 8 * scale
    if kind == "coefficients":
        return torch.randn(tasks, 1, generator=generator)
    if len(shape) != 2:
        return None
    x = torch.randn(tasks, 7, shape[1 if kind == "gram" else 0], generator=generator)
    x[:, :, ::3] = 0  # inputs that are never used
    return x.mT @ x * scale


def merge(method, vectors, statistics):
    base = torch.zeros(vectors.shape[1:])
    block = Block(vectors, base, statistics={k: v for k, v in statistics.items() if v is not None})
    return prepare(method, len(vectors), base.numel(), lambda function: [function(block)])(block)


def shape_for(method, *shape):
    return (torch.Size(shape).numel(),) if isinstance(method, Elementwise) else shape


def test_every_collector_is_under_test():
    assert set(KINDS) == set(COLLECTORS.names()) == {method.calibration for method in COLLECTING}


@every_method
@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    tasks=st.integers(1, 4),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    scale=st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e12]),
    size=st.sampled_from([0.0, 1e-30, 1e-2, 1e3]),
)
def test_any_data_give_finite_vectors_and_nothing_is_changed(method, tasks, rows, columns, scale, size):
    shape = shape_for(method, rows, columns)
    vectors = torch.randn(tasks, *shape, generator=torch.manual_seed(1)) * size
    for kind in KINDS[method.calibration]:
        found = statistic(kind, vectors, scale)
        before = (vectors.clone(), None if found is None else found.clone())
        merged = merge(method, vectors, {kind: found})
        assert merged.shape == shape
        assert merged.dtype == torch.float32
        assert merged.isfinite().all()
        assert vectors.equal(before[0])
        assert found is None or found.equal(before[1])
        if size == 0:
            assert merged.count_nonzero() == 0


@every_method
def test_the_order_of_the_tasks_is_visible_in_the_last_bits_alone(method):
    vectors = torch.randn(4, *shape_for(method, 20, 20), generator=torch.manual_seed(0)) * 0.1
    order = [2, 0, 3, 1]
    for kind in KINDS[method.calibration]:
        found = statistic(kind, vectors)
        merged = merge(method, vectors, {kind: found})
        again = merge(method, vectors[order], {kind: found[order]})
        torch.testing.assert_close(again, merged, rtol=1e-3, atol=1e-5)


@every_method
def test_the_data_count(method):
    vectors = torch.randn(3, *shape_for(method, 8, 8), generator=torch.manual_seed(0))
    for kind in KINDS[method.calibration]:
        one, other = (merge(method, vectors, {kind: statistic(kind, vectors, seed=seed)}) for seed in (1, 2))
        assert not torch.allclose(one, other)


@every_elementwise
@pytest.mark.parametrize("grains", [1, 2, 3])
def test_the_size_of_the_blocks_does_not_change_a_bit(method, grains):
    vectors = torch.randn(3, 20_001, generator=torch.manual_seed(0)) * 1e-2
    (kind,) = KINDS[method.calibration]
    found = statistic(kind, vectors)
    expected = merge(method, vectors, {kind: found})

    length = grains * SUM_GRAIN
    blocks = []
    for start in range(0, vectors.shape[1], length):
        part = slice(start, start + length)
        own = found[:, part] if found.shape == vectors.shape else found
        size = vectors[:, part].shape[1]
        blocks.append(Block(vectors[:, part], torch.zeros(size), start=start, statistics={kind: own}))

    def over(function):
        return map(function, blocks)

    assert torch.cat(list(over(prepare(method, *vectors.shape, over)))).equal(expected)
