from __future__ import annotations

from typing import Any

import pytest

from saft import config
from saft.errors import UserError
from saft.experiment.run_config import RunConfig
from saft.run import run


def figure(**keys: Any) -> dict[str, Any]:
    return {"of": "base", "value": 1.0, "tolerance": 0.1, "source": "a paper"} | keys


def refused(small: dict[str, Any], expected: dict[str, Any], out: Any, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        run(config.parse(RunConfig, small | {"expected": expected, "out": str(out)} | more, ""))
    assert not out.exists()
    return str(caught.value)


def test_what_could_never_come_out_is_told_with_the_nearest(small: dict[str, Any], tmp_path: Any) -> None:
    told = refused(small, {"a": figure(task="colur"), "b": figure(arm="adam")}, tmp_path / "run")
    assert "expected.a.task: there is no task 'colur'; did you mean 'colour'?" in told
    assert "expected.b.arm: there is no arm 'adam'; did you mean 'adamw'?" in told
    told = refused(small, {"a": figure(of="averge")}, tmp_path / "run")
    assert "expected.a.of: 'averge' is not base, experts or a merge method; did you mean 'average'?" in told


def test_a_mean_over_tasks_of_several_units_is_refused(
    tiny_llama: Any, tiny_tasks: dict[str, Any], small: dict[str, Any], tmp_path: Any
) -> None:
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    text = {"kind": "language_modeling", "data": data, "text": "{text}", "max_length": 16}
    both = {"one": text, "two": text | {"metric_name": "token_accuracy"}}
    more = {"tasks": both, "model": {"path": str(tiny_llama)}}
    told = refused(small, {"mean": figure(), "one": figure(task="one")}, tmp_path / "run", **more)
    assert told == (
        "expected.mean: is the mean over tasks of several units (one: loss, two: token accuracy), which says "
        "nothing; name one with `task`"
    )
