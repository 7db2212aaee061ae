"""Cross-task linearity against features of models written out."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from saft.interference.cross_task_linearity import CrossTaskLinearity


def test_agrees_with_the_dense_models(space, dense):
    measured = CrossTaskLinearity(alpha=0.25).values(space)["cross_task_nonlinearity"]

    def layers(task, coefficients):
        weights, x = dense.weights(coefficients), space.probes[task].x
        first = torch.nn.functional.linear(x, weights["0.weight"], weights["0.bias"])
        return {"0": first, "2": functional_call(space.trunk, weights, x)}

    for s, t in (("a", "b"), ("a", "c"), ("b", "c")):
        for layer in ("0", "2"):
            cosines = []
            for task in (s, t):
                expected = 0.25 * layers(task, {s: 1.0})[layer] + 0.75 * layers(task, {t: 1.0})[layer]
                between = layers(task, {s: 0.25, t: 0.75})[layer]
                cosines += torch.nn.functional.cosine_similarity(between, expected, dim=-1).tolist()
            assert measured[s][t][layer] == pytest.approx(1 - sum(cosines) / 24, abs=1e-5)
        assert measured[s][t]["0"] == pytest.approx(0, abs=1e-6)  # a linear layer of the same inputs
        assert measured[s][t]["2"] > 1e-4
