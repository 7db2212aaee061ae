from __future__ import annotations

import torch

from saft.optim.memory import Memory


def test_it_is_numbered_by_position_and_loaded_as_a_copy() -> None:
    first, second = torch.zeros(2), torch.zeros(2)
    memory = Memory({second: {"average": torch.ones(2)}, first: {}})
    saved = memory.by_position([first, second])
    assert list(saved) == [1]
    other = Memory({first: {"average": torch.zeros(2)}})
    other.load({"1": saved[1]}, [first, second])  # keys as JSON would have them
    assert list(other) == [second]
    other[second]["average"].add_(1)
    assert torch.equal(memory[second]["average"], torch.ones(2))
