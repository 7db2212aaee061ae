from __future__ import annotations

from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.experiment.resolve import resolve
from saft.experiment.run_config import RunConfig

DATA = {"path": "csv", "files": {"train": "a.csv"}}
A = {"kind": "text_to_text", "data": DATA, "input": "{a}", "target": "{b}"}
B = {"kind": "language_modeling", "data": DATA, "text": "{b}"}
MAPPING: dict[str, Any] = {"out": "run", "model": {"path": "m"}, "tasks": {"a": A}, "arms": {"adamw": {}}}
EXPECTED = {"of": "ties", "value": 1, "tolerance": 1, "source": "s"}


def test_an_arm_has_the_common_options_with_its_own() -> None:
    arms = {"adamw": {}, "longer": {"steps": 9, "description": "more steps"}}
    mapping = MAPPING | {"training": {"steps": 3, "batch_size": 2}, "arms": arms}
    resolved = resolve(config.parse(RunConfig, mapping, ""))
    assert [(options.steps, options.batch_size) for options in resolved.arms.values()] == [(3, 2), (9, 2)]
    assert [resolved.description(arm) for arm in arms] == ["adamw", "more steps"]


def test_a_method_without_coefficients_has_its_own_grid() -> None:
    mapping = MAPPING | {"merges": {"average": {}, "ties": {"scaling": [0.5]}}}
    resolved = resolve(config.parse(RunConfig, mapping, ""))
    assert resolved.merges["average"].scaling == [1.0]
    assert resolved.merges["ties"].scaling == [0.5]


def test_a_merge_with_a_name_of_its_own_says_its_method() -> None:
    merges = {
        "ties": {},
        "sparse": {"method": "ties", "parameters": {"density": 0.1}},
        "apart": {"method": "emr"},
    }
    resolved = resolve(config.parse(RunConfig, MAPPING | {"merges": merges}, ""))
    assert [resolved.method(name) for name in merges] == ["ties", "ties", "emr"]
    assert resolved.merges["sparse"].scaling == resolved.merges["ties"].scaling
    assert resolved.deciding == ["ties", "sparse"]
    assert config.parse(RunConfig, resolved.plain() | {"out": "again"}, "").merges == resolved.merges


def test_every_mistake_is_told_at_once() -> None:
    arms = {"sam": {"perturbation": {"name": "smm"}}, "b": {"averaging": {"name": "ema", "decay": 2}}}
    mapping = MAPPING | {"arms": arms, "merges": {"teis": {}, "emr": {"parameters": {"varient": 1}}}}
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, mapping, "")
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "arms.sam",
        "arms.b",
        "merges.teis",
        "merges.emr",
    ]


def test_mistakes_of_arms_are_told_by_the_config_itself() -> None:
    mapping = MAPPING | {"arms": {"sam": {"rho": 1}, "b": {"steps": 0}}}
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, mapping, "run.yaml")
    assert [": ".join(problem.split(": ")[:2]) for problem in caught.value.problems] == [
        "run.yaml: arms.sam.rho",
        "run.yaml: arms.b.steps",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 0]}, "seeds: holds 0 twice"),
        ({"seeds": []}, "seeds: must not be empty"),
        ({"seeds": [-1]}, "seeds.0: must be at least 0"),
        ({"regimes": {"few": 0}}, "regimes.few: must be at least 1"),
        ({"regimes": {"../few": 1}}, "'../few' cannot be a name"),
        ({"tasks": {"a+b": {}}}, "'a+b' cannot be a name"),
        ({"merges": {"ties": {"scaling": [float("nan")]}}}, "scaling.0: must be a finite number"),
        ({"merges": {"ties": {"scaling": [1, 1]}}}, "holds a coefficient twice"),
        (
            {"merges": {"mine": {"method": "tise"}}},
            "merges.mine: unknown merge method 'tise'; did you mean 'ties'?",
        ),
        ({"merges": {"mine": {}}}, "merges.mine: unknown merge method 'mine'"),
        ({"merges": {"pcb": {"method": "ties"}}}, "merges.pcb: method: is ties, but pcb is another method"),
        ({"merges": {"a/b": {"method": "ties"}}}, "merges.a/b: 'a/b' cannot be a name"),
        ({"merges": {"experts": {"method": "ties"}}}, "merges.experts: 'experts' stands for another model"),
        ({"density": 5}, "density: must be in (0, 1]"),
        ({"sharpness_rho": -1}, "sharpness_rho: must be at least 0"),
        ({"sharpness_examples": 0}, "sharpness_examples: must be at least 1"),
        ({"keep": ["everything"]}, "keep"),
        ({"arms": {"a": {"description": ["x"]}}}, "arms.a.description: must be a text"),
        (
            {"expected": {"x": EXPECTED | {"task": "b"}}},
            "expected.x.task: there is no task 'b'",
        ),
        (
            {"expected": {"x": EXPECTED | {"arm": "admw"}}},
            "expected.x.arm: there is no arm 'admw'; did you mean 'adamw'?",
        ),
        (
            {"expected": {"x": EXPECTED | {"of": "tiez"}}},
            "expected.x.of: 'tiez' is not base, experts or a merge method; did you mean 'ties'?",
        ),
        (
            {"expected": {"x": EXPECTED | {"of": "expert"}}},
            "did you mean 'experts'?",
        ),
        ({"executor": "local", "trainer": {"devices": 2}}, "executor: local gives every cell one device"),
    ],
)
def test_values_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, MAPPING | changes, "run.yaml")
    assert message in str(caught.value)


def test_a_figure_of_a_method_that_is_left_out_of_a_recipe_is_not_refused() -> None:
    mapping = MAPPING | {"merges": {"average": {}}, "expected": {"x": EXPECTED}}
    assert config.parse(RunConfig, mapping, "run.yaml").expected["x"].of == "ties"


def test_a_penalty_reads_the_other_tasks_or_those_under_reference() -> None:
    arms = {
        "plain": {},
        "others": {"penalty": {"name": "drift"}},
        "outside": {"penalty": {"name": "drift", "inputs": "reference"}},
        "none": {"penalty": {"name": "l2_base"}},
    }
    mapping = MAPPING | {"tasks": {"a": A, "b": B}, "arms": arms, "reference": {"news": B | {"text": "{n}"}}}
    resolved = resolve(config.parse(RunConfig, mapping, ""))
    assert resolved.reference("others", "a") == {"b": B}
    assert resolved.reference("outside", "a") == {"news": B | {"text": "{n}"}}
    assert resolved.reference("plain", "a") == resolved.reference("none", "a") == {}


def test_a_penalty_without_inputs_is_refused() -> None:
    arms = {
        "others": {"penalty": {"name": "drift"}},
        "outside": {"penalty": {"name": "drift", "inputs": "reference"}},
    }
    with pytest.raises(UserError) as caught:
        config.parse(RunConfig, MAPPING | {"arms": arms}, "")
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "arms.others.penalty",
        "arms.outside.penalty",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"merges": {"slerp": {}}}, "merges.slerp: models: this method merges 2, but there are 3"),
        (
            {"merges": {"mine": {"method": "ties", "parameters": {"weights": [1, 2]}}}},
            "merges.mine: weights: has 2 numbers, but there are 3 models",
        ),
        (
            {"merges": {"smile": {"choices": {"top_k": [1, 4]}}}},
            "merges.smile: choices.top_k: top_k: must be at most the number of models, 3, but is 4",
        ),
        (
            {"merges": {"linear": {"parameters": {"weights": [1, -1, 1]}}}, "measures": ["pairwise"]},
            "measures: pairwise merges the models of 'a', 'b' by linear: weights: they add up to zero",
        ),
    ],
)
def test_a_merge_that_does_not_take_the_experts_is_told_before_they_are_trained(
    changes: dict[str, Any], told: str
) -> None:
    mapping = MAPPING | {"tasks": dict.fromkeys("abc", A)} | changes
    with pytest.raises(UserError, match=told):
        config.parse(RunConfig, mapping, "")
