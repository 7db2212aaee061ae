from __future__ import annotations

import random

import numpy
import pytest
import torch

from saft.optim.random_streams import RandomStreams


def test_streams_rewind_again_and_again() -> None:
    streams = RandomStreams([torch.device("cpu"), torch.device("meta")])
    draws = []
    for _ in range(3):
        streams.rewind()
        draws.append(torch.tensor([*torch.rand(3), numpy.random.rand(), random.random()]))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_apples_generator_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in torch 2.4, whose functions take no device."""
    kept = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "state")
    monkeypatch.setattr(torch.mps, "set_rng_state", kept.append)
    RandomStreams([torch.device("mps", 0)]).rewind()
    assert kept == ["state"]
