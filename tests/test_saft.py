"""The package itself: light to import, and a verb is a function whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_saft_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "lightning", "datasets", "pydantic", "rich")
    assert python(f"import saft, sys; print([m for m in {heavy} if m in sys.modules])") == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "merge", "evaluate", "measure", "run", "methods"])
def test_verbs_are_functions(verb: str) -> None:
    first = f"import saft; print(callable(saft.{verb}))"
    after = (
        f"from saft.{verb} import *; import saft; print(callable(saft.{verb}))"
        if verb != "methods"
        else first
    )
    assert python(first) == "True"
    assert python(after) == "True"


def test_unknown_names_raise_the_usual_error() -> None:
    import saft

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = saft.trian
    assert "SAM" in dir(saft)
