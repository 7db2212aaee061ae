"""What is written to a file goes to the disk beside the writing, and what went wrong there is told."""

from __future__ import annotations

import errno
import os
import threading

import pytest
import torch

from saft.files import write_behind
from saft.files.tensorfile import TensorWriter
from saft.files.write_behind import WriteBehind


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(write_behind, "_PIECE", 4)


@pytest.fixture
def syncs(monkeypatch):
    """Return the threads that synced."""
    found, sync = [], os.fsync

    def noted(descriptor):
        found.append(threading.current_thread())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def test_a_piece_is_synced_by_another_thread(tmp_path, syncs):
    with (tmp_path / "file").open("wb") as stream:
        behind = WriteBehind(stream)
        behind.wrote(stream.write(b"abcd"))
        behind.close()
    assert len(syncs) == 1
    assert threading.current_thread() not in syncs


def test_less_than_a_piece_is_left_to_the_end(tmp_path, syncs):
    with (tmp_path / "file").open("wb") as stream:
        behind = WriteBehind(stream)
        behind.wrote(stream.write(b"abc"))
        behind.close()
    assert not syncs


@pytest.fixture
def full(monkeypatch):
    def refused(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refused)


def test_what_did_not_arrive_is_told_at_the_end(tmp_path, full):
    with (tmp_path / "file").open("wb") as stream:
        behind = WriteBehind(stream)
        behind.wrote(4)
        with pytest.raises(OSError, match="No space left"):
            behind.close()


def test_what_did_not_arrive_is_told_before_more_is_written(tmp_path, full):
    def write_on(behind):
        while True:
            behind.wrote(4)

    with (tmp_path / "file").open("wb") as stream, pytest.raises(OSError, match="No space left"):
        write_on(WriteBehind(stream))


def test_a_writer_of_tensors_tells_it(tmp_path, full):
    file = tmp_path / "model.safetensors"
    writer = TensorWriter(file, {"weight": (torch.float32, (2,))}).__enter__()
    writer.write("weight", torch.ones(2))
    with pytest.raises(OSError, match="No space left"):
        writer.__exit__(None, None, None)
