from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from saft import config
from saft.config import Count, Fraction, Name, Seeds


@dataclass(frozen=True)
class Inner:
    density: Fraction = 0.2
    """Share of the entries that is kept."""


@dataclass(frozen=True)
class Outer:
    path: str
    """Where it is."""
    inner: Inner = field(default_factory=Inner)
    """Nested."""
    many: dict[Name, Inner] = field(default_factory=dict)
    maybe: Inner | None = None
    seeds: Seeds = field(default_factory=lambda: [0])
    kind: Literal["model", "tensor"] = "model"
    limit: Count | None = None
    free: dict[str, Any] = field(default_factory=dict)


def test_every_key_with_type_default_and_documentation() -> None:
    assert list(config.describe(Outer)) == [
        ("path", "text", "required", "Where it is."),
        ("inner.density", "number in (0, 1]", "0.2", "Share of the entries that is kept."),
        ("many", "mapping to mapping", "{}", ""),
        ("many.NAME.density", "number in (0, 1]", "0.2", "Share of the entries that is kept."),
        ("maybe.density", "number in (0, 1]", "0.2", "Share of the entries that is kept."),
        ("seeds", "list of whole number of at least 0", "[0]", ""),
        ("kind", "model | tensor", "model", ""),
        ("limit", "whole number of at least 1 | null", "null", ""),
        ("free", "mapping", "{}", ""),
    ]
