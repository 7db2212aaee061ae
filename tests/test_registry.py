from __future__ import annotations

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
    registry: Registry[object] = Registry("thing", "saft.tasks")
    assert registry.get("math:pi") == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(UserError, match="cannot import 'no_such_module'"):
        registry.get("no_such_module:x")
    with pytest.raises(UserError, match="has no 'sqtr'; did you mean 'sqrt'"):
        registry.get("math:sqtr")
