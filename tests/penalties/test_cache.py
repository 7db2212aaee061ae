"""The cache: complete or absent, and told where it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saft.errors import UserError
from saft.penalties.cache import cached, digest

CPU = torch.device("cpu")


def test_it_computes_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"a": torch.arange(6.0).view(2, 3).T}

    for _ in range(2):
        assert torch.equal(cached(tmp_path, lambda: "key", compute, CPU)["a"], compute()["a"])
        calls.pop()
    assert calls == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["key.safetensors"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def compute() -> dict[str, torch.Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, lambda: "key", compute, CPU)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "key.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"key\.safetensors: is damaged .* delete it"):
        cached(tmp_path, lambda: "key", dict, CPU)


def test_the_digest_tells_apart_names_shapes_types_values_and_facts() -> None:
    a = torch.zeros(2, 3)
    others = [{"b": a}, {"a": a.view(3, 2)}, {"a": a.half()}, {"a": a + 1}, {"a": torch.zeros(0)}]
    digests = [digest([{"a": a}], 1), digest([{"a": a}], 2), *(digest([part], 1) for part in others)]
    assert len(set(digests)) == len(digests)
