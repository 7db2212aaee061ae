"""A batch system's SIGTERM, and a closed terminal, end a verb as Ctrl-C does."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saft.signals import interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_the_block_and_the_handler_is_put_back(number: int) -> None:
    received: list[int] = []
    mine = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, mine)  # the tests themselves may run under nohup
    try:
        with pytest.raises(KeyboardInterrupt), interrupts(received):
            os.kill(os.getpid(), number)
        assert received == [number]
        assert signal.getsignal(number) == mine
    finally:
        signal.signal(number, before)


def test_what_a_library_makes_of_the_interrupt_is_the_interrupt() -> None:
    """pydantic raises a SchemaError when a signal comes as it builds one; a cell was then said to have failed."""

    def library() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("as pydantic has it") from None

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts([]):
            library()
        with pytest.raises(ValueError, match="its own"), interrupts([]):
            raise ValueError("its own")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_is_not_cut_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """numpy, half imported, ended `saft evaluate` with a RecursionError, and a library in C++ aborted it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "half.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.12)\nwhole = True\n"
    )
    received: list[int] = []
    mine = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, mine)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts(received):  # noqa: PT012 - the second waits for it
            importlib.import_module("half")
            time.sleep(10)
        assert sys.modules.pop("half").whole
        assert received == [number]
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("replacing", [False, True])
def test_an_ignored_signal_stays_ignored(replacing: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts([], replacing=replacing):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("verb", "words"), [("merge", "nothing was written"), ("train", "goes on where")])
def test_the_exit_code_and_the_message(verb: str, words: str) -> None:
    code = (
        "import dataclasses, os, signal, sys; from saft import cli; from saft.cli import verbs\n"
        f"slow = dataclasses.replace(cli.VERBS['{verb}'], config='', words='', flags=(), function='os:abort')\n"
        f"cli.VERBS['{verb}'] = slow\n"
        "import saft.cli.words\n"
        "saft.cli.words.imported = lambda path: lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"sys.exit(cli.main(['{verb}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.startswith("saft: interrupted; ")
    assert words in done.stderr
