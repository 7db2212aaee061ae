from __future__ import annotations

import errno

import pytest
import torch

from saft.errors import UserError, as_user_error, did_you_mean, is_for_memory


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        ("dare-ties", "; did you mean 'dare_ties'?"),
        ("TIES", "; did you mean 'ties'?"),
        ("dare", "; did you mean 'dare_ties'?"),
        ("ties_merging", "; did you mean 'ties'?"),
        ("da", "; choose from: dare_ties, ties"),
        ("zzz", "; choose from: dare_ties, ties"),
    ],
)
def test_suggestions(name: str, clause: str) -> None:
    assert did_you_mean(name, ["ties", "dare_ties"]) == clause


def test_a_long_list_is_cut() -> None:
    clause = did_you_mean("zzz", [f"name{i:02}" for i in range(50)])
    assert clause.startswith("; choose from: name00, name01,")
    assert clause.endswith("name11 and 38 more")
    assert did_you_mean("nam49", [f"name{i:02}" for i in range(50)]) == "; did you mean 'name49'?"


def test_nothing_to_suggest() -> None:
    assert did_you_mean("x", []) == ""


def test_problems_are_lines() -> None:
    assert str(UserError("a", "b")) == "a\nb"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("unable to mmap 64 bytes from file <a.pt>: Cannot allocate memory (12)"), True),
        (
            RuntimeError("DataLoader worker is killed. It is possible that workers are out of shared memory"),
            True,
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("out of memory, as a label"), False),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_want_of_memory_is_known_whoever_tells_it(error: Exception, expected: bool) -> None:
    assert is_for_memory(error) == expected


def test_want_of_memory_is_not_blamed_on_the_file_that_was_read() -> None:
    with pytest.raises(torch.OutOfMemoryError), as_user_error("config.json: cannot be read"):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("error", [OSError(), TimeoutError(), ValueError(), AssertionError()])
def test_an_error_that_says_nothing_is_called_by_its_kind(error: Exception) -> None:
    with pytest.raises(UserError) as caught, as_user_error("config.json: cannot be read"):
        raise error
    assert str(caught.value) == f"config.json: cannot be read: {type(error).__name__}"
