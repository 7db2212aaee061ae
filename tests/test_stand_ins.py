"""Stand-ins let saft's files be imported without torch, and leave nothing behind."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saft.stand_ins import SLOW, are_in, stand_ins

SAFT = Path(__file__).parent.parent / "saft"
QUICK = {"blake3", "pydantic", "pydantic_core", "rich", "yaml", "jinja2"}


REFUSE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name not in {SLOW}, f"{{name}} is imported"

sys.meta_path.insert(0, Refuse())
"""


def python(code: str) -> list[str]:
    """Return what a program prints in which importing a slow library fails."""
    done = subprocess.run([sys.executable, "-c", REFUSE + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_inside_every_option_is_known_and_afterwards_nothing_is_kept() -> None:
    code = """
import saft
from saft import config
from saft.stand_ins import are_in, stand_ins

before = set(sys.modules), set(vars(saft))
with stand_ins():
    import saft.train
    from saft.optim import make_perturbation
    from saft.tasks import TASKS

    print(are_in(), saft.train.__name__, make_perturbation("asam").eta, *TASKS.names())
    try:
        make_perturbation("asam", eta=-1)
    except saft.errors.UserError as error:
        print(error)
print(are_in(), [name for name in set(sys.modules) - before[0] if name.partition(".")[0] in ("saft", "torch")])
print(set(vars(saft)) - before[1], saft.config is config)
"""
    first, refused, modules, names = python(code)
    assert first.startswith("True train 0.01 image_classification language_modeling text_classification")
    assert refused == "eta: must be at least 0, but is -1"
    assert modules == "False []"
    assert names == "set() True"


def test_what_is_not_installed_has_no_stand_in() -> None:
    code = """
import saft.stand_ins
saft.stand_ins.SLOW += ("no_such_library",)
with saft.stand_ins.stand_ins():
    import torch.nn.functional
    try:
        import no_such_library
    except ModuleNotFoundError:
        print("is missing")
"""
    assert python(code) == ["is missing"]


def test_what_torch_computes_is_computed_where_torch_is_there() -> None:
    import torch

    with stand_ins():
        import torch as inside

        assert inside is torch
        assert not are_in()


def imported_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the libraries that a file imports when it is imported itself."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module.partition(".")[0]
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            continue
        elif isinstance(statement, ast.If | ast.Try | ast.ClassDef):
            yield from imported_at_once(statement.body)


@pytest.mark.parametrize("room", sorted({file.relative_to(SAFT).parts[0] for file in SAFT.rglob("*.py")}))
def test_every_library_is_slow_or_quick(room: str) -> None:
    files = [SAFT / room] if room.endswith(".py") else (SAFT / room).rglob("*.py")
    known = {*SLOW, *QUICK, *sys.stdlib_module_names, "saft"}
    for file in files:
        unknown = set(imported_at_once(ast.parse(file.read_text("utf-8")).body)) - known
        assert not unknown, f"{file}: {unknown}: add it to saft.stand_ins.SLOW, or here if it is quick"
