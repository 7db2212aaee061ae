from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from saft import config
from saft.errors import UserError


@dataclass(frozen=True)
class Inner:
    density: float = 0.2
    """Share of the entries that is kept."""
    kind: Literal["model", "tensor"] = "model"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density must lie in (0, 1], but is {self.density}")


@dataclass(frozen=True)
class Outer:
    """A config."""

    path: str
    """Where it is."""
    inner: Inner = field(default_factory=Inner)
    """Nested."""
    many: dict[str, Inner] = field(default_factory=dict)
    optional: Inner | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    pair: tuple[float, float] = (0.9, 0.999)
    models: list[str] | dict[str, str] = field(default_factory=list)
    size: int | str | None = None


def test_values_are_typed_and_nested() -> None:
    mapping = {"path": "a", "inner": {"density": "5e-1"}, "many": {"x": {}}, "seeds": [1, 2], "pair": [0, 1]}
    assert config.parse(Outer, mapping, "f") == Outer(
        "a", Inner(0.5), {"x": Inner()}, seeds=[1, 2], pair=(0.0, 1.0)
    )


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "f.yaml: path: is required, but missing"),
        ({"path": "a", "iner": {}}, "f.yaml: iner: unknown key; did you mean 'inner'?"),
        (
            {"path": "a", "inner": {"densty": 1}},
            "f.yaml: inner.densty: unknown key; did you mean 'density'?",
        ),
        (
            {"path": "a", "many": {"x": {"densty": 1}}},
            "f.yaml: many.x.densty: unknown key; did you mean 'density'?",
        ),
        (
            {"path": "a", "optional": {"densty": 1}},
            "f.yaml: optional.densty: unknown key; did you mean 'density'?",
        ),
        ({"path": "a", "inner": {"density": 20}}, "f.yaml: inner: density must lie in (0, 1], but is 20.0"),
        (
            {"path": "a", "inner": {"kind": "tensr"}},
            "f.yaml: inner.kind: unknown value 'tensr'; did you mean 'tensor'?",
        ),
        (
            {"path": "a", "models": "b"},
            "f.yaml: models: input should be list[str] or dict[str,str], but it is 'b'",
        ),
        ({"path": "a", "models": {"x": 3}}, "f.yaml: models.x: input should be a valid string, but it is 3"),
        ({"path": "a", "models": [{"model": "b"}]}, "f.yaml: models.0: input should be a valid string"),
        ({"path": "a", "size": [1]}, "f.yaml: size: input should be int or str, but it is [1]"),
        ({"path": "a", "many": {"int": {"densty": 1}}}, "f.yaml: many.int.densty: unknown key"),
        ({"path": "a", "seeds": [0.5]}, "f.yaml: seeds.0: input should be a valid integer"),
    ],
)
def test_each_mistake_names_its_place(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.parse(Outer, mapping, "f.yaml")
    assert str(caught.value).startswith(message)
    assert len(caught.value.problems) == 1


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        config.parse(Outer, {"iner": 1, "seeds": ["x"]}, "f.yaml")
    assert len(caught.value.problems) == 3


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("path: a\ninner: {density: 0.1, kind: tensor}\n")
    found = config.load(Outer, file, ["--inner.density=0.3", "--seeds", "[4]", "--many.x.density=1"])
    assert found == Outer("a", Inner(0.3, "tensor"), {"x": Inner(1.0)}, seeds=[4])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1\n", "must hold `key: value` lines"), (None, "there is no such file")],
)
def test_unreadable_files(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        config.load(Outer, file)


@pytest.mark.parametrize("words", [["density"], ["--density"], ["--a", "--b=1"], ["--a=[1"]])
def test_words_that_are_no_overrides(words: list[str]) -> None:
    with pytest.raises(UserError, match="command line"):
        config.overridden({}, words)


def test_overriding_leaves_the_mapping_alone() -> None:
    mapping = {"a": {"b": 1}}
    assert config.overridden(mapping, ["--a.b=2", "--a.c=3"]) == {"a": {"b": 2, "c": 3}}
    assert mapping == {"a": {"b": 1}}


def test_documentation_is_found_under_the_fields() -> None:
    rows = {name: (default, text) for name, _, default, text in config.describe(Outer)}
    assert rows["path"] == ("required", "Where it is.")
    assert rows["inner.density"] == ("0.2", "Share of the entries that is kept.")
    assert rows["seeds"] == ("[0]", "")


def test_dump_and_load_round_trip() -> None:
    original = Outer("a", Inner(0.5), {"x": Inner()})
    import yaml

    assert config.parse(Outer, yaml.safe_load(config.dump(original)), "f") == original


def test_a_key_may_be_written_with_hyphens_and_a_task_keeps_them() -> None:
    found = config.overridden({}, ["--shard-size=1GB", "--models.my-task=folder"])
    assert found == {"shard_size": "1GB", "models": {"my-task": "folder"}}
