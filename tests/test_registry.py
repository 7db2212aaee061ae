from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from saft.calibration import COLLECTORS
from saft.errors import UserError
from saft.experiment.executors import EXECUTORS
from saft.interference import MEASURES
from saft.merging.methods import METHODS
from saft.merging.outputs.output import OUTPUTS
from saft.optim.perturbations.base import PERTURBATIONS, make_perturbation
from saft.parametrizations import PARAMETRIZATIONS
from saft.penalties import PENALTIES
from saft.registry import Registry
from saft.tasks import TASKS
from saft.trajectory import AVERAGINGS

REGISTRIES: list[Registry[Any]] = [
    *(TASKS, PERTURBATIONS, PENALTIES, PARAMETRIZATIONS, AVERAGINGS),
    *(METHODS, OUTPUTS, COLLECTORS, MEASURES, EXECUTORS),
]


def test_every_file_of_the_package_registers_itself() -> None:
    assert "text_classification" in TASKS.names()


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UserError, match="unknown task kind 'text_clasification'; did you mean 'text_class"):
        TASKS.get("text_clasification")


def test_a_name_is_taken_once() -> None:
    registry: Registry[type[int]] = Registry(int, "number", "saft.tasks")
    registry.register("a")(bool)
    registry.register("a")(bool)
    with pytest.raises(ValueError, match="the number 'a' is registered twice"):
        registry.register("a")(int)


def test_classes_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[type[Mapping[str, int]]] = Registry(Mapping, "table", "saft.tasks")
    assert registry.get("collections:OrderedDict") is OrderedDict
    (tmp_path / "broken_outside.py").write_text("first = 1\nsecond = frist\n")
    (tmp_path / "script_outside.py").write_text("raise SystemExit('usage: script FILE')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (
        (":x", "table ':x': cannot import '': ValueError: Empty module name"),
        ("no_such_module:x", "cannot import 'no_such_module': ModuleNotFoundError: .*PYTHONPATH"),
        ("broken_outside:Table", "cannot import 'broken_outside': NameError: name 'frist' is not defined$"),
        ("script_outside:Table", "cannot import 'script_outside': SystemExit: usage: script FILE$"),
        ("collections:OrderdDict", "'collections' has no 'OrderdDict'; did you mean 'OrderedDict'"),
        ("math:pi", r"must be a subclass of collections\.abc\.Mapping, but is 3\.14"),
        ("math:sin", r"must be a subclass of collections\.abc\.Mapping, but is <built-in"),
        ("pathlib:Path", r"must be a subclass of collections\.abc\.Mapping, but is <class 'pathlib"),
        ("collections.abc:Mapping", "must define __getitem__, __iter__, __len__"),
    ):
        with pytest.raises(UserError, match=message) as error:
            registry.get(name)
        assert str(error.value).startswith(f"table '{name}': ")
        assert "\n" not in str(error.value)


def test_every_registry_holds_one_sort_of_class() -> None:
    """What is of another sort is told by the registry itself, and not after the training."""
    for registry in REGISTRIES:
        for name, kind in registry.items():
            assert issubclass(kind, registry.base), name
            assert not inspect.isabstract(kind), name
        for name in ("math:pi", "math:sin", "collections:OrderedDict"):
            with pytest.raises(UserError, match=f"{registry.noun} '{name}': must be a subclass of saft"):
                registry.get(name)
            assert name not in registry
    assert "sam" in PERTURBATIONS
    assert "saft.optim.perturbations.sam:PlainSAM" in PERTURBATIONS
    assert "saft.optim.perturbations.sam:PlainSAM" not in PENALTIES
    with pytest.raises(UserError, match="must be a subclass of"):
        make_perturbation("math:sin")


@pytest.mark.parametrize("name", [[None, {"a": [1]}], {"a:b": 1}, 3])
def test_what_is_no_name_is_told(name):
    with pytest.raises(UserError, match="perturbation: must be named by a text"):
        PERTURBATIONS.get(name)
