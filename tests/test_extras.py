"""What needs a library that is not installed says so in one wording, with the extra that brings it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from saft.errors import UserError
from saft.extras import EXTRAS, require

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


@pytest.mark.parametrize(("library", "extra"), EXTRAS.items())
def test_the_extra_brings_the_library(library: str, extra: str) -> None:
    lines = PYPROJECT.read_text("utf-8").split("[project.optional-dependencies]")[1].split("\n")
    (line,) = (line for line in lines if line.startswith(f"{extra} = "))
    assert library in [named.split(">=")[0] for named in yaml.safe_load(line.split(" = ")[1])]


@pytest.mark.parametrize("library", EXTRAS)
def test_what_is_not_installed_is_told(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saft.extras.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        require(library, "executor: some")
    assert str(caught.value) == (
        f"executor: some: needs {library}, which is not installed; pip install 'merge-saft[{EXTRAS[library]}]'"
    )
