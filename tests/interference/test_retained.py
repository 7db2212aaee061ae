"""What a merged model keeps of its experts' scores."""

from __future__ import annotations

import math

import pytest

from saft.interference import gain_kept, normalized


@pytest.mark.parametrize(
    ("merged", "expert", "higher", "share"),
    [
        (0.6, 0.8, True, 0.75),
        (0.9, 0.8, True, 1.125),
        (20.0, 10.0, False, 0.5),
        (0.0, 0.8, True, 0.0),
        (0.1, 0.0, True, None),
        (10.0, 0.0, False, 0.0),
        (-1.0, 2.0, True, None),
        (math.inf, 10.0, False, None),
        (0.5, math.nan, True, None),
    ],
)
def test_normalized(merged, expert, higher, share):
    assert normalized(merged, expert, higher) == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("merged", "base", "expert", "share"),
    [
        (0.7, 0.5, 0.9, 0.5),
        (20.0, 30.0, 10.0, 0.5),  # lower is better: the same share
        (0.4, 0.5, 0.9, -0.25),
        (0.5, 0.5, 0.5, None),
        (math.inf, 30.0, 10.0, None),
    ],
)
def test_gain_kept(merged, base, expert, share):
    assert gain_kept(merged, base, expert) == (None if share is None else pytest.approx(share))
