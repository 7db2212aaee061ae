"""Who may know whom: imports run downward in the list of rooms, never up (DESIGN, section 2)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SAFT = Path(__file__).parent.parent / "saft"

# From the top of the house to its cellar; rooms on one line may not import each other.
ROOMS = [
    ["__main__"],
    ["cli"],
    ["run", "suggest"],
    ["dry_run", "suggest_models"],
    ["suggest_result"],
    ["suggest_config"],
    ["experiment"],
    ["train", "merge", "evaluate", "measure", "summarize"],
    ["measure_models"],
    ["evaluate_config", "measure_config", "summarize_config"],
    ["report"],
    ["calibration", "measure_probe", "measured_units", "checkpoint_tasks"],
    ["training"],
    ["integrations"],
    ["penalties", "parametrizations"],
    ["trajectory"],
    ["tasks", "mixture"],
    ["held_model"],
    ["models", "forward_derivatives"],
    ["interference", "interventions"],
    ["merging"],
    ["optim"],
    ["files"],
    ["progress", "console", "signals", "model_config"],
    ["config"],
    ["registry"],
    ["stand_ins", "extras", "stored_names"],
    ["errors", "student_t", "written"],
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# These libraries are used only in these rooms.
ONLY = {
    "datasets": {"tasks", "dry_run"},
    "lightning": {"training", "integrations"},
    "transformers": {"stored_names", "models", "tasks", "integrations", "dry_run"},
    "accelerate": {"integrations"},
    "peft": {"parametrizations", "integrations"},
}
# What optim and merging may know of saft: they stand alone.
ALONE = {"optim": {"registry", "errors"}}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"saft.{alias.name}" for alias in node.names] if node.module == "saft" else [node.module]
            yield from ((node.lineno, name) for name in names)


def room_of(file: Path) -> str:
    return file.relative_to(SAFT).parts[0].removesuffix(".py")


FILES = [file for file in sorted(SAFT.rglob("*.py")) if file != SAFT / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SAFT)))
def test_imports_run_downward(file: Path) -> None:
    room = room_of(file)
    assert room in LEVEL, f"{file}: a new room; give it a level in this test"
    for line, name in imports(file):
        top, *rest = name.split(".")
        if top == "saft" and rest and rest[0] != room:
            other = rest[0]
            assert LEVEL[room] < LEVEL[other], (
                f"{file}:{line}: {room} may not import {name}, which is above or beside it"
            )
            if room in ALONE:
                assert other in ALONE[room], f"{file}:{line}: {room} stands alone and may not import {name}"
        if top in ONLY:
            assert room in ONLY[top], f"{file}:{line}: {top} may be imported only in {sorted(ONLY[top])}"


def test_no_file_holds_two_nouns() -> None:
    long = {
        str(file.relative_to(SAFT)): n
        for file in FILES
        if (n := len(file.read_text("utf-8").splitlines())) > 350
    }
    assert not long


# Files whose names are equal but for a final s, and why that is right.
ALIKE_FILES = {
    "file": "files is a room; mergekit/file.py reads mergekit's file",
    "held_out": "report/held_out.py summarizes the figures that experiment/stages/held_out.py computes",
    "method": "merging/method.py is what each file of methods/ is one of",
    "output": "outputs/output.py is what each file of outputs/ is one of",
    "parametrization": "parametrization.py is what each file of parametrizations/ is one of",
    "sam": "perturbations/sam.py is the perturbation that users call sam; optim/sam.py is the optimizer SAM",
    "task": "tasks/task.py is what each kind of task is one of",
}
ALIKE_CLASSES = {
    "EvaluateMerge": "public: one for each trainer that calls callbacks, and nobody uses two",
    "SharpnessAware": "public: one for each library that SAM is integrated with, and nobody uses two",
}


def alike(names: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that are equal but for a final s, each with the places where they are."""
    places: dict[str, list[str]] = {}
    for name, place in names:
        places.setdefault(name.removesuffix("s"), []).append(place)
    return {name: where for name, where in places.items() if len(where) > 1}


def file_names() -> Iterator[tuple[str, str]]:
    for file in FILES:
        named = file.parent if file.name == "__init__.py" else file
        yield named.stem, str(named.relative_to(SAFT))


def class_names() -> Iterator[tuple[str, str]]:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield node.name, f"{file.relative_to(SAFT)}:{node.lineno}"


@pytest.mark.parametrize(
    ("names", "allowed"), [(file_names, ALIKE_FILES), (class_names, ALIKE_CLASSES)], ids=["files", "classes"]
)
def test_no_two_names_differ_by_an_s_or_by_their_folder(names, allowed) -> None:
    found, expected = alike(names()), {name.removesuffix("s") for name in allowed}
    assert not {name: where for name, where in found.items() if name not in expected}
    assert not expected - set(found), "a reason without a pair: take it out"
