from __future__ import annotations

import hashlib
import mmap

import pytest
import torch
from safetensors.torch import save_file

from saft.files import mapped_files as module
from saft.files.fingerprints import fingerprint
from saft.files.mapped_files import in_mapped, mapped_files
from saft.files.tensorfile import read_headers, view


@pytest.fixture
def file(tmp_path):
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7.0).bfloat16(), "empty": torch.empty(0, 2)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_tensors_in_mapped_files_are_those_of_the_file_and_share_its_pages(file):
    mapped = mapped_files([file, file])
    headers = read_headers(file)
    placed = in_mapped(headers, mapped)
    for name, header in headers.items():
        assert view(placed[name]).equal(view(header))
        assert placed[name] == header
    assert view(placed["a"]).data_ptr() == view(placed["a"]).data_ptr()
    view(placed["a"]).zero_()
    assert view(headers["a"]).any()  # the file is as it was


def test_digests_of_mapped_files_are_those_of_the_files(file):
    content = mapped_files([file])[file]
    assert fingerprint(file, "blake3", content) == fingerprint(file, "blake3")
    assert fingerprint(file, "sha256", content) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_files_that_are_too_large_together_are_not_mapped(file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST", file.stat().st_size - 1)
    assert mapped_files([file]) == {}
    headers = read_headers(file)
    assert in_mapped(headers, {}) == headers


def test_a_system_that_does_not_map_so_much_is_read_tensor_by_tensor(file, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert mapped_files([file]) == {}


def test_a_tensor_that_is_not_aligned_is_read_by_itself(file):
    header = next(iter(read_headers(file).values()))
    shifted = module.dataclasses.replace(header, offsets=(header.offsets[0] + 1, header.offsets[1] + 1))
    assert in_mapped({"a": shifted}, mapped_files([file]))["a"].stored is None
