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
    other = heads.load(tmp_path, "a", 2)
    assert isinstance(other, LinearHead)
    assert torch.equal(head.weight, other.weight)
    assert heads.load(tmp_path, "b", 2) is None
    zero_shot = ZeroShotHead(torch.randn(3, 4), 20.0)
    heads.save(zero_shot, tmp_path, "z")
    again = heads.load(tmp_path, "z", 3)
    assert isinstance(again, ZeroShotHead)
    assert torch.equal(zero_shot.label_embeddings, again.label_embeddings)


def test_misfits_are_named(tmp_path: Path) -> None:
    heads.save(LinearHead(4, 2), tmp_path, "a")
    with pytest.raises(UserError, match=r"a.safetensors: is a head for 2 labels, but task 'a' has 3"):
        heads.load(tmp_path, "a", 3)
    broken = LinearHead(4, 2)
    broken.bias.data[0] = float("inf")
    heads.save(broken, tmp_path, "c")
    with pytest.raises(UserError, match="tensor bias holds NaN or infinite"):
        heads.load(tmp_path, "c", 2)
    (tmp_path / "heads" / "t.safetensors").write_bytes(b"12")
    with pytest.raises(UserError, match="is no whole safetensors file"):
        heads.load(tmp_path, "t", 2)
    heads.save(torch.nn.BatchNorm1d(3), tmp_path, "o")
    with pytest.raises(UserError, match="holds no head that saft knows"):
        heads.load(tmp_path, "o", 2)
