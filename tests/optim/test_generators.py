"""Generators: which random numbers a slot gets."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from saft.optim.generators import Generators


def numbers(generators: Generators, *shard: int) -> list[float]:
    slot = SimpleNamespace(buffer=torch.zeros(1), shard=shard)
    return torch.rand(3, generator=generators.of(slot)).tolist()  # type: ignore[arg-type]


def test_the_numbers_depend_on_the_key_and_the_shard_and_go_on_from_slot_to_slot() -> None:
    first = numbers(Generators(0, 7, "noise"))
    assert numbers(Generators(0, 7, "noise")) == first
    others = [Generators(1, 7, "noise"), Generators(0, 8, "noise"), Generators(0, 7, "mask")]
    assert all(numbers(other) != first for other in others)
    assert numbers(Generators(0, 7, "noise"), 1) != first
    stream = Generators(0, 7, "noise")
    assert numbers(stream) == first
    assert numbers(stream) != first


def test_whole_tensors_beside_shards_get_the_same_numbers_on_every_rank() -> None:
    ranks = [Generators(0, 7) for _ in range(2)]
    sharded = [numbers(generators, rank) for rank, generators in enumerate(ranks)]
    assert sharded[0] != sharded[1]
    assert numbers(ranks[0]) == numbers(ranks[1])
