from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from saft import config
from saft.errors import NotYet, UserError


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
    models: list[str] | dict[config.Name, str] = field(default_factory=list)
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
            "f.yaml: models: must be a list or a mapping, but is 'b'",
        ),
        ({"path": "a", "models": {"x": 3}}, "f.yaml: models.x: must be a text, but is 3; put it in quotes"),
        ({"path": "a", "models": {"../a": "b"}}, "f.yaml: models: '../a' cannot be a name"),
        (
            {"path": "a", "models": [{"model": "b"}]},
            "f.yaml: models.0: must be a text, but is {'model': 'b'}",
        ),
        ({"path": "a", "size": [1]}, "f.yaml: size: must be a whole number or a text, but is [1]"),
        ({"path": "a", "many": {"int": {"densty": 1}}}, "f.yaml: many.int.densty: unknown key"),
        ({"path": "a", "seeds": [0.5]}, "f.yaml: seeds.0: must be a whole number, but is 0.5"),
        ({"path": "a", "seeds": 3}, "f.yaml: seeds: must be a list, [..., ...], but is 3"),
        ({"path": "a", "seeds": "0"}, "f.yaml: seeds: must be a list, [..., ...], but is '0'; write ['0']"),
        ({"path": None}, "f.yaml: path: must be a text, but is null"),
        ({"path": True}, "f.yaml: path: must be a text, but is true; put it in quotes"),
        ({"path": "a", "many": ["x"]}, "f.yaml: many: must be a mapping, {x: ...}, but is ['x']"),
        (
            {"path": "a", "many": "name:drift"},
            "f.yaml: many: must be a mapping, {KEY: ...}, but is 'name:drift'; a blank is missing after the colon in 'name:drift'; write name: drift",
        ),
        ({"path": "a", "many": 3}, "f.yaml: many: must be a mapping, {KEY: ...}, but is 3"),
        ({"path": "a", "inner": "b"}, "f.yaml: inner: must be a mapping, {density: ...}, but is 'b'"),
        ({"path": "a", "optional": 3}, "f.yaml: optional: must be a mapping, {density: ...}, but is 3"),
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


def test_a_mistake_made_often_is_told_a_few_times() -> None:
    with pytest.raises(UserError) as caught:
        config.parse(Outer, {"path": "a", "seeds": ["x"] * 1000}, "f.yaml")
    assert caught.value.problems[-1] == "... and 980 more"
    assert len(caught.value.problems) == 21


def test_a_number_where_a_text_is_wanted_is_cured_by_quotes() -> None:
    with pytest.raises(UserError, match="path: must be a text, but is 5; put it in quotes"):
        config.parse(Outer, {"path": 5}, "f.yaml")
    with pytest.raises(
        UserError, match=r"path: must be a text, but is \{'question': None\}; put it in quotes"
    ):
        config.parse(Outer, {"path": {"question": None}}, "f.yaml")


@dataclass(frozen=True)
class Late:
    """A config in which a name is looked up where that takes long."""

    name: str
    whole: Inner = field(default_factory=Inner)

    def late_check(self) -> None:
        if self.name != "sam":
            raise ValueError(f"name: unknown '{self.name}'")


@config.checked
@dataclass(frozen=True)
class HoldsLate:
    one: Late
    more: dict[str, list[Late]] = field(default_factory=dict)

    def late_check(self) -> None:
        assert self.one.name == "sam", "only comes to pass when what is inside is right"


def test_late_checks_name_their_places_all_at_once() -> None:
    mapping = {"one": {"name": "sma"}, "more": {"x": [{"name": "sam"}, {"name": "mas"}]}}
    with pytest.raises(UserError) as raised:
        config.parse(HoldsLate, mapping, "f.yaml", "top")
    assert raised.value.problems == (
        "f.yaml: top.one: name: unknown 'sma'",
        "f.yaml: top.more.x.1: name: unknown 'mas'",
    )


def test_late_checks_come_last() -> None:
    with pytest.raises(UserError, match=r"^f: one\.whole: density must lie in \(0, 1\], but is 2\.0$"):
        config.parse(HoldsLate, {"one": {"name": "sma", "whole": {"density": 2}}}, "f")


@dataclass(frozen=True)
class WithOptions:
    name: str
    inner: Late

    def check_options(self) -> None:
        if self.name == "outside":
            raise NotYet
        if self.name != "sam":
            raise UserError(f"name: unknown '{self.name}'", "another problem")


def test_options_are_checked_before_what_is_slow_and_can_be_all_that_is_checked() -> None:
    wrong = {"name": "sma", "inner": {"name": "sma"}}
    with pytest.raises(UserError) as raised:
        config.parse(WithOptions, wrong, "f")
    assert raised.value.problems == ("f: name: unknown 'sma'", "f: another problem")
    assert config.parse(WithOptions, wrong, "f", depth="fields").name == "sma"
    assert config.parse(WithOptions, wrong | {"name": "sam"}, "f", depth="options").inner.name == "sma"
    assert config.parse(WithOptions, wrong | {"name": "outside"}, "f", depth="options").name == "outside"


def test_a_constructor_checks_late_too() -> None:
    with pytest.raises(UserError, match=r"^one: name: unknown 'sma'$"):
        HoldsLate(Late("sma"))
