from __future__ import annotations

import pytest

from saft import config
from saft.errors import UserError


def test_command_line_wins_over_the_file() -> None:
    mapping = {"a": {"b": 1}, "list": [1, {"c": 2}]}
    assert config.overridden(mapping, ["--a.b=2", "--a.c", "3", "--d.e.f=[1, x]"]) == {
        "a": {"b": 2, "c": 3},
        "list": [1, {"c": 2}],
        "d": {"e": {"f": [1, "x"]}},
    }
    assert mapping == {"a": {"b": 1}, "list": [1, {"c": 2}]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["density"], "command line: 'density' is not understood; write --key=value"),
        (["--density"], "command line: --density needs a value; write --density=value"),
        (["--a", "--b=1"], "command line: --a needs a value"),
        (["--a=[1"], "command line: --a: line 1: not valid YAML"),
        (
            ["--arms={a:{penalty:{name:drift}}}"],
            "command line: --arms: line 1: a blank is missing after the colon in 'name:drift'; write name: drift",
        ),
        (["--a={b: 1, b: 2}"], "command line: --a: line 1: the key 'b' is given twice"),
        (["--" + "a." * 200 + "a=1"], "is nested too deeply"),
        (
            ["--out=runs/a #2"],
            "command line: --out: YAML reads what begins with '#' in 'runs/a #2' as a comment; put the value in"
            " quotes of its own: --out='\"runs/a #2\"'",
        ),
        (["--out", "#2"], "command line: --out: YAML reads what begins with '#' in '#2' as a comment"),
    ],
)
def test_words_that_are_not_overrides(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.overridden({}, words)
    assert message in str(caught.value)


def test_a_key_may_be_written_with_hyphens_and_a_task_keeps_them() -> None:
    changed = config.overridden({}, ["--shard-size=1GB", "--models.my-task=folder"])
    assert changed == {"shard_size": "1GB", "models": {"my-task": "folder"}}


def test_a_comment_is_one_where_it_is_meant() -> None:
    words = ["--a=x#1", "--b='x #1'", "--c={x: 1} # one", "--d=- x # one\n- y"]
    assert config.overridden({}, words) == {"a": "x#1", "b": "x #1", "c": {"x": 1}, "d": ["x", "y"]}


def test_a_name_may_hold_a_point() -> None:
    given = {"arms": {"rho0": {}, "rho0.05": {"steps": 1}}, "merges": {"ties.0.1": {"scaling": 1}}}
    words = ["--arms.rho0.05.steps=3", "--arms.rho0.steps=2", "--merges.ties.0.1=null"]
    changed = config.overridden(given, words, ["arms"])
    assert changed["arms"] == {"rho0": {"steps": 2}, "rho0.05": {"steps": 3}}
    assert changed["merges"] == {"ties.0.1": None}


def test_an_option_of_a_name_that_is_misspelt_makes_no_further_one() -> None:
    given, named = {"arms": {"openclip": {}}}, ("arms", "tasks")
    with pytest.raises(UserError, match="there is no 'openclp' in arms; did you mean 'openclip'") as caught:
        config.overridden(given, ["--arms.openclp.perturbation.rho=0.1"], named)
    assert caught.value.problems[0].endswith("(a new one is given whole: --arms.openclp='{...}')")
    added = config.overridden(given, ["--arms.sam={steps: 3}", "--arms.sam.perturbation.name=sam"], named)
    assert added["arms"] == {"openclip": {}, "sam": {"steps": 3, "perturbation": {"name": "sam"}}}
    several = config.overridden(given, ["--tasks.a.kind=x", "--tasks.b.kind=y"], named)
    assert several["tasks"] == {"a": {"kind": "x"}, "b": {"kind": "y"}}
    assert config.overridden(given, ["--arms.x.y=3"])["arms"] == {"openclip": {}, "x": {"y": 3}}
