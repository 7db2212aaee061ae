from __future__ import annotations

import pytest
import torch

from saft.errors import UserError
from saft.optim.pass_pairs import PassPairs


def test_passes_pair_replays_with_first_passes_and_leave_the_stream_where_it_was() -> None:
    passes = PassPairs()
    first = []
    for _ in range(3):
        passes.record([])
        first.append(torch.rand(2))
    resume = torch.get_rng_state()
    replayed = []
    with passes.replaying([]):
        for _ in range(3):
            with passes.replay():
                replayed.append(torch.rand(2))
                torch.rand(5)  # more than the first pass drew
    assert all(torch.equal(a, b) for a, b in zip(first, replayed, strict=True))
    assert torch.equal(torch.get_rng_state(), resume)
    assert len(passes) == 0


@pytest.mark.parametrize("replays", [0, 1, 3])
def test_passes_refuse_another_number_of_replays(replays: int) -> None:
    passes = PassPairs()
    for _ in range(2):
        passes.record([])

    def run() -> None:
        with passes.replaying([]):
            for _ in range(replays):
                with passes.replay():
                    pass

    with pytest.raises(UserError, match="replay"):
        run()
    assert len(passes) == 0


def test_passes_forget_all_but_the_one_that_runs() -> None:
    passes = PassPairs()
    passes.record([])
    passes.record([])
    passes.forget(keep_last=True)
    assert len(passes) == 1
    passes.drop_last()
    assert len(passes) == 0


def test_a_first_pass_that_was_left_before_its_backward_is_given_up() -> None:
    """It counted, and the next step was told that 2 micro-batches were accumulated and 1 replayed."""
    weight, passes = torch.ones(1, requires_grad=True), PassPairs()
    passes.record([weight])
    passes.record([weight])
    assert len(passes) == 1
    weight.sum().backward()
    passes.record([weight])
    assert len(passes) == 2
