"""What the methods of whole tensors keep to through the stream."""

from __future__ import annotations

import itertools

import pytest
import torch

from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.stream.engine import stream

METHODS = [
    ("slerp", {}),
    ("karcher", {}),
    ("model_stock", {"filter_wise": True}),
    ("multi_slerp", {}),
    ("tsv_m", {}),
    ("iso_c", {}),
    ("iso_cts", {}),
    ("opcm", {}),
    ("knots", {}),
    ("wudi", {"iterations": 10}),
    ("doge", {"iterations": 10}),
]


@pytest.mark.parametrize(("method", "parameters"), METHODS)
def test_neither_threads_nor_tensors_beside_it_change_a_bit(checkpoints, method, parameters):
    base, models = checkpoints
    models = dict(itertools.islice(models.items(), 2))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(dict(stream(check(MergeConfig(method, base, models, parameters)))))
    finally:
        torch.set_num_threads(threads)
    assert all(found[0][name].equal(found[1][name]) for name in found[0])
    if method not in ("opcm", "knots", "doge"):  # those have a statistic of the whole model
        config = MergeConfig(method, base, models, parameters, exclude=["layer.1.*", "embeddings.*"])
        alone = dict(stream(check(config)))
        assert alone
        assert all(found[0][name].equal(alone[name]) for name in alone)
