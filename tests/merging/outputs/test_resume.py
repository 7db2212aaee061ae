"""A killed merge goes on with its finished shards, where inputs, settings and versions are the same."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saft.files import fingerprints
from saft.files.finished_shards import FinishedShards
from saft.merge import MergeConfig, merge
from saft.merging.merge_check import check
from saft.merging.outputs import resume


@pytest.fixture(scope="module")
def dead():
    """The number of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


@pytest.fixture
def settings(checkpoints):
    base, models = checkpoints
    return MergeConfig("ties", base, models, {"density": 0.3}, shard_size=700)


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def killed(settings, tmp_path, dead):
    """Return a function that leaves what a merge into `out` had done when it was killed."""

    def leave(shards):
        merge(settings, tmp_path / "expected", overwrite=True)
        folder = tmp_path / f".out.saft-{socket.gethostname()}-{dead}-0"
        shutil.copytree(tmp_path / "expected", folder)
        left = FinishedShards(folder)
        left.begin(resume.mark(check(settings)))
        for name in sorted(files(folder)):
            if name.endswith(".safetensors") and shards:
                left.add(name)
                shards -= 1
            elif name.endswith(".safetensors"):
                (folder / name).write_bytes(b"half")
        (folder / "heads").mkdir()
        (folder / "heads" / "rest.safetensors").write_bytes(b"")
        return folder

    return leave


@pytest.mark.parametrize("finished", [0, 1, 3, 100])
def test_it_goes_on_to_the_same_bits(finished, settings, killed, tmp_path):
    left = killed(finished)
    kept = {name: (left / name).stat().st_ino for name in FinishedShards(left).names}
    expected = files(tmp_path / "expected")
    count = sum(name.endswith(".safetensors") for name in expected)
    assert count > 3

    checked = merge(settings, tmp_path / "out", check_only=True)
    assert checked.shards_left == (len(kept), count)
    assert (f"goes on with {len(kept)} of {count} shards" in str(checked)) == bool(kept)

    result = merge(settings, tmp_path / "out")
    assert files(tmp_path / "out") == expected
    for name, inode in kept.items():
        assert (tmp_path / "out" / name).stat().st_ino == inode, "it was written again"
    assert ("went on with" in str(result)) == bool(kept)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_only_what_is_left_is_read_for_the_last_pass(settings, killed, tmp_path):
    killed(2)
    read = []
    merge(settings, tmp_path / "whole", progress=lambda done, _: read.append(done))
    whole, read = read[-1], []
    merge(settings, tmp_path / "out", progress=lambda done, _: read.append(done))
    assert read[-1] < whole


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "a link"])
def test_a_finished_shard_that_did_not_stay_so_is_written_again(damage, settings, killed, tmp_path):
    left = killed(3)
    shard = left / FinishedShards(left).names[1]
    content = shard.read_bytes()
    if damage == "gone":
        shard.unlink()
    elif damage == "a link":
        shard.rename(tmp_path / "elsewhere")
        shard.symlink_to(tmp_path / "elsewhere")
    else:
        shard.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    assert merge(settings, tmp_path / "out", check_only=True).shards_left[0] == 2
    merge(settings, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "expected")
    assert not (tmp_path / "out" / shard.name).is_symlink()


@pytest.mark.parametrize("change", ["parameter", "input", "shards"])
def test_another_merge_begins_anew(change, settings, killed, tmp_path):
    killed(2)
    if change == "parameter":
        settings = dataclasses.replace(settings, parameters={"density": 0.4})
    elif change == "shards":
        settings = dataclasses.replace(settings, shard_size="3kB")
    else:
        file = Path(settings.models["b"]) / "model.safetensors"
        save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert merge(settings, tmp_path / "out", check_only=True).shards_left[0] == 0
    merge(settings, tmp_path / "out")
    merge(settings, tmp_path / "again")
    assert files(tmp_path / "out") == files(tmp_path / "again")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_of_large_inputs_only_what_a_change_would_change_is_looked_at(
    settings, killed, tmp_path, monkeypatch
):
    monkeypatch.setattr(fingerprints, "_LARGE", 4)
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", 0)
    read = []
    monkeypatch.setattr(fingerprints, "_read", lambda file, *how: read.append(file) or "0" * 64)
    killed(2)
    read.clear()
    assert merge(settings, tmp_path / "out", check_only=True).shards_left[0] == 2
    assert not read
    file = Path(settings.models["b"]) / "model.safetensors"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=times)
    assert merge(settings, tmp_path / "out", check_only=True).shards_left[0] == 0


def test_what_has_nothing_finished_before_its_end_does_not_resume(settings, tmp_path):
    assert resume.can_resume(check(settings))
    for change in ({"shard_size": None}, {"method": "emr", "parameters": {}, "shard_size": None}):
        assert not resume.can_resume(check(dataclasses.replace(settings, **change)))
    assert resume.shards_left(check(dataclasses.replace(settings, shard_size=None)), tmp_path / "o") == (0, 0)


def test_an_exception_leaves_nothing(settings, tmp_path):
    def stop(done, whole):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(settings, tmp_path / "out", progress=stop)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert torch.get_num_threads() >= 1
