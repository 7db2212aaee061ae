from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from saft.errors import UserError
from saft.files import lock
from saft.files.lock import locked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")

HOLD = (
    "import sys; from pathlib import Path; from saft.files.lock import locked\n"
    "with locked(Path(sys.argv[1]), 'out: x'): print('held', flush=True); sys.stdin.read()"
)


def holder(file: Path) -> subprocess.Popen[str]:
    """Return a process that holds the lock until it is killed or its input ends."""
    words = [sys.executable, "-c", HOLD, str(file)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_of_the_first_and_waits_for_its_end(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.lock"
    with holder(file) as process:
        who = rf"out: x: another saft works in it \(process {process.pid} on {socket.gethostname()}\)"
        with pytest.raises(UserError, match=who), locked(file, "out: x"):
            pass
        assert file.exists()
        process.communicate("")
    assert not file.exists()
    with locked(file, "out: x"):
        assert json.loads(file.read_text())["process"] == os.getpid()
    assert not file.exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with holder(file) as process:
        process.send_signal(signal.SIGKILL)
    assert file.exists()
    with locked(file, "out: x"):
        pass
    assert not file.exists()


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_on_a_disk_that_knows_no_locks_the_file_tells(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(reason, os.strerror(reason))

    file = tmp_path / "x.lock"
    with holder(file) as process:
        monkeypatch.setattr(lock.fcntl, "flock", none)
        with (
            pytest.raises(UserError, match=rf"works in it \(process {process.pid} on"),
            locked(file, "out: x"),
        ):
            pass
        process.send_signal(signal.SIGKILL)
    with locked(file, "out: x"):
        assert json.loads(file.read_text())["process"] == os.getpid()
    assert not file.exists()
    file.write_text(json.dumps({"process": 1, "host": "elsewhere"}))
    with pytest.raises(UserError, match="was cut off there"), locked(file, "out: x"):
        pass


def test_a_lock_left_on_another_machine_is_told_with_the_cure(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    file.write_text(json.dumps({"process": 7, "host": "elsewhere"}))
    with (
        pytest.raises(UserError, match=r"process 7 on elsewhere\); if none does, delete .*x.lock"),
        locked(file, "out: x"),
    ):
        pass
    assert file.exists()


def test_an_exception_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with pytest.raises(KeyError), locked(file, "out: x"):
        raise KeyError
    with locked(file, "out: x"):
        pass


def test_who_holds_a_lock_is_told_without_touching_it(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    assert lock.holder(file) is None
    with holder(file) as process:
        assert lock.holder(file) == f"process {process.pid} on {socket.gethostname()}"
        process.send_signal(signal.SIGKILL)
    assert file.exists()
    assert lock.holder(file) is None
    earlier = {"process": os.getpid(), "host": socket.gethostname(), "born": "1"}  # in a container before
    file.write_text(json.dumps(earlier))
    assert lock.holder(file) is None
    file.write_text(json.dumps({"process": 7, "host": "elsewhere"}))
    assert lock.holder(file) == "process 7 on elsewhere"


def test_of_the_locks_only_that_of_the_dead_process_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    file.write_text(json.dumps({"process": 7, "host": "elsewhere"}))
    lock.forget(file, "elsewhere", 8)
    assert file.exists()
    lock.forget(file, "elsewhere", 7)
    assert not file.exists()


def test_a_lock_on_a_full_disk_is_told_and_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with (
        pytest.raises(UserError, match=r"a\.lock: could not be written: No space left on device"),
        locked(tmp_path / "a.lock", "out: x"),
    ):
        pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_who_came_after_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    with locked(file, "out: a"):
        file.unlink()  # as `forget` does with that of a process that is taken for dead
        file.write_text("{}")
    assert file.read_text() == "{}"
