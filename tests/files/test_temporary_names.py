from __future__ import annotations

import os
import socket

import pytest

from saft.files import staging
from saft.files.temporary_names import left_behind


@pytest.mark.skipif(os.name != "posix", reason="processes")
def test_what_an_earlier_process_of_the_same_number_has_left_is_cleared(tmp_path):
    """In a container that is started again a process has the number of the one that was killed."""
    left = tmp_path / f".model.saft-{socket.gethostname()}-{os.getpid()}-1-ab"
    left.mkdir()
    assert list(left_behind(tmp_path / "model")) == [left]
    with staging.staged(tmp_path / "model") as folder:
        (folder / "complete").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
