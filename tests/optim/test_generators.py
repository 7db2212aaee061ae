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


def test_integers_are_uniform_over_16_bits_and_independent_of_one_another() -> None:
    slot = SimpleNamespace(buffer=torch.zeros(1), shard=())
    drawn = Generators(0, 7).integers(slot, 400_001).long()  # type: ignore[arg-type]
    assert drawn.shape == (400_001,)
    assert -32768 <= drawn.min() < -32700
    assert 32700 < drawn.max() <= 32767
    uniform = (drawn.double() + 0.5) / 32768
    assert uniform.mean().abs() < 5 / 3**0.5 / 400_001**0.5
    assert (uniform.square().mean() - 1 / 3).abs() < 0.005
    for lag in range(1, 9):  # those of one random number of 64 bits, and of the next
        assert (uniform[lag:] * uniform[:-lag]).mean().abs() < 5 / 3 / 400_000**0.5
    assert len(torch.unique(drawn)) > 65_000
    for bit in range(16):
        assert ((drawn >> bit) & 1).double().mean().sub(0.5).abs() < 0.005
