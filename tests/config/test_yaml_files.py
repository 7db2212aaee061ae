from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from saft import config
from saft.errors import UserError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: yes\nb: no\nc: on\nd: off", {"a": "yes", "b": "no", "c": "on", "d": "off"}),
        ("a: true\nb: False", {"a": True, "b": False}),
        ("{1: a, 2.50: b, null: c, true: d, yes: e, 2001-01-01: f, ~: g}", None),
        ("a: 1e-5\nb: 1.0e-5\nc: 2.\nd: .5\ne: -3\nf: 010\ng: 0x10\nh: 1E3", None),
        ("a: 2026-11-26\nb: 12:30\nc: 1_000", {"a": "2026-11-26", "b": "12:30", "c": "1_000"}),
        ("a: .inf\nb: -.inf", {"a": math.inf, "b": -math.inf}),
        (
            "{a:b: 1, c:d: , 'e:f', torch.optim:SGD: 2}",
            {"a:b": 1, "c:d": None, "e:f": None, "torch.optim:SGD": 2},
        ),
        ("a: [torch.optim:SGD, c:d]", {"a": ["torch.optim:SGD", "c:d"]}),
        ("a:\nb: ~\nc: null", {"a": None, "b": None, "c": None}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
        ("x: &x {<<: {a: 1}, a: 2}\ny: {<<: *x}\nz: *x", {"x": {"a": 2}, "y": {"a": 2}, "z": {"a": 2}}),
        ("a: &a {k: 1}\nb: &b {k: 2, l: 2}\nc: {<<: [*a, *b]}", None),
        ("\ufeffa: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("", None),
    ],
)
def test_read_as_people_mean_it(text: str, value: object) -> None:
    meant = {
        "{1: a": {"1": "a", "2.50": "b", "null": "c", "true": "d", "yes": "e", "2001-01-01": "f", "~": "g"},
        "a: &a": {"a": {"k": 1}, "b": {"k": 2, "l": 2}, "c": {"k": 1, "l": 2}},
        "a: 1e": {"a": 1e-5, "b": 1e-5, "c": 2.0, "d": 0.5, "e": -3, "f": 10, "g": 16, "h": 1000.0},
    }.get(text[:5], value)
    assert config.load(text.removeprefix("\ufeff"), "f.yaml") == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml: line 3: the key 'a' is given twice; its first is in line 1"),
        ("x:\n  a: 1\n  'a': 3", "f.yaml: line 3: the key 'a' is given twice; its first is in line 2"),
        ("1: a\n'1': b", "f.yaml: line 2: the key '1' is given twice"),
        ("a: &a [*a]", "f.yaml: line 1: an alias holds itself"),
        ("a: &a\n  b: {c: *a}", "f.yaml: line 1: an alias holds itself"),
        (BOMB, "f.yaml: holds more than 1000000 values when its aliases are written out"),
        ("[" * 200 + "]" * 200, "f.yaml: line 1: is nested more than 100 levels deep"),
        ("[" * 5000 + "]" * 5000, "f.yaml: is nested too deeply"),
        (
            "a: !!python/object/apply:os.system [true]",
            "f.yaml: line 1: the tag !!python/object/apply:os.system",
        ),
        ("a: !!binary aGk=", "f.yaml: line 1: the tag !!binary is not allowed here"),
        ("a: !!int x", "f.yaml: not valid YAML: invalid literal"),
        ("a: !!bool x", "f.yaml: not valid YAML: 'x' is neither true nor false"),
        ("a: " + "9" * 5000, "f.yaml: not valid YAML: Exceeds the limit"),
        ("a: " + "9" * 400, "f.yaml: not valid YAML: 99999999999999999999... is too large a number"),
        ("a: 0x" + "f" * 400, "f.yaml: not valid YAML: 0xffffffffffffffffff... is too large a number"),
        ("[a]: 1", "f.yaml: line 1: a key must be a word"),
        ('a: "\\0"', "f.yaml: line 1: holds a character"),
        ('a: "\\ud800"', "f.yaml: line 1: holds a character"),
        ('"\\0": 1', "f.yaml: line 1: holds a character"),
        ("a: [", "f.yaml: line 1: not valid YAML"),
        ("a: *b", "f.yaml: line 1: not valid YAML: found undefined alias 'b'"),
        ("a: 1\n\tb: 1", "f.yaml: line 2: not valid YAML: found character '\\t'"),
        ("a: 1\n---\nb: 1", "f.yaml: line 2: not valid YAML: but found another document"),
        ("a: \x01", "f.yaml: not valid YAML: unacceptable character"),
        (
            "{a:{penalty:{name:drift}}}",
            "f.yaml: line 1: a blank is missing after the colon in 'name:drift'; write name: drift",
        ),
        ("a:\n  {seed:0, b: 1}", "f.yaml: line 2: a blank is missing after the colon in 'seed:0'"),
        (
            "a:\n  x: 2\n  name:drift",
            "f.yaml: line 3: not valid YAML: could not find expected ':'; a blank is",
        ),
        (
            "a:\n  name:drift\n  x: 2",
            "; a blank is missing after the colon in 'name:drift'; write name: drift",
        ),
        ("a: !!int [1]", "f.yaml: line 1: not valid YAML: expected a scalar node, but found sequence"),
        ("a: !!bool [x]", "f.yaml: line 1: not valid YAML: expected a scalar node, but found sequence"),
        ("only: [*.weight]", "found '.'; put in quotes what begins with '*': '*.weight'"),
        ("only: *weight", "alias 'weight'; put in quotes what begins with '*': '*weight'"),
        ("a: {question} is", "; put in quotes what begins with '{': '{question} is'"),
        ("a: 1\n\tb: 1", "; indent by blanks, not by tabs"),
        ("{<<: 5}", "f.yaml: line 1: << takes over the keys of a mapping"),
        ("a: &a {<<: *a}", "f.yaml: line 1: an alias holds itself"),
    ],
)
def test_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load(text, "f.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n", "must hold `key: value` lines, but holds a list"),
        (b"text,label\n", "must hold `key: value` lines, but holds a text"),
        (b"", "must hold `key: value` lines, but holds nothing"),
        (b"\xff\xfe", "is not a text file in UTF-8"),
        (b"#" * 2**23, "is larger than 4 MiB, so it is not a config"),
        (None, "there is no such file"),
    ],
    ids=["list", "text", "nothing", "not text", "large", "missing"],
)
def test_files_that_are_not_configs(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        config.read(file)


def test_a_version_of_yaml_is_no_document(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("%YAML 1.2\n---\na: 1\n", "utf-8")
    assert config.read(file, several="all") == {"a": 1}
    file.write_text("%YAML 1.2\n---\na: 1\n---\nb: 2\n", "utf-8")
    assert config.read(file, several="all") == {"all": [{"a": 1}, {"b": 2}]}


def test_a_folder_is_not_a_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name the YAML file in it"):
        config.read(tmp_path)


@dataclass(frozen=True)
class Inner:
    density: float = 0.2


@dataclass(frozen=True)
class Outer:
    path: str
    many: dict[str, Inner] = field(default_factory=dict)
    pair: tuple[float, float] = (0.9, 0.999)


@pytest.mark.parametrize(
    "text", ["yes", "1", "1e-5", "null", "2026-11-26", "0o7", "a: b", "", "~", ".nan", "<<"]
)
def test_what_is_dumped_is_read_back(text: str) -> None:
    original = Outer(text, {text or "x": Inner(1e-5)})
    assert config.parse(Outer, config.load(config.dump(original), "f"), "f") == original
    same = Inner()
    assert "*" not in config.dump(Outer("a", {"x": same, "y": same}))
