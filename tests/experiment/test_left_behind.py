"""What a dead process of another machine has left is cleared, and only that."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from saft.experiment.claims import Claim
from saft.experiment.folder import ExperimentFolder
from saft.experiment.left_behind import clear_after


@pytest.mark.parametrize("host", ["elsewhere", socket.gethostname()])
def test_locks_and_half_written_folders_of_the_dead_go(tmp_path: Path, host: str) -> None:
    experts = tmp_path / "experts/all/adamw/seed0"
    half, work = experts / f".colour.saft-{host}-12-ab", experts / ".colour.work"
    for folder in (half, work, experts / f".size.saft-{host}-123-ab"):
        folder.mkdir(parents=True)
    for name, process in (("colour", 12), ("size", 13)):
        (experts / f".{name}.lock").write_text(json.dumps({"host": host, "process": process}))
    clear_after(Claim("all/adamw/seed0", 1, host=host, process=12), ExperimentFolder(tmp_path))
    left = {entry.name for entry in experts.iterdir()}
    assert half.name not in left
    assert left >= {".colour.work", ".size.lock", f".size.saft-{host}-123-ab"}
    # Of this machine's locks the system takes care, and of which process has one now.
    assert (".colour.lock" in left) == (host != "elsewhere")
