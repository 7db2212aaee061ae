"""mergekit's ways to name a model: what saft makes of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saft.errors import UserError
from saft.merging.mergekit.references import location


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("org/model", "org/model"),
        ("base+adapter", "base+adapter"),
        ({"model": "base"}, "base"),
        ({"model": {"path": "base", "revision": None}, "lora": None, "override_architecture": None}, "base"),
        ({"model": {"path": "base"}, "lora": {"path": "adapter"}}, "base+adapter"),
    ],
)
def test_what_is_known(reference: Any, expected: str) -> None:
    assert location(reference) == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("base@v1", "the version 'v1' of 'base': .*`hf download base --revision v1 --local-dir FOLDER`"),
        ("base+adapter@v1", "the version 'v1' of 'adapter'"),
        ({"model": {"path": "base", "revision": "v1"}}, "model: the version 'v1' of 'base'"),
        ({"model": "base", "lora": "adapter@v1"}, "lora: the version 'v1' of 'adapter'"),
        ({"model": "base", "override_architecture": "Llama"}, "override_architecture: mergekit can do this"),
        ({"model": "base", "loar": "adapter"}, "unknown key 'loar'; did you mean 'lora'"),
        ({"model": {"path": "base", "rev": "v1"}}, "model: unknown key 'rev'"),
        ({"model": {"pth": "base"}}, "model: must be a folder, a hub id, or a mapping with `path:`"),
        ({"model": None}, "must be a folder, a hub id, or a mapping with `model:`"),
        (["base"], "must be a folder, a hub id, or a mapping with `model:`"),
    ],
)
def test_what_is_refused(reference: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        location(reference)


def test_a_folder_whose_name_holds_the_sign_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base@v1").mkdir()
    assert location("base@v1") == "base@v1"
