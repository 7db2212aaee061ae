from __future__ import annotations

import pytest

from saft.errors import UserError, did_you_mean


@pytest.mark.parametrize(
    ("name", "clause"),
    [
        ("dare-ties", "; did you mean 'dare_ties'?"),
        ("TIES", "; did you mean 'ties'?"),
        ("dare", "; did you mean 'dare_ties'?"),
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
