"""A process is told from a later one of its number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from saft.files.processes import born


def test_a_process_that_has_ended_began_never():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert born(process.pid) not in ("", born(os.getpid()))
    assert born(process.pid) == ""


def test_where_there_is_no_proc_it_is_told_whether_it_runs(monkeypatch):
    monkeypatch.setattr("saft.files.processes.Path", lambda _: Path("/nowhere"))
    assert born(os.getpid()) == "running"
    assert born(2**22 + 1) == ""
