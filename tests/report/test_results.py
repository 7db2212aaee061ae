"""results.json as a type: there and back, and what is told of a file that does not fit."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from saft.errors import UserError
from saft.interference.quantity import Quantity
from saft.report.cell_result import (
    BaseResult,
    CellResult,
    Chosen,
    ChosenPerTask,
    CurvePoint,
    ExpertResult,
    MergeFigures,
)
from saft.report.results import ArmFacts, Protocol, Results, TaskFacts, from_json, to_json
from saft.tasks.metric import Metric, Score

RESULTS = Results(
    versions={"saft": "0.1.0"},
    device="cpu",
    config={"seeds": [0]},
    protocol=Protocol(
        tasks={"reviews": TaskFacts("text_classification", Metric("accuracy", "%"), {"all": 8}, 4, 6)},
        seeds=[0],
        train_sizes={"all": None},
        coefficient="Chosen on validation data.",
        test_reads="Once.",
        tests=True,
    ),
    arms={"adamw": ArmFacts("AdamW", None, None, 10, 10.0)},
    base={"reviews": BaseResult(Score(0.5, 0.2, 4), Score(0.5, 0.2, 6))},
    cells=[
        CellResult(
            "all",
            "adamw",
            0,
            {"reviews": ExpertResult(Score(0.75, 0.2, 4), Score(0.8, None, 6), 10)},
            {
                "average": MergeFigures(
                    {},
                    [CurvePoint(1.0, {"reviews": Score(0.5, 0.25, 4)})],
                    Chosen(1.0, {"reviews": Score(0.6, 0.1, 6)}),
                    ChosenPerTask({"reviews": 1.0}, {"reviews": Score(0.6, 0.1, 6)}),
                )
            },
            {"norm": {"reviews": 1.5}, "cosine": {"reviews": {"reviews": 1.0}}, "sign_conflict": 0.25},
        )
    ],
    quantities={
        "norm": Quantity("length", per="task"),
        "cosine": Quantity("angle", per="pair"),
        "sign_conflict": Quantity("share", unit="%", scale=100, decimals=1),
        "sharpness": Quantity("increase", unit="nats", per="task"),
    },
)


def changed(path, value):
    mapping = json.loads(to_json(RESULTS))
    *parents, last = path
    place = mapping
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(mapping)


def test_there_and_back():
    assert from_json(to_json(RESULTS)) == RESULTS


def test_what_is_not_finite_is_null_and_comes_back_as_not_a_number():
    cell = dataclasses.replace(RESULTS.cells[0], measured={"sharpness": {"reviews": math.inf}})
    text = to_json(dataclasses.replace(RESULTS, cells=[cell]))
    assert json.loads(text)["cells"][0]["measured"] == {"sharpness": {"reviews": None}}
    assert math.isnan(from_json(text).cells[0].measured["sharpness"]["reviews"])
    lost = changed(("base", "reviews", "validation", "value"), math.nan).replace("NaN", "null")
    assert math.isnan(from_json(lost).base["reviews"].validation.value)


EXPECTED = {"of": "base", "value": 50.0, "tolerance": 1.0, "source": "a paper"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5, "r.json: is not valid JSON"),
        ("{", "r.json: is not valid JSON"),
        ("[]", "r.json: must hold an object, but holds list"),
        ('{"cells": []}', "r.json: format: is 1, but this saft reads 2; write it again with `saft run`"),
        ('{"format": 3}', "r.json: format: is 3, but this saft reads 2; a later saft wrote it"),
        (changed(("device",), None), "r.json: device: is required, but missing"),
        (changed(("cells", 0, "train_size"), None), "r.json: cells.0.train_size: is required, but missing"),
        (changed(("cells", 0, "seed"), "x"), "r.json: cells.0.seed: must be a whole number"),
        (
            changed(("base", "reviews", "tset"), 1),
            "r.json: base.reviews.tset: unknown key; did you mean 'test'",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_told_by_its_key(text, message):
    with pytest.raises(UserError) as raised:
        from_json(text, "r.json")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("cells", 0, "arm"), "sam", "all, sam, seed 0: arms has no 'sam'"),
        (("cells", 0, "train_size"), "few", "protocol.train_sizes has no 'few'"),
        (("cells", 0, "experts"), {}, "experts: must be of reviews, but are of none"),
        (("cells", 0, "merges", "average", "shared", "coefficient"), 0.5, "merges.average: its curve lacks"),
        (("cells", 0, "merges", "average", "shared", "test"), {}, "merges.average: its scores must be of"),
        (("protocol", "tests"), False, "merges.average: protocol.tests is False, which its test scores"),
        (("cells", 0, "measured", "drift"), 0.5, "measured.drift: quantities does not say what it is"),
        (("cells", 0, "measured", "norm"), 0.5, "measured.norm: is not nested as quantities says: task"),
        (("cells", 0, "measured", "sign_conflict"), {"a": 1}, "is not nested as quantities says: no axes"),
        (("protocol", "seeds"), [0, 0], "a seed appears twice"),
        (("config", "expected"), 5, "config.expected: must be a mapping"),
        (("config", "expected"), {"a": 5}, "config.expected.a: must be a mapping"),
        (("config", "expected"), {"a": EXPECTED | {"value": "x"}}, "a.value: must be a number, but is 'x'"),
        (("config", "expected"), {"a": EXPECTED | {"source": None}}, "a.source: must be a text"),
        (("config", "expected"), {"a": EXPECTED | {"task": "b"}}, "a.task: there is no 'b'"),
        (("config", "expected"), {"a": EXPECTED | {"arm": []}}, "a.arm: there is no '[]'"),
        (
            ("cells", 0, "merges", "average", "search"),
            [{"values": {"density": 0.1}, "worth": 0.5}],
            "merges.average.parameters.density: must be a number, but is None",
        ),
    ],
)
def test_parts_that_contradict_each_other_are_told(path, value, message):
    with pytest.raises(UserError) as raised:
        from_json(changed(path, value), "r.json")
    assert "r.json: " in str(raised.value)
    assert message in str(raised.value)


def test_a_cell_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="all, adamw, seed 0: appears twice"):
        dataclasses.replace(RESULTS, cells=RESULTS.cells * 2)


def held_types(annotation, known):
    """Add the dataclasses that a type holds, at any depth."""
    if dataclasses.is_dataclass(annotation) and annotation not in known:
        known.add(annotation)
        for hint in get_type_hints(annotation).values():
            held_types(hint, known)
    for part in get_args(annotation):
        held_types(part, known)
    return known


def test_the_readme_names_every_key():
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    told = readme.split("`results.json` has these keys.")[1].split("\n## ")[0]
    types = held_types(Results, set())
    assert {MergeFigures, Quantity, Metric} < types
    for held in sorted(types, key=lambda each: each.__name__):
        missing = [key.name for key in dataclasses.fields(held) if not re.search(rf"\b{key.name}\b", told)]
        assert missing == [], held
