"""What a worker says of the cell that it holds, whatever the disk does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saft.experiment import worker
from saft.experiment.cells import Cell
from saft.experiment.claims import ClaimFolder
from saft.experiment.worker import Holding


def test_signs_of_life_go_on_after_a_disk_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, seen, beats = ClaimFolder(tmp_path), threading.Event(), list[int]()
    update = ClaimFolder.update

    def failing(self: ClaimFolder, claim: Any) -> None:
        beats.append(claim.beat)
        if len(beats) == 1:
            raise OSError(28, "No space left on device")
        update(self, claim)
        seen.set()

    claims.offer(["a"])
    claim = claims.take()
    assert claim is not None
    monkeypatch.setattr(ClaimFolder, "update", failing)
    with Holding(claims, claim, every=0.01):
        assert seen.wait(10)
    assert beats[:2] == [1, 2]
    assert claims.latest()["a"].state == "released"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", worker.ENDING)
@pytest.mark.parametrize("changed", [False, True], ids=["as it is", "changed by a library"])
def test_a_signal_gives_the_cell_back(
    number: int, changed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computing(*_: Any) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as interrupt:
            raise (ValueError("as pydantic has it") if changed else interrupt) from None

    claims, cell = ClaimFolder(tmp_path), Cell("all", "adamw", 0)
    claims.offer([str(cell)])
    session = SimpleNamespace(resolved=SimpleNamespace(cells=[cell]))
    monkeypatch.setattr(worker, "open_session", lambda folder: session)
    monkeypatch.setattr(worker, "carry_out_cell", computing)
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.work(tmp_path)
    finally:
        signal.signal(number, before)
    assert claims.latest()[str(cell)].state == "released"


def test_who_was_taken_for_dead_is_told(tmp_path: Path) -> None:
    claims, told = ClaimFolder(tmp_path), threading.Event()
    claims.offer(["a"])
    claim = claims.take()
    assert claim is not None
    with Holding(claims, claim, every=0.01, overtaken=told.set):
        claims.put(claim.next("released", deaths=1))
        assert told.wait(10)
    assert claims.latest()["a"].number == 2
