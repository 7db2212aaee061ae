"""The trace against the Hessian written out."""

from __future__ import annotations

import math

import pytest

from saft.interference.hessian_trace import HessianTrace, hessian_trace
from tests.oracles.interference import dense_hessian


def test_agrees_with_the_dense_hessian_within_its_error(space):
    probe = space.probes["a"]
    trace, error = hessian_trace(space.trunk, probe.loss, probe.batches, n_samples=400)
    exact = dense_hessian(space.trunk, probe.loss, probe.batches).trace().item()
    assert error is not None
    assert abs(trace - exact) < 4 * error
    assert error < 0.2 * abs(exact)


def test_of_a_loss_that_is_not_finite_it_is_not_known(space):
    probe = space.probes["a"]
    trace, error = hessian_trace(space.trunk, lambda batch: probe.loss(batch) * math.nan, probe.batches)
    assert math.isnan(trace)
    assert error is None


def test_one_sample_has_no_error(space):
    probe = space.probes["a"]
    measured = HessianTrace(n_samples=1).values(space.trunk, probe.loss, probe.batches)
    assert list(measured) == ["hessian_trace"]


def test_the_seed_draws_the_vectors(space):
    probe = space.probes["a"]
    first, again, other = (
        hessian_trace(space.trunk, probe.loss, probe.batches, n_samples=2, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first[0] != pytest.approx(other[0])
