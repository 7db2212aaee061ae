"""The digest of a file, and when it is taken anew."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from blake3 import blake3

from saft.files import fingerprints
from saft.files.fingerprints import fingerprint, remembered


@pytest.fixture(autouse=True)
def _memory(monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprints, "_LARGE", 4)
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def reads(monkeypatch):
    """Return the files that were read, as they are read."""
    found, read = [], fingerprints._read

    def counted(file, *how):
        found.append(file.name)
        return read(file, *how)

    monkeypatch.setattr(fingerprints, "_read", counted)
    return found


def written(path, content=b"some weights"):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"abc", b"x" * 3_000_000])
def test_it_is_the_digest_of_the_content(tmp_path, content):
    file = written(tmp_path / "f", content)
    assert fingerprint(file) == hashlib.sha256(content).hexdigest()
    assert fingerprint(file, "blake3") == blake3(content).hexdigest()


def test_each_algorithm_has_a_digest_of_its_own_that_is_remembered(tmp_path, reads):
    file = written(tmp_path / "f")
    digests = [fingerprint(file), fingerprint(file, "blake3")]
    assert [remembered(file), remembered(file, "blake3")] == digests
    assert [fingerprint(file), fingerprint(file, "blake3")] == digests
    assert reads == ["f", "f"]
    written(file, b"others")
    assert fingerprint(file, "blake3") == blake3(b"others").hexdigest()
    assert remembered(file) is None, "what was remembered is of another file"


def test_a_large_file_is_read_once(tmp_path, reads):
    file = written(tmp_path / "f")
    (tmp_path / "link").symlink_to(file)  # as the hub's cache has them
    assert len({fingerprint(file), fingerprint(file), fingerprint(tmp_path / "link")}) == 1
    assert reads == ["f"]
    assert remembered(file) == fingerprint(file)


def test_a_small_file_leaves_nothing_behind(tmp_path):
    file = written(tmp_path / "f", b"abc")
    fingerprint(file)
    assert remembered(file) is None
    assert not (tmp_path / "cache").exists()


def test_other_content_of_the_same_size_and_time_is_read_again(tmp_path, reads):
    file = written(tmp_path / "f", b"one1")
    first, times = fingerprint(file), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    with file.open("r+b") as stream:
        stream.write(b"two2")
    os.utime(file, ns=times)
    assert file.stat().st_mtime_ns == times[1]
    assert fingerprint(file) == hashlib.sha256(b"two2").hexdigest() != first
    assert reads == ["f", "f"]


def test_another_file_under_the_name_is_read_again(tmp_path):
    file = written(tmp_path / "f", b"one1")
    first = fingerprint(file)
    written(tmp_path / "g", b"two2").replace(file)
    assert fingerprint(file) == hashlib.sha256(b"two2").hexdigest() != first


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", 10**12)
    file = written(tmp_path / "f")
    assert fingerprint(file) == fingerprint(file)
    assert reads == ["f", "f"]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, monkeypatch):
    file, read = written(tmp_path / "f", b"one1"), fingerprints._read

    def changed(path, *how):
        digest = read(path, *how)
        written(path, b"two2!")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "_read", changed)
        fingerprint(file)
    assert fingerprint(file) == hashlib.sha256(b"two2!").hexdigest()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"file": {}}', '{"sha256": "0"}', "null"])
def test_a_damaged_memory_is_no_answer(tmp_path, content):
    file = written(tmp_path / "f")
    right = fingerprint(file)
    (entry,) = (tmp_path / "cache" / "saft" / "digests").iterdir()
    assert json.loads(entry.read_text())["sha256"] == right
    entry.write_text(content)
    assert fingerprint(file) == right


def test_where_nothing_can_be_kept_it_is_taken_again(tmp_path, reads, monkeypatch):
    file = written(tmp_path / "f")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # no folder can be made below a file
    assert fingerprint(file) == fingerprint(file)
    assert reads == ["f", "f"]
