from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saft.errors import UserError
from saft.tasks import heads
from saft.tasks.heads import LinearHead, ZeroShotHead


def test_zero_shot_logits_are_scaled_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, texts = torch.randn(3, 5, generator=generator), torch.randn(2, 5, generator=generator)
    cosines = torch.nn.functional.cosine_similarity(texts[:, None], labels[None], dim=-1)
    torch.testing.assert_close(ZeroShotHead(labels, 20.0)(texts), 20.0 * cosines)


def test_zero_shot_is_frozen_and_linear_is_trained() -> None:
    assert not list(ZeroShotHead(torch.eye(2), 1.0).parameters())
    assert all(parameter.requires_grad for parameter in LinearHead(4, 2).parameters())


def test_heads_come_back_from_disk(tmp_path: Path) -> None:
    head = LinearHead(4, 2)
    torch.nn.init.normal_(head.weight)
    heads.save(head, tmp_path, "a")
    other = LinearHead(4, 2)
    assert heads.load(other, tmp_path, "a")
    assert torch.equal(head.weight, other.weight)
    assert not heads.load(other, tmp_path, "b")


def test_misfits_are_named(tmp_path: Path) -> None:
    heads.save(LinearHead(4, 2), tmp_path, "a")
    with pytest.raises(
        UserError, match=r"a.safetensors: does not fit the head of task 'a'.*size mismatch for weight"
    ):
        heads.load(LinearHead(4, 3), tmp_path, "a")
    broken = LinearHead(4, 2)
    broken.bias.data[0] = float("inf")
    heads.save(broken, tmp_path, "c")
    with pytest.raises(UserError, match="tensor bias holds NaN or infinite"):
        heads.load(LinearHead(4, 2), tmp_path, "c")
