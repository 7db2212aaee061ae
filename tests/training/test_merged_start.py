from __future__ import annotations

import pytest

from saft import config
from saft.errors import UserError
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.training.merged_start import MergedStart


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_that_gives_one_model_from_weights_alone_can_be_a_start(name: str) -> None:
    method = METHODS.get(name)
    if method.calibration or method.needs_adapters or issubclass(method, PerTaskMethod):
        with pytest.raises(UserError, match=f"method: {name} "):
            MergedStart(name)
    else:
        MergedStart(name)


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        config.parse(
            MergedStart,
            {"method": "average", "parameters": {"density": 1}, "scaling": 2},
            "run.yaml",
            "arms.rounds.start",
        )
    text = str(caught.value)
    assert "arms.rounds.start: parameters: unknown parameter 'density'" in text
    assert "arms.rounds.start: scaling: average has no scaling coefficient" in text


def test_description() -> None:
    assert MergedStart("ties", {"density": 0.1}, 2.0).describe() == "ties, density 0.1, scaling 2.0"
