"""The package itself: light to import, and a verb is a function whatever was imported before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import saft
from saft.errors import UserError


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_saft_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "lightning", "datasets", "pydantic", "rich")
    assert python(f"import saft, sys; print([m for m in {heavy} if m in sys.modules])") == "[]"


@pytest.mark.parametrize(
    ("before", "environment", "after"),
    [
        ("", {}, "10000"),
        ("", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("", {"GOMP_SPINCOUNT": "5"}, "5"),
        ("import types; sys.modules['torch'] = types.ModuleType('torch'); ", {}, "None"),
    ],
    ids=["unset", "the policy is the user's", "the count is the user's", "torch is loaded already"],
)
def test_threads_that_wait_do_not_spin_for_long(before: str, environment: dict[str, str], after: str) -> None:
    code = f"import os, sys; {before}import saft; print(os.environ.get('GOMP_SPINCOUNT'))"
    others = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=others | environment
    )
    assert done.stdout.strip() == after


VERBS = ["train", "merge", "evaluate", "measure", "run", "methods"]
MODULES = ["report.read", "errors.Note", "optim.auto_radius.find_radius", "config.parse"]  # as the README has
FIRST = [f"import saft; assert callable(saft.{verb})" for verb in VERBS]
AFTER = [
    f"from saft.{verb} import *; {first}"
    for verb, first in zip(VERBS, FIRST, strict=True)
    if verb != "methods"
]
FIRST += [f"import saft; saft.{name}" for name in MODULES]
IN_PROCESSES_OF_THEIR_OWN = """
import os, sys
import datasets, lightning, torch, transformers  # once: they take seconds

for code in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        exec(code)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_verbs_are_functions() -> None:
    command = [sys.executable, "-c", IN_PROCESSES_OF_THEIR_OWN, *FIRST, *AFTER]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"] * (len(FIRST) + len(AFTER)), done.stderr


def test_unknown_names_raise_the_usual_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = saft.trian
    assert "SAM" in dir(saft)


@pytest.mark.parametrize("verb", ["run", "train", "merge", "evaluate", "measure", "suggest", "summarize"])
def test_a_verb_that_is_given_no_config_says_what_to_write(verb: str) -> None:
    where = ["out"] if verb == "merge" else []
    told = rf"must be an? {verb.capitalize()}Config, but is 'a.yaml'; write saft.{verb.capitalize()}Config\("
    with pytest.raises(UserError, match=told):
        getattr(saft, verb)("a.yaml", *where)
