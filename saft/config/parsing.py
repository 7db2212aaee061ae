"""A mapping from YAML and command line -> one typed, frozen dataclass; every mistake named by its place."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from saft.errors import UserError, did_you_mean

__all__ = ["checked", "describe", "differences", "dump", "load", "overridden", "parse", "read"]

T = TypeVar("T")

_TYPE = re.compile(r"int|str|(list|dict|function-\w+)\[.*\]")


def load(config_class: type[T], file: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read a YAML file, apply `--dotted.name=value` overrides, and return the typed config.

    Args:
        config_class: a frozen dataclass; its fields are the only keys allowed.
        file: the YAML file; None starts from an empty mapping.
        overrides: the remaining words of the command line: `--a.b=1`, or `--a.b 1`; values are YAML.

    Raises:
        UserError: the file is missing or no mapping, keys are unknown, values have wrong types; all at once.
    """
    where = str(file) if file is not None else "command line"
    return parse(config_class, overridden(read(file), overrides), where)


def parse(config_class: type[T], mapping: Mapping[str, Any], where: str, place: str = "") -> T:
    """Validate a mapping as `config_class`.

    Args:
        config_class: a frozen dataclass.
        mapping: its fields; nested dataclasses as nested mappings.
        where: begins every message: the file, or where else the mapping comes from.
        place: the dotted name of the mapping itself in that file.

    Raises:
        UserError: everything that does not fit, each with its dotted place.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Merge:
        ...     density: float = 0.2
        >>> parse(Merge, {"density": "0.1"}, "merge.yaml")
        Merge(density=0.1)
        >>> parse(Merge, {"desnity": 0.1}, "merge.yaml")
        Traceback (most recent call last):
        saft.errors.UserError: merge.yaml: desnity: unknown key; did you mean 'density'?
    """
    try:
        config: T = _adapter(config_class).validate_python(dict(mapping))  # type: ignore[arg-type]
    except ValidationError as error:
        found = _without_branches(error.errors())
        raise UserError(*(_message(config_class, item, where, place) for item in found)) from None
    return config


def checked(config_class: type[T]) -> type[T]:
    """Make the construction of a config in Python check what `parse` checks of a file: types and ranges.

    Put it above `@dataclass(frozen=True)`. The constructor then raises `UserError`, with every
    problem at once. The types of saft.config.ranges are checked this way too.

    Example:
        >>> @checked
        ... @dataclasses.dataclass(frozen=True)
        ... class Merge:
        ...     density: float = 0.2
        >>> Merge(density=[0.2])
        Traceback (most recent call last):
        saft.errors.UserError: density: input should be a valid number, but it is [0.2]
    """
    construct = config_class.__init__
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def check(self: Any, *args: Any, **keywords: Any) -> None:
        arguments = dict(signature.bind(self, *args, **keywords).arguments)
        del arguments["self"]
        vars(self).update(vars(parse(type(self), arguments, where="")))

    setattr(config_class, "__init__", check)  # noqa: B010 - mypy allows no assignment to it
    return config_class


def overridden(mapping: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `mapping` with dotted command-line overrides set; nothing is modified in place.

    `--shard-size` is understood as `--shard_size`.

    Example:
        >>> overridden({"model": {"path": "a"}}, ["--model.path=b", "--seed", "3"])
        {'model': {'path': 'b'}, 'seed': 3}
    """
    result: dict[str, Any] = _copy(mapping)
    words = iter(overrides)
    for word in words:
        if not word.startswith("--"):
            raise UserError(f"command line: '{word}' is not understood; write --key=value")
        key, equals, text = word[2:].partition("=")
        if not equals:
            text = next(words, "")
            if not text or text.startswith("--"):
                raise UserError(f"command line: --{key} needs a value; write --{key}=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"command line: --{key}: '{text}' is no YAML value; put it in quotes") from None
        first, *rest = key.split(".")
        *parents, last = first.replace("-", "_"), *rest  # fields hold no hyphen; names of tasks may
        place = result
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
    return result


def dump(config: Any) -> str:
    """Return the resolved config as YAML, in the order of its fields."""
    text: str = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, allow_unicode=True, width=110)
    return text


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Yield `place: old, now new` for each leaf in which two plain values differ.

    Example:
        >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2}}))
        ['a.b: was 1, now 2']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif old != new:
        yield f"{place}: was {old}, now {new}"


def describe(config_class: type[Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (dotted name, type, default, documentation) of every field, nested ones included."""
    hints = get_type_hints(config_class)
    documentation = _field_documentation(config_class)
    for field in dataclasses.fields(config_class):
        name = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from describe(hints[field.name], name + ".")
            continue
        if field.default is not dataclasses.MISSING:
            default = yaml.safe_dump(field.default, default_flow_style=True).removesuffix("...\n").strip()
        elif field.default_factory is not dataclasses.MISSING:
            default = yaml.safe_dump(_plain(field.default_factory()), default_flow_style=True).strip()
        else:
            default = "required"
        annotation = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
        yield name, annotation, default, documentation.get(field.name, "")


def read(file: str | Path | None) -> Mapping[str, Any]:
    """Return the mapping in a YAML file; None gives an empty one.

    Raises:
        UserError: there is no such file, or it holds no mapping.
    """
    if file is None:
        return {}
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file (looked in {Path(file).absolute().parent})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    try:
        mapping = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML: " + " ".join(str(error).split())) from None
    if not isinstance(mapping, Mapping):
        raise UserError(f"{file}: must hold `key: value` lines, but holds {type(mapping).__name__}")
    return mapping


@functools.cache
def _adapter(config_class: Any) -> TypeAdapter[Any]:
    setattr(config_class, "__pydantic_config__", {"extra": "forbid"})  # noqa: B010 - mypy knows no such field
    return TypeAdapter(config_class)


def _without_branches(errors: Sequence[Any]) -> list[Any]:
    """Return the errors, of a field that has several types those of the type that fits furthest.

    pydantic tells what is wrong for each type, with the type behind the field's name.
    """
    result = []
    by_field: dict[Any, dict[Any, list[Any]]] = {}
    for error in errors:
        field, *inside = error["loc"] or ("",)  # what is wrong with the whole has no place
        if inside and _TYPE.fullmatch(str(inside[0])):
            by_field.setdefault(field, {}).setdefault(inside[0], []).append(error)
        else:
            result.append(error)
    for field, by_type in by_field.items():
        furthest = max(by_type.values(), key=lambda found: len(found[0]["loc"]))
        if len(by_type) == 1:  # no type, but a key that is called like one
            result += furthest
        elif len(furthest[0]["loc"]) == 2:
            result.append(furthest[0] | {"loc": (field,), "msg": f"input should be {' or '.join(by_type)}"})
        else:
            result += [error | {"loc": (field, *error["loc"][2:])} for error in furthest]
    return result


def _message(config_class: type[Any], error: Any, where: str, prefix: str) -> str:
    # What is wrong with a key is told of the mapping: the message holds the key.
    location = [
        str(part) for part in (error["loc"][:-2] if error["loc"][-1:] == ("[key]",) else error["loc"])
    ]
    place = ": ".join(part for part in (where, ".".join([prefix, *location]).strip(".")) if part)
    match error["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{place}: unknown key{did_you_mean(location[-1], _fields_beside(config_class, location))}"
        case "missing" | "missing_argument":
            return f"{place}: is required, but missing"
        case "literal_error":
            options = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return f"{place}: unknown value '{error['input']}'{did_you_mean(str(error['input']), options)}"
        case "value_error" | "assertion_error":
            return ": ".join(part for part in (place, str(error["ctx"]["error"])) if part)
        case _:
            return f"{place}: {error['msg'][0].lower()}{error['msg'][1:]}, but it is {error['input']!r}"


def _fields_beside(config_class: type[Any], location: Sequence[str]) -> list[str]:
    """Return the keys allowed where `location` points, by walking the annotations."""
    current: Any = config_class
    for part in location[:-1]:
        if dataclasses.is_dataclass(current):
            current = get_type_hints(current).get(part)
        else:  # a dict or list of dataclasses, or an optional one
            current = next((a for a in get_args(current) if get_args(a) or dataclasses.is_dataclass(a)), None)
        while get_args(current) and not dataclasses.is_dataclass(current):
            inner = [a for a in get_args(current) if dataclasses.is_dataclass(a)]
            if type(None) not in get_args(current) or not inner:
                break
            current = inner[0]
    return [field.name for field in dataclasses.fields(current)] if dataclasses.is_dataclass(current) else []


def _field_documentation(config_class: type[Any]) -> dict[str, str]:
    """Return the string literal under each field: written once, read in the source and in `--help`."""
    found: dict[str, str] = {}
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
                found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def _plain(value: Any) -> Any:
    """Return a default as plain values, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
