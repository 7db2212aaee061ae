from __future__ import annotations

import random

import numpy
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
