"""What a config can hold, for `--help`: each key with its type, default and documentation."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from saft.config import yaml_files
from saft.config.ranges import Range

__all__ = ["Key", "describe", "in_words"]

_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true | false",
    type(None): "null",
    Any: "any",
}


class Key(NamedTuple):
    """One key of a config.

    Args:
        name: dotted, with NAME where the user chooses the name.
        type: what its value can be, in words.
        default: as YAML, or "required".
        documentation: the text under the field.

    Example:
        >>> from saft.evaluate_config import EvaluateConfig
        >>> next(key for key in describe(EvaluateConfig) if key.name == "batch_size").default
        '64'
    """

    name: str
    type: str
    default: str
    documentation: str


def describe(config_class: type[Any], prefix: str = "") -> Iterator[Key]:
    """Yield every key of a config, nested ones included."""
    hints = get_type_hints(config_class, include_extras=True)
    documentation = _field_documentation(config_class)
    for field in dataclasses.fields(config_class):
        name = prefix + field.name
        nested, through = _nested(hints[field.name])
        if nested is not None and not through:
            yield from describe(nested, name + ".")
            continue
        if field.default is not dataclasses.MISSING:
            default = _in_one_line(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = _in_one_line(field.default_factory())
        else:
            default = "required"
        yield Key(name, in_words(hints[field.name]), default, documentation.get(field.name, ""))
        if nested is not None:
            yield from describe(nested, f"{name}.{through}")


def in_words(hint: Any) -> str:
    """Return what a value of a type can be.

    Example:
        >>> in_words(dict[str, Annotated[int, Range(whole=True, at_least=1)] | None])
        'mapping to whole number of at least 1 | null'
        >>> in_words(Literal["model", "tensor"])
        'model | tensor'
    """
    if dataclasses.is_dataclass(hint):
        return "mapping"  # its keys are told beside it; the name of our class would tell nobody anything
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        allowed = next((item for item in arguments[1:] if isinstance(item, Range)), None)
        return allowed.words if allowed is not None else in_words(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        written = [item for item in arguments if get_origin(item) is not Callable]  # YAML writes none
        return " | ".join(map(in_words, written))
    if _is_a(origin, Mapping):
        return "mapping" if arguments[1] is Any else f"mapping to {in_words(arguments[1])}"
    if _is_a(origin, Sequence):
        return "list of " + ", ".join(in_words(item) for item in arguments if item is not ...)
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)).lower())


def _nested(hint: Any) -> tuple[type[Any] | None, str]:
    """Return the config that a type holds, and what its names go through: "NAME." in a mapping."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint, ""
    if _is_a(get_origin(hint), Mapping):
        nested, through = _nested(get_args(hint)[1])
        return nested, f"NAME.{through}"
    if get_origin(hint) in (Union, UnionType):
        return next((inner for item in get_args(hint) if (inner := _nested(item))[0]), (None, ""))
    return None, ""


def _is_a(kind: Any, base: type[Any]) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _field_documentation(config_class: type[Any]) -> dict[str, str]:
    """Return the string literal under each field: written once, read in the source and in `--help`."""
    documentation: dict[str, str] = {}
    for ancestor in reversed(config_class.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(ancestor))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                documentation[statement.target.id] = " ".join(str(following.value.value).split())
    return documentation


def _in_one_line(value: Any) -> str:
    """Return a default as it would be written in YAML."""
    return yaml_files.dump(value, in_one_line=True)
