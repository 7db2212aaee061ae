"""A file that is written when the work is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from saft.errors import Unfinished, UserError
from saft.files.written_last import write_last


def test_where_it_cannot_be_written_the_work_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_last(tmp_path / "a.json", "{}", finished=1)
    assert (tmp_path / "a.json").read_text() == "{}"
    with pytest.raises(Unfinished, match=rf"^{tmp_path}: could not be written: Is a directory$") as caught:
        write_last(tmp_path, "{}", finished=2)
    assert caught.value.finished == 2

    def full(file: Path, text: str) -> None:
        raise UserError(f"{file}: No space left on device")

    monkeypatch.setattr("saft.files.written_last.write_text", full)
    with pytest.raises(Unfinished, match="b: No space left") as caught:
        write_last("b", "{}", finished=3)
    assert caught.value.finished == 3
