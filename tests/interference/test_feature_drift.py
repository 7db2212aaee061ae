"""Drift against features of models written out."""

from __future__ import annotations

import pytest

from saft.interference.feature_drift import FeatureDrift


def unit(row):
    length = sum(x * x for x in row) ** 0.5
    return [x / length for x in row]


def test_agrees_with_the_dense_models(space, dense):
    measured = FeatureDrift().values(space)
    for s in space.tasks:
        for t in space.tasks:
            moved, base = dense.features(t, {s: 1.0}).tolist(), dense.features(t, {}).tolist()
            squares = [
                sum((x - y) ** 2 for x, y in zip(unit(a), unit(b), strict=True))
                for a, b in zip(moved, base, strict=True)
            ]
            assert measured["feature_drift"][s][t] == pytest.approx(sum(squares) / 12, rel=1e-4)
            pairs = zip(dense.predictions(t, {s: 1.0}), dense.predictions(t, {}), strict=True)
            changed = sum(a != b for a, b in pairs) / 12
            assert measured["changed_predictions"][s][t] == pytest.approx(changed)
