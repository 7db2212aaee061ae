from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import pytest
from pydantic import TypeAdapter

from saft import config
from saft.config import (
    Count,
    CountOrZero,
    Fraction,
    Name,
    NonNegative,
    OpenFraction,
    Positive,
    Repository,
    Seed,
    Seeds,
)
from saft.errors import UserError


@config.checked
@dataclass(frozen=True)
class Inner:
    rho: NonNegative = 0.05


@config.checked
@dataclass(frozen=True)
class Outer:
    steps: Count = 1
    examples: CountOrZero = 0
    limit: Count | None = None
    density: Fraction = 1.0
    inside: OpenFraction = 0.5
    rate: Positive = 1e-5
    seed: Seed = 0
    seeds: Seeds = field(default_factory=lambda: [0])
    name: Name = "task"
    upload: Repository | None = None
    inner: Inner = field(default_factory=Inner)
    many: dict[Name, Inner] = field(default_factory=dict)
    sizes: dict[str, Count | None] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"steps": 0}, "steps: must be at least 1, but is 0"),
        ({"steps": 10**12}, "steps: must be at most 1000000000, but is 1000000000000"),
        ({"steps": 1.5}, "steps: must be a whole number of at least 1, but is 1.5"),
        ({"steps": True}, "steps: must be a whole number of at least 1, but is True"),
        ({"steps": "many"}, "steps: must be a whole number of at least 1, but is 'many'"),
        ({"steps": None}, "steps: must be a whole number of at least 1, but is None"),
        ({"steps": math.inf}, "steps: must be a finite whole number of at least 1, but is inf"),
        ({"examples": -1}, "examples: must be at least 0, but is -1"),
        ({"limit": -1}, "limit: must be at least 1, but is -1"),
        ({"density": 0}, "density: must be in (0, 1], but is 0"),
        ({"density": 20}, "density: must be in (0, 1], but is 20; it is a fraction, not percent: write 0.2"),
        ({"inside": 1}, "inside: must be in (0, 1), but is 1"),
        ({"rate": 0}, "rate: must be above 0, but is 0"),
        ({"rate": math.nan}, "rate: must be a finite number above 0, but is nan"),
        ({"rate": 10**400}, "rate: must be a finite number above 0, but is 1000"),
        ({"rate": numpy.float32("inf")}, "rate: must be a finite number above 0, but is inf"),
        ({"steps": 10**400}, "steps: must be a finite whole number of at least 1, but is 1000"),
        ({"rate": "nan"}, "rate: must be a finite number above 0, but is nan"),
        ({"seed": -1}, "seed: must be at least 0, but is -1"),
        ({"seed": 2**32}, "seed: must be at most 4294967295, but is 4294967296"),
        ({"seeds": [0, 1, 0]}, "seeds: holds 0 twice; write it once"),
        ({"seeds": []}, "seeds: must not be empty"),
        ({"seeds": [0, -1]}, "seeds.1: must be at least 0, but is -1"),
        ({"name": "../../evil"}, "name: '../../evil' cannot be a name"),
        ({"name": "."}, "name: '.' cannot be a name"),
        ({"name": ""}, "name: '' cannot be a name"),
        ({"name": "x" * 101}, f"name: '{'x' * 101}' cannot be a name"),
        ({"name": "名" * 34}, f"name: '{'名' * 34}' cannot be a name"),
        ({"name": "a\n"}, "name: 'a\n' cannot be a name"),
        ({"upload": "merged"}, "upload: must be a repository of the hub, OWNER/NAME, but is 'merged'"),
        ({"upload": "anna/../b"}, "upload: must be a repository of the hub, OWNER/NAME, but is 'anna/../b'"),
        ({"upload": "./out/x"}, "upload: must be a repository of the hub, OWNER/NAME, but is './out/x'"),
        ({"upload": "anna/a b"}, "upload: must be a repository of the hub, OWNER/NAME, but is 'anna/a b'"),
        ({"inner": {"rho": -1}}, "inner.rho: must be at least 0, but is -1"),
        ({"many": {"a": {"rho": -1}}}, "many.a.rho: must be at least 0, but is -1"),
        ({"many": {"a/b": {}}}, "many: 'a/b' cannot be a name"),
        ({"sizes": {"few": 0}}, "sizes.few: must be at least 1, but is 0"),
    ],
)
def test_out_of_range_in_a_file_and_in_python(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as parsed:
        config.parse(Outer, mapping, "f.yaml")
    with pytest.raises(UserError) as constructed:
        Outer(**mapping)
    assert str(parsed.value).startswith(f"f.yaml: {message}")
    assert str(constructed.value).startswith(message)
    assert len(parsed.value.problems) == len(constructed.value.problems) == 1


@pytest.mark.parametrize(
    ("mapping", "field_name", "value"),
    [
        ({"steps": "1e3"}, "steps", 1000),
        ({"steps": 3.0}, "steps", 3),
        ({"rate": "1e-5"}, "rate", 1e-5),
        ({"rate": numpy.float32(0.5)}, "rate", 0.5),
        ({"seed": numpy.int64(3)}, "seed", 3),
        ({"density": 1}, "density", 1.0),
        ({"seed": 2**32 - 1}, "seed", 2**32 - 1),
        ({"limit": None}, "limit", None),
        ({"name": "größe-1.5_b"}, "name", "größe-1.5_b"),
        ({"upload": "anna/merged-7B_v1.0"}, "upload", "anna/merged-7B_v1.0"),
    ],
)
def test_within_range(mapping: dict[str, Any], field_name: str, value: object) -> None:
    for built in (config.parse(Outer, mapping, "f.yaml"), Outer(**mapping)):
        assert getattr(built, field_name) == value
        assert type(getattr(built, field_name)) is type(value)


def test_a_copy_is_checked_and_positions_count() -> None:
    assert Outer(2) == replace(Outer(), steps=2)
    with pytest.raises(UserError, match="steps: must be at least 1"):
        replace(Outer(), steps=0)
    with pytest.raises(TypeError, match="stepps"):
        Outer(stepps=1)  # type: ignore[call-arg]


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Outer(steps=0, density=2, seeds=[])
    assert len(caught.value.problems) == 3


def test_a_path_to_write_to_is_not_empty_and_may_begin_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    adapter = TypeAdapter(config.Target)
    assert adapter.validate_python("~/runs") == "/home/anna/runs"
    assert adapter.validate_python("runs/~") == "runs/~"
    for text in ("", " "):
        with pytest.raises(ValueError, match="is empty; write a path"):
            adapter.validate_python(text)
