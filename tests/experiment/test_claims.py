"""Claims: exactly one process has a cell, and the dead are told from the living."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import saft.experiment.claims as claims_module
from saft.errors import UserError
from saft.experiment.claims import Claim, ClaimFolder, Witness

CELLS = [f"all/sam/seed{seed}" for seed in range(100)]


def take_all(folder: Path, machine: str, taken: Any) -> None:
    claims_module._machine = lambda: machine  # this process was forked for it
    claims = ClaimFolder(folder)
    while (claim := claims.take()) is not None:
        claims.update(dataclasses.replace(claim, state="finished"))
        taken.put((claim.cell, machine))
    taken.put(None)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a fork starts at once")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_processes_of_two_machines_claim_1000_cells_without_a_double_or_a_loss(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for experiment in range(10):  # the more beginnings, the more often several want the same cell
        folder, taken = tmp_path / str(experiment), context.Queue()
        ClaimFolder(folder).offer(CELLS)
        workers = [
            context.Process(target=take_all, args=(folder, machine, taken))
            for machine in ("one", "another", "one", "another")
        ]
        for worker in workers:
            worker.start()
        found, ended = [], 0
        while ended < len(workers):
            word = taken.get(timeout=60)
            ended += word is None
            found += [] if word is None else [word]
        for worker in workers:
            worker.join()
        assert Counter(cell for cell, _ in found) == Counter(CELLS)
        claims = ClaimFolder(folder).latest()
        assert {claim.state for claim in claims.values()} == {"finished"}
        assert {cell: claim.machine for cell, claim in claims.items()} == dict(found)


def test_cells_are_claimed_in_the_order_in_which_they_are_offered(tmp_path: Path) -> None:
    claims = ClaimFolder(tmp_path)
    assert claims.take() is None
    claims.offer(["b/x/seed0", "a/y/seed1"])
    first, second = claims.take(), claims.take()
    assert first is not None
    assert second is not None
    assert [first.cell, second.cell, claims.take()] == ["b/x/seed0", "a/y/seed1", None]
    assert first.process == os.getpid()
    assert ClaimFolder(tmp_path).latest() == {"b/x/seed0": first, "a/y/seed1": second}


@pytest.mark.parametrize("cell", ["all/" + "ü" * 50 + "/seed0", "a/b--optimizer=x%3Ay/seed1"])
def test_a_cell_of_whatever_name_is_claimed(tmp_path: Path, cell: str) -> None:
    claims = ClaimFolder(tmp_path)
    claims.offer([cell])
    first = claims.take()
    assert first is not None
    claims.update(first)
    assert claims.latest() == {cell: first}


def test_a_claim_for_which_the_disk_has_no_room_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(claim: Claim) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    claims = ClaimFolder(tmp_path)
    claims.offer(["a"])
    with monkeypatch.context() as patch:
        patch.setattr(claims_module, "_text", full)
        with pytest.raises(UserError, match=r"a\.1\.json: could not be written: No space left"):
            claims.take()
        claims.fail("a", ["the disk is full"])  # which is told all the same
    assert claims.latest() == {}
    assert claims.take() is not None


def test_a_released_cell_is_claimed_anew_and_the_first_claimant_can_tell(tmp_path: Path) -> None:
    claims = ClaimFolder(tmp_path)
    claims.offer(["a"])
    first = claims.take()
    assert first is not None
    assert not claims.is_overtaken(first)
    assert claims.put(first.next("released", deaths=1))
    assert not claims.put(first.next("failed"))  # another was there before
    assert claims.is_overtaken(first)
    second = claims.take()
    assert second is not None
    assert (second.number, second.deaths) == (3, 1)
    assert claims.latest()["a"] == second


def test_a_claim_that_is_being_written_is_taken_for_one_at_work(tmp_path: Path) -> None:
    claims = ClaimFolder(tmp_path)
    claims.offer(["a"])
    (tmp_path / "claims" / "a.1.json").write_text("")
    assert claims.latest() == {"a": Claim("a", 1)}
    assert claims.take() is None


def test_a_process_of_this_machine_is_dead_once_it_has_ended(tmp_path: Path) -> None:
    claims = ClaimFolder(tmp_path)
    claims.offer(["a", "b"])
    code = (
        "import sys; from pathlib import Path; from saft.experiment.claims import ClaimFolder;"
        "ClaimFolder(Path(sys.argv[1])).take()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    mine = claims.take()
    assert mine is not None
    witness = Witness()
    assert witness.is_dead(claims.latest()["a"])
    assert not witness.is_dead(mine)
    reused = dataclasses.replace(mine, born="1")  # the number of a dead process, given to this one
    assert witness.is_dead(reused) == sys.platform.startswith("linux")


def test_a_process_of_this_machine_that_could_not_be_read_now_and_then_is_alive(tmp_path: Path) -> None:
    claims, now = ClaimFolder(tmp_path), [0.0]
    claims.offer(["a"])
    mine = claims.take()
    assert mine is not None
    witness = Witness(60.0, lambda: now[0])
    for _ in range(3):
        assert not witness.is_dead(mine)
        assert not witness.is_dead(Claim("a", 1))  # all that is known of a file that is away for a moment
        now[0] += 61


def test_a_process_of_another_machine_is_dead_once_it_is_silent() -> None:
    now = [0.0]
    witness = Witness(60.0, lambda: now[0])
    claim = Claim("a", 1, machine="elsewhere")
    assert not witness.is_dead(claim)
    now[0] = 59.0
    assert not witness.is_dead(claim)
    claim = dataclasses.replace(claim, beat=1)
    now[0] = 100.0
    assert not witness.is_dead(claim)
    now[0] = 161.0
    assert witness.is_dead(claim)
    assert not witness.is_dead(dataclasses.replace(claim, state="finished"))
    assert not witness.is_dead(dataclasses.replace(claim, number=2))
