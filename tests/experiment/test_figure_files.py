from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saft.errors import UserError
from saft.experiment.figure_files import Choice, Measurement, ValidatedCandidate
from saft.experiment.folder import ExperimentFolder
from saft.interference.quantity import Quantity
from saft.tasks import Score


@pytest.mark.parametrize(
    ("damage", "kind", "told"),
    [
        ({"value": "much"}, Score, "value: must be a number"),
        ({"examples": 1.5}, Score, "examples: must be a whole number"),
        ({"more": 1}, Score, "more: unknown key"),
        ({"per_task": {"a": 0.4}}, Choice, "curve: lacks a coefficient that was chosen"),
        ({"per_task": {"b": 0.3}}, Choice, "curve: the scores at 0.3 are of other tasks than per_task"),
        ({"curve": [{"candidate": 0.3}]}, Choice, r"curve.0.validation: is required, but missing"),
        ({"quantities": {}}, Measurement, "measured.norm: quantities does not say what it is"),
        ({"measured": {"norm": [1]}}, Measurement, "measured.norm: must be a number or a mapping, but is"),
        (
            {"quantities": {"norm": {"meaning": "length", "per": "model"}}},
            Measurement,
            "quantities.norm.per: unknown value 'model'",
        ),
    ],
)
def test_figures_of_another_shape_are_told_before_they_are_used(
    tmp_path: Path, damage: dict[str, Any], kind: type[Any], told: str
) -> None:
    right = {
        Score: Score(0.5, 0.1, 25),
        Choice: Choice([ValidatedCandidate(0.3, {"a": Score(0.5, None, 2)})], 0.3, {"a": 0.3}),
        Measurement: Measurement({"norm": {"a": 1.0}}, {"norm": Quantity("length", per="task")}),
    }[kind]
    folder = ExperimentFolder(tmp_path)
    folder.remember("a", {}, right)
    assert folder.known("a", kind) == right
    content = json.loads(folder.figures("a").read_text())
    content["figures"] |= damage
    folder.figures("a").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=f"figures/a.json: {told}.*; delete the file, and it is computed again"
    ):
        folder.known("a", kind)
