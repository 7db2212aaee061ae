from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest
import torch

from saft.files import checkpoint
from saft.files.tensorfile import view
from saft.files.weights_writer import WeightsWriter


@pytest.mark.parametrize(
    ("limit", "files"),
    [(None, 1), (10**9, 1), (48, 1), (47, 2), (24, 3), (16, 4), (1, 5)],
)
def test_weights_are_cut_into_shards_that_read_back(tmp_path, limit, files):
    tensors = {name: torch.randn(3) for name in "abc"} | {"wide": torch.randn(1).double()}
    tensors |= {"count": torch.arange(4).byte(), "nothing": torch.empty(0, 2)}
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    with WeightsWriter(tmp_path, layout, limit) as writer:
        for name in writer.names:
            for part in tensors[name].split(2):
                writer.append(name, part)
    headers = checkpoint.tensor_headers(tmp_path)
    assert set(headers) == set(tensors)
    assert all(view(headers[name]).equal(tensor) for name, tensor in tensors.items())
    written = checkpoint.weight_files(tmp_path)
    assert len(written) == files
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in written} | (
        {checkpoint.INDEX} if files > 1 else set()
    )
    if files > 1:
        index = json.loads((tmp_path / checkpoint.INDEX).read_text())
        assert index["metadata"]["total_size"] == sum(sizes.values())
        assert index["weight_map"] == {name: header.file.name for name, header in headers.items()}
        for file in written:
            held = [sizes[name] for name, header in headers.items() if header.file == file]
            assert sum(held) <= limit or len([size for size in held if size]) == 1


def test_a_shard_that_is_left_out_is_told(tmp_path):
    layout = dict.fromkeys("abc", (torch.float32, (2,)))
    with pytest.raises(ValueError, match="'b' was never written"):  # noqa: SIM117
        with WeightsWriter(tmp_path, layout, 8) as writer:
            writer.append("a", torch.zeros(2))
    assert not (tmp_path / checkpoint.INDEX).exists()


@pytest.mark.parametrize("limit", [None, 16])
@pytest.mark.parametrize("room", [0, 100, 200])
def test_a_disk_that_is_full_at_any_place_is_the_systems_own_error(room, limit, tmp_path, monkeypatch):
    """At a header, at the end of a file, where what was buffered is written, or where the next one begins."""
    written = 0

    class Full(io.FileIO):
        def write(self, content):
            nonlocal written
            written += len(content)
            if written > room:
                raise OSError(errno.ENOSPC, "full")
            return super().write(content)

    monkeypatch.setattr(Path, "open", lambda file, mode: io.BufferedWriter(Full(file, "w")))
    layout = dict.fromkeys("abc", (torch.float32, (3,)))

    def write():
        with WeightsWriter(tmp_path, layout, limit) as writer:
            for name in writer.names:
                writer.append(name, torch.zeros(3))

    with pytest.raises(OSError, match="full"):
        write()
