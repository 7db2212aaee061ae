from __future__ import annotations

from typing import Any

import pytest

from saft.errors import UserError
from saft.optim import AscentOptions, make_perturbation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_micro_batch": 1}, "per_micro_batch: must be True or False, but is 1"),
        ({"fixed_storage": "yes"}, "fixed_storage: must be True or False, but is 'yes'"),
        ({"low_precision": "float23"}, "unknown value 'float23'; did you mean 'float32'"),
        ({"low_precision": None}, "low_precision: unknown value None"),
    ],
)
def test_values_of_another_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AscentOptions(**options)


def test_they_are_told_from_a_perturbations_options() -> None:
    own, others = AscentOptions.split({"low_precision": "float32", "every": 2, "rhoo": 1})
    assert own == AscentOptions(low_precision="float32")
    assert others == {"every": 2, "rhoo": 1}


@pytest.mark.parametrize(
    ("name", "has_form"), [("sam", True), ("asam", True), ("gsam", False), ("looksam", False)]
)
def test_what_combines_gradients_has_no_form_per_micro_batch(name: str, has_form: bool) -> None:
    options = AscentOptions(per_micro_batch=True)
    AscentOptions().require_form_of(make_perturbation(name))
    if has_form:
        options.require_form_of(make_perturbation(name))
    else:
        with pytest.raises(UserError, match="no form per micro-batch"):
            options.require_form_of(make_perturbation(name))
