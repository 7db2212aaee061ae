from __future__ import annotations

import torch

from saft.optim.random_streams import RandomStreams


def test_streams_rewind_again_and_again() -> None:
    streams = RandomStreams([torch.device("cpu"), torch.device("meta")])
    draws = []
    for _ in range(3):
        streams.rewind()
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])
