"""What is not a JSON file, or not an object, is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from saft.errors import UserError
from saft.files.json_files import read_json, read_json_object


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[1, "zwölf"]', "utf-8")
    (tmp_path / "b.json").write_text('{"a": 1}')
    assert read_json(tmp_path, "a.json") == [1, "zwölf"]
    assert read_json_object(tmp_path, "b.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a"', "config.json: is not readable as JSON: Expecting ':'"),
        (b"\xff\xfe", "config.json: is not readable as JSON: 'utf-8' codec"),
        (b"[" * 100_000, "config.json: is not readable as JSON: maximum recursion"),
        (b'{"a": -1' + b"0" * 400 + b"}", "config.json: .*: -1000000000000000000... is too large a number"),
        (b"[1]", "config.json: is not a JSON object"),
    ],
)
def test_what_is_not_an_object_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json_object(tmp_path, "config.json")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_may_have_to_be_finite(tmp_path: Path, number: str) -> None:
    (tmp_path / "saft.json").write_text(f'{{"a": {number}}}')
    assert str(read_json(tmp_path, "saft.json")["a"]) in ("nan", "-inf", "inf")
    with pytest.raises(UserError, match=f"saft.json: is not readable as JSON: {number} is not a number"):
        read_json(tmp_path, "saft.json", finite=True)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(UserError, match="leads out of its folder"):
        read_json(tmp_path / "model", "config.json")
