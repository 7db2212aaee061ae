from __future__ import annotations

import math

import pytest

from saft.errors import UserError
from saft.registry import Registry


def test_every_file_of_the_package_registers_itself() -> None:
    from saft.tasks import TASKS

    assert "text_classification" in TASKS.names()


def test_unknown_names_get_a_suggestion() -> None:
    from saft.tasks import TASKS

    with pytest.raises(UserError, match="unknown task kind 'text_clasification'; did you mean 'text_class"):
        TASKS.get("text_clasification")


def test_a_name_is_taken_once() -> None:
    registry: Registry[object] = Registry("thing", "saft.tasks")
    registry.register("a")(1)
    registry.register("a")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("a")(2)


def test_things_from_outside() -> None:
    registry: Registry[object] = Registry("thing", "saft.algebra_of_none")
    registry._discovered = True
    registry.register("cosine")(math.cos)
    assert registry.get("math:sin") is math.sin
    with pytest.raises(UserError, match=r"thing 'math:pi': names 3\.14"):
        registry.get("math:pi")
    with pytest.raises(UserError, match="cannot import ''"):
        registry.get(":x")
    with pytest.raises(UserError, match="cannot import 'no_such_module'"):
        registry.get("no_such_module:x")
    with pytest.raises(UserError, match="has no 'sqtr'; did you mean 'sqrt'"):
        registry.get("math:sqtr")


def test_things_of_another_sort_are_told() -> None:
    """Else they fail where they are used, after the training."""
    from saft.experiment.executors import EXECUTORS
    from saft.optim.perturbations.base import PERTURBATIONS, make_perturbation
    from saft.penalties.penalty import PENALTIES
    from saft.trajectory.averaging import AVERAGINGS

    for registry in (PERTURBATIONS, PENALTIES, AVERAGINGS, EXECUTORS):
        for name in ("math:pi", "math:sin", "collections:OrderedDict"):
            with pytest.raises(
                UserError, match=f"{registry.noun} '{name}': names .*, which is something else"
            ):
                registry.get(name)
    with pytest.raises(UserError, match="which is something else"):
        make_perturbation("math:sin")
