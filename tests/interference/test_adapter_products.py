"""Inner products of adapters against the changes written out, and the measures that are made of them."""

from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.interference import InterferenceAccumulator
from saft.interference.adapter_products import adapter_products
from saft.merging.inputs.factors import Factors


def adapter(seed, rank, transposed=False):
    draw = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, 5, generator=draw), torch.randn(4, rank, generator=draw)
    return Factors(down, up, scale=0.5 * rank, transposed=transposed)


@pytest.mark.parametrize("transposed", [False, True])
def test_agrees_with_the_changes_written_out(transposed):
    factors = [adapter(0, 2, transposed), None, adapter(1, 3, transposed)]
    shape = (5, 4) if transposed else (4, 5)
    changes = torch.stack([torch.zeros(shape) if one is None else one.change(shape) for one in factors])
    flat = changes.double().flatten(1)
    assert torch.allclose(adapter_products(factors), flat @ flat.T, rtol=1e-6)


def test_norms_and_cosines_are_those_of_the_changes():
    factors = {"layer.0.w": [adapter(0, 2), adapter(1, 2)], "layer.1.w": [adapter(2, 1), adapter(3, 4)]}
    small = InterferenceAccumulator(["a", "b"], measures=["norm", "cosine"])
    whole = InterferenceAccumulator(["a", "b"], measures=["norm", "cosine"])
    for name, pair in factors.items():
        small.update_products(adapter_products(pair), name, 20)
        whole.update(torch.stack([one.change((4, 5)) for one in pair]), name)
    measured, expected = small.compute(), whole.compute()
    assert measured.n_entries == expected.n_entries == 40
    assert measured.measured["norm"] == pytest.approx(expected.measured["norm"], rel=1e-6)
    for layer, cosines in expected.measured["cosine_by_layer"].items():
        own = measured.measured["cosine_by_layer"][layer]
        assert own["a"]["b"] == pytest.approx(cosines["a"]["b"], abs=1e-6)


def test_what_needs_every_entry_is_not_made_of_products():
    accumulator = InterferenceAccumulator(["a"], measures=["norm", "sign_conflict"])
    assert not accumulator.takes_products
    broken = Factors(torch.tensor([[float("nan")]]), torch.ones(1, 1))
    with pytest.raises(UserError, match=r"'a'.*NaN or infinity"):
        InterferenceAccumulator(["a"], measures=["norm"]).update_products(adapter_products([broken]), "w", 1)
