"""What a dead process of another machine has left is cleared, and only that."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from saft.experiment.claims import Claim
from saft.experiment.folder import ExperimentFolder
from saft.experiment.left_behind import clear_after


@pytest.mark.parametrize("place", ["experts/{}", "merges/{}/colour+size", "first_rounds/{}", "rounds_2/{}"])
@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_locks_and_half_written_folders_of_the_dead_go(tmp_path: Path, host: str, place: str) -> None:
    experts = tmp_path / place.format("all/adamw/seed0")
    half, work = experts / f".colour.saft-{host}-12-ab", experts / ".colour.work"
    for folder in (half, work, experts / f".size.saft-{host}-123-ab"):
        folder.mkdir(parents=True)
    file = experts / f".training.json.saft-{host}-12-34-ab"
    file.write_text("half")
    for name, process in (("colour", 12), ("size", 13)):
        (experts / f".{name}.lock").write_text(json.dumps({"host": host, "process": process}))
    clear_after(Claim("all/adamw/seed0", 1, host=host, process=12), ExperimentFolder(tmp_path))
    left = {entry.name for entry in experts.iterdir()}
    assert not {half.name, file.name} & left
    assert left >= {".colour.work", ".size.lock", f".size.saft-{host}-123-ab"}
    # Of this machine's locks the system takes care, and of which process has one now.
    assert (".colour.lock" in left) == (host != "elsewhere")


def test_what_a_merge_of_a_round_has_left_goes(tmp_path: Path) -> None:
    half, other = (tmp_path / f"starts/all/adamw/.seed{seed}.saft-elsewhere-12-ab" for seed in (0, 1))
    lock = half.with_name(".seed0.lock")
    for folder in (half, other):
        folder.mkdir(parents=True)
    lock.write_text(json.dumps({"host": "elsewhere", "process": 12}))
    clear_after(Claim("all/adamw/seed0", 1, host="elsewhere", process=12), ExperimentFolder(tmp_path))
    assert list(lock.parent.iterdir()) == [other]
