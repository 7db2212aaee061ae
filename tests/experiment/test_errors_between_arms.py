"""The error of a difference between two arms: against a matrix of differences, and in a whole run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saft import config
from saft.experiment import RunConfig
from saft.experiment.errors_between_arms import paired_errors
from saft.report import summarize
from saft.report.results import PairedError, from_json
from saft.run import run


def drawn(generator: np.random.Generator, sizes: dict[str, int], seeds: int, methods: list[str]) -> Any:
    return {
        seed: {m: {t: generator.normal(0, 1, n).tolist() for t, n in sizes.items()} for m in methods}
        for seed in range(seeds)
    }


def error(one: Any, other: Any, tasks: list[str]) -> PairedError | None:
    """Return the error of all methods together."""
    methods = list(dict.fromkeys(method for of in one.values() for method in of))
    made = paired_errors("few", {"x": other, "y": one}, ["x"], {"loss": tasks}, methods)
    return next((e for e in made if e.methods == methods), None)


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))
def test_it_is_that_of_the_differences_of_each_example(seed: int, seeds: int, news: int, tweets: int) -> None:
    generator, sizes, methods = np.random.default_rng(seed), {"news": news, "tweets": tweets}, ["ties", "pcb"]
    one, other = (drawn(generator, sizes, seeds, methods) for _ in range(2))
    variances = []
    for task, count in sizes.items():
        by_example = np.mean(
            [np.subtract(one[s][m][task], other[s][m][task]) for s in range(seeds) for m in methods], axis=0
        )
        variances.append(by_example.var(ddof=1) / count)
    found = error(one, other, list(sizes))
    assert found is not None
    assert found.standard_error == pytest.approx(np.sqrt(sum(variances)) / 2)
    spread = sum(v**2 / (n - 1) for v, n in zip(variances, sizes.values(), strict=True))
    assert found.freedom == pytest.approx(sum(variances) ** 2 / spread)
    same = error(one, one, list(sizes))
    assert same is not None
    assert same.standard_error == 0


def test_accuracies_that_do_not_differ_leave_an_error() -> None:
    right = {seed: {"ties": {"news": [1.0, 0.0, 1.0, 1.0]}} for seed in range(3)}
    found = error(right, right, ["news"])
    assert found is not None
    assert (found.standard_error, found.freedom) == (pytest.approx(math.sqrt(2 / 6 / 6)), 3)


def test_what_is_not_known_of_every_example_gives_none() -> None:
    whole = {0: {"ties": {"news": [1.0, 0.0, 1.0]}}}
    for lacking in ({0: {"ties": {}}}, {0: {"ties": {"news": [1.0, 0.0]}}}, {1: whole[0]}, {0: {}}):
        assert error(whole, lacking, ["news"]) is None
        assert error(lacking, whole, ["news"]) is None
    assert error(whole, whole, []) is None
    for ruined in (math.nan, math.inf, -math.inf):
        lost = {0: {"ties": {"news": [1.0, ruined, 1.0]}}}
        assert error(whole, lost, ["news"]) is None
        assert error(lost, lost, ["news"]) is None
    up, down = (
        {0: {"ties": {"news": [end, 1.0]}}, 1: {"ties": {"news": [-end, 1.0]}}} for end in (math.inf, 1.0)
    )
    assert error(up, down, ["news"]) is None
    one_example = {0: {"ties": {"news": [1.0]}}}
    assert error(one_example, one_example, ["news"]) is None


def test_every_arm_meets_every_baseline_with_each_method_and_with_those_that_are_averaged() -> None:
    methods = {"ties": {"a": [1.0, 0.0]}, "pcb": {"a": [1.0, 1.0]}, "emr": {"a": [0.0, 1.0]}}
    by_example = {arm: {0: methods} for arm in ("x", "y", "z")}
    made = list(
        paired_errors("few", by_example, ["x", "absent"], {"accuracy": ["a"]}, ["average", "ties", "pcb"])
    )
    assert [(e.arm, e.baseline, e.methods) for e in made] == [
        (arm, "x", of) for arm in ("y", "z") for of in (["ties", "pcb"], ["ties"], ["pcb"], ["emr"])
    ]


@pytest.mark.slow  # a run
def test_a_run_says_it_and_its_report_takes_it(small: dict[str, Any], tmp_path: Path) -> None:
    plain = small["arms"]["adamw"]
    start = {"first_round": {"steps": 1}, "start": {"method": "task_arithmetic"}}
    arms = {
        "adamw": plain,
        "sam": plain | {"perturbation": {"name": "sam", "rho": 0.5}},
        "rounds": plain | start,
    }
    out = tmp_path / "run"
    run(config.parse(RunConfig, small | {"arms": arms, "measures": [], "out": str(out)}, "run.yaml"))
    results = from_json((out / "results.json").read_text())
    assert [(e.arm, e.baseline) for e in results.paired_errors] == [("sam", "adamw"), ("rounds", "adamw")]
    parts = {}
    for arm in ("adamw", "sam"):
        (file,) = (out / "figures").rglob(f"{arm}/seed0/merges/*/task_arithmetic/test.json")
        figures = json.loads(file.read_text())["figures"]
        parts[arm] = {task: np.array(values) for task, values in figures["by_example"].items()}
        for task, score in figures["shared"].items():
            assert parts[arm][task].mean() == pytest.approx(score["value"], abs=1e-5)
            assert len(parts[arm][task]) == score["examples"]
    floors = []
    for task, values in parts["adamw"].items():
        apart = parts["sam"][task] - values  # of a single model, so the two that are added are 1 apart
        two_more = np.append(apart, [1, -1])
        floors.append(max(apart.var(ddof=1) / len(apart), two_more.var() / len(two_more)))
    error = np.sqrt(sum(floors)) / len(floors)
    assert results.paired_errors[0].standard_error == pytest.approx(error, abs=1e-6)
    compared = {c.arm: c for c in summarize(results).comparisons}
    assert compared["sam"].merged.standard_error == results.paired_errors[0].standard_error
    assert compared["sam"].errors == {"task_arithmetic": results.paired_errors[0].standard_error}
    assert compared.keys() == {"sam", "rounds"}, "an arm that starts from a merge is compared, not a baseline"
