from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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
    heads.save(head, tmp_path, "a", ["x", "y"], "cls")
    other = heads.load(tmp_path, "a", ["x", "y"])
    assert other is not None
    assert isinstance(other.module, LinearHead)
    assert torch.equal(head.weight, other.module.weight)
    assert (other.labels, other.pooling) == (["x", "y"], "cls")
    assert heads.load(tmp_path, "b", ["x", "y"]) is None
    zero_shot = ZeroShotHead(torch.randn(3, 4), 20.0)
    heads.save(zero_shot, tmp_path, "z", ["x", "y", "ü"], "mean")
    again = heads.load(tmp_path, "z", ["x", "y", "ü"])
    assert again is not None
    assert isinstance(again.module, ZeroShotHead)
    assert torch.equal(zero_shot.label_embeddings, again.module.label_embeddings)


def test_the_same_head_gives_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    files = []
    for number in range(8):  # safetensors writes several entries of metadata in an order drawn each time
        heads.save(LinearHead(4, 2), tmp_path, f"{number}", ["x", "y"], "mean")
        files.append((tmp_path / "heads" / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1


def test_misfits_are_named(tmp_path: Path) -> None:
    heads.save(LinearHead(4, 2), tmp_path, "a", ["x", "y"], "mean")
    with pytest.raises(UserError, match=r"a.safetensors: is a head for 2 labels, but task 'a' has 3"):
        heads.load(tmp_path, "a", ["x", "y", "z"])
    broken = LinearHead(4, 2)
    broken.bias.data[0] = float("inf")
    heads.save(broken, tmp_path, "c", ["x", "y"], "mean")
    with pytest.raises(UserError, match="tensor bias holds NaN or infinite"):
        heads.load(tmp_path, "c", ["x", "y"])
    (tmp_path / "heads" / "t.safetensors").write_bytes(b"12")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        heads.load(tmp_path, "t", ["x", "y"])
    heads.save(torch.nn.BatchNorm1d(3), tmp_path, "o", ["x", "y"], "mean")
    with pytest.raises(UserError, match="holds no head that saft knows"):
        heads.load(tmp_path, "o", ["x", "y"])


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    heads.save(LinearHead(4, 2), tmp_path, "a", ["1", "5"], "mean")
    with pytest.raises(UserError, match=r"logits are, in order, 1, 5, but the labels of task 'a' are 5, 1"):
        heads.load(tmp_path, "a", ["5", "1"])


def test_a_head_of_before_says_nothing_and_is_taken(tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    save_file(LinearHead(4, 2).state_dict(), tmp_path / "heads" / "a.safetensors")
    stored = heads.load(tmp_path, "a", ["5", "1"])
    assert stored is not None
    assert (stored.labels, stored.pooling) == (None, None)


@pytest.mark.parametrize(
    "made_for", ["[", "[1]", '{"labels": "["}', '{"labels": [1, 2]}', '{"pooling": "max"}']
)
def test_damaged_words_beside_a_head_are_refused(tmp_path: Path, made_for: str) -> None:
    (tmp_path / "heads").mkdir()
    save_file(
        LinearHead(4, 2).state_dict(), tmp_path / "heads" / "a.safetensors", metadata={"made_for": made_for}
    )
    with pytest.raises(
        UserError,
        match=r"a.safetensors: (its list of labels is not|was made for an unknown|what it was made for is not)",
    ):
        heads.load(tmp_path, "a", ["1", "2"])


@pytest.mark.parametrize("task", ["../../evil", "a/b", "..", ""])
def test_a_task_cannot_name_a_file_elsewhere(tmp_path: Path, task: str) -> None:
    (tmp_path / "deep" / "out").mkdir(parents=True)
    with pytest.raises(UserError, match="names the file of its head"):
        heads.save(LinearHead(4, 2), tmp_path / "deep" / "out", task, ["x", "y"], "mean")
    with pytest.raises(UserError, match="names the file of its head"):
        heads.load(tmp_path / "deep" / "out", task, ["x", "y"])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_head_is_not_read_through_a_link_out_of_the_folder(tmp_path: Path) -> None:
    heads.save(LinearHead(4, 2), tmp_path, "a", ["x", "y"], "mean")
    (tmp_path / "out" / "heads").mkdir(parents=True)
    (tmp_path / "out" / "heads" / "a.safetensors").symlink_to(tmp_path / "heads" / "a.safetensors")
    with pytest.raises(UserError, match="leads out of its folder"):
        heads.load(tmp_path / "out", "a", ["x", "y"])
