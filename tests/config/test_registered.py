"""A name with options is made into what it stands for; what is wrong is told with the place in the config."""

from __future__ import annotations

from typing import Any

import pytest

from saft.config import make_registered
from saft.errors import UserError
from saft.penalties import PENALTIES


def test_a_name_and_options_make_what_is_registered() -> None:
    made = make_registered(PENALTIES, "l2_base", {"strength": 2.0}, "penalty")
    assert made == PENALTIES.get("l2_base")(strength=2.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("l2_bas", {}, "penalty: name: unknown penalty 'l2_bas'; did you mean 'l2_base'"),
        (
            "math:pi",
            {},
            "penalty: name: penalty 'math:pi': must be a subclass of saft.penalties.penalty.Penalty",
        ),
        ("l2_base", {"stength": 1}, "penalty: stength: unknown key; did you mean 'strength'"),
        ("l2_base", {"strength": -1}, "penalty: strength: must be at least 0, but is -1"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_registered(PENALTIES, name, options, "penalty")
