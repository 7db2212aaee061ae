"""A mapping from YAML and command line -> one typed, frozen dataclass; every mistake named by its place."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from saft.config.yaml_files import dump, without_blank
from saft.errors import UserError, collecting, did_you_mean

__all__ = ["Depth", "as_config", "checked", "parse"]

T = TypeVar("T")

Depth = Literal["fields", "options", "all"]
"""How far a config is checked."""

PROBLEMS = 20  # are told; who made more has made one mistake many times

_HOOKS = ("check_options", "late_check")

_CHECKED_TYPE = re.compile(r"function-\w+\[\w+\(\), (\w+)\]")  # pydantic's word for a type with a range
_TYPE = re.compile(r"int|float|str|(list|dict|function-\w+)\[.*\]")
_WORDS = {  # how pydantic's names of types, and of what is none of them, begin -> what a YAML file is to hold
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
}


def parse(
    config_class: type[T], mapping: Mapping[str, Any], where: str, place: str = "", depth: Depth = "all"
) -> T:
    """Validate a mapping as `config_class`.

    First come types, ranges and `__post_init__`. When all is right so far, what is registered under a name
    says whether the options beside the name are its own: a config asks it in a method `check_options`, which
    uses no library that is slow to import, since it is called with saft.stand_ins too. Last comes what only
    such a library knows, as whether a device is there: a config asks it in a method `late_check`.

    Args:
        config_class: a frozen dataclass.
        mapping: its fields; nested dataclasses as nested mappings.
        where: begins every message: the file, or where else the mapping comes from.
        place: the dotted name of the mapping itself in that file.
        depth: "fields" stops before `check_options`, "options" before `late_check`.

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
        problems = [_message(config_class, item, where, place) for item in _without_branches(error.errors())]
        more = [f"... and {len(problems) - PROBLEMS} more"] if len(problems) > PROBLEMS else []
        raise UserError(*problems[:PROBLEMS], *more) from None
    except UserError as error:  # of a `__post_init__`, with places of its own
        raise UserError(*_prefixed(where, error.problems)) from None
    for hook in {"fields": (), "options": _HOOKS[:1], "all": _HOOKS}[depth]:
        if problems := list(_problems_inside(config, place, hook)):
            raise UserError(*_prefixed(where, problems))
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
        saft.errors.UserError: density: must be a number, but is [0.2]
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


def as_config(config: object, config_class: type[T]) -> T:
    """Return the config of a verb that was called in Python, where it is one.

    Args:
        config: what was given.
        config_class: what the verb takes.

    Raises:
        UserError: it is something else, such as the name of a file.

    Example:
        >>> from saft.evaluate_config import EvaluateConfig
        >>> as_config("a.yaml", EvaluateConfig)
        Traceback (most recent call last):
        saft.errors.UserError: config: must be an EvaluateConfig, but is 'a.yaml'; ...
    """
    if isinstance(config, config_class):
        return config
    name = config_class.__name__
    raise UserError(
        f"config: must be {'an' if name[0] in 'AEIO' else 'a'} {name}, but is {config!r}; write saft.{name}("
        f"...), or of a file saft.config.parse(saft.{name}, saft.config.read(FILE), FILE)"
    )


def _prefixed(where: str, problems: Sequence[str]) -> list[str]:
    return [f"{where}: {problem}" if where else problem for problem in problems]


def _problems_inside(value: Any, place: str, hook: str) -> Iterator[str]:
    """Yield what a check reports of the configs inside a config, and if that is nothing, of itself."""
    if isinstance(value, Mapping):
        inside = dict(value)
    elif dataclasses.is_dataclass(value):
        inside = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        inside = dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    fine = True
    for key, item in inside.items():
        for problem in _problems_inside(item, f"{place}.{key}".strip("."), hook):
            fine = False
            yield problem
    if fine and hasattr(value, hook):
        problems: list[str] = []
        try:
            with collecting(problems):
                getattr(value, hook)()
        except ValueError as error:
            problems.append(str(error))
        yield from _prefixed(place, problems)


@functools.cache
def _adapter(config_class: Any) -> TypeAdapter[Any]:
    setattr(config_class, "__pydantic_config__", {"extra": "forbid"})  # noqa: B010 - mypy knows no such field
    return TypeAdapter(config_class)


def _without_branches(errors: Sequence[Any]) -> list[Any]:
    """Return the errors, of a value that may have several types those of the type that fits furthest.

    pydantic reports what is wrong for each type, with the type behind the value's place.
    """
    result = []
    by_place: dict[tuple[Any, ...], dict[Any, list[Any]]] = {}
    for error in errors:
        location = error["loc"]
        types = (at for at, part in enumerate(location) if at and _TYPE.fullmatch(str(part)))
        if (at := next(types, None)) is not None:
            by_place.setdefault(location[:at], {}).setdefault(location[at], []).append(error)
        else:
            result.append(error)
    for place, by_type in by_place.items():
        furthest = max(by_type.values(), key=lambda of_type: len(of_type[0]["loc"]))
        if len(by_type) == 1:  # no type, but a key that is called like one
            result += furthest
        elif len(furthest[0]["loc"]) == len(place) + 1:
            kinds = [_CHECKED_TYPE.sub(r"\1", kind) for kind in by_type]
            message = f"must be {' or '.join(dict.fromkeys(_in_words(kind) or kind for kind in kinds))}"
            result.append(furthest[0] | {"loc": place, "msg": message, "type": "no type"})
        else:
            result += [error | {"loc": (*place, *error["loc"][len(place) + 1 :])} for error in furthest]
    return result


def _message(config_class: type[Any], error: Any, where: str, prefix: str) -> str:
    # What is wrong with a key is reported of the mapping: the message holds the key.
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
        case "string_type" if _is_unquoted(error["input"]):
            return f"{place}: must be a text, but is {_shown(error['input'])}; put it in quotes"
        case "dict_type" | "dataclass_type":
            listed = error["input"] if isinstance(error["input"], list) else []
            known = _fields_beside(config_class, [*location, "any key"])
            key = next((name for name in [*known, *listed] if isinstance(name, str)), "KEY")
            cure = without_blank(error["input"]) if isinstance(error["input"], str) else ""
            text = f"{place}: must be a mapping, {{{key}: ...}}, but is {_shown(error['input'])}"
            return f"{text}; {cure}" if cure else text
        case "list_type":
            alone = isinstance(error["input"], str)
            cure = f"; write {dump([error['input']], in_one_line=True)}" if alone else ""
            return f"{place}: must be a list, [..., ...], but is {_shown(error['input'])}{cure}"
        case "value_error" | "assertion_error":
            return ": ".join(part for part in (place, str(error["ctx"]["error"])) if part)
        case "no type":
            return f"{place}: {error['msg']}, but is {_shown(error['input'])}"
        case kind if words := _in_words(kind):
            return f"{place}: must be {words}, but is {_shown(error['input'])}"
        case _:
            return f"{place}: {error['msg'][0].lower()}{error['msg'][1:]}, but it is {error['input']!r}"


def _in_words(kind: str) -> str:
    """Return what pydantic's type, or its word for a value of another, asks for; empty if it is not known."""
    return next((words for name, words in _WORDS.items() if kind.startswith(name)), "")


def _shown(value: object) -> str:
    """Return a value for a message: what YAML has words of its own for in these."""
    return dump(value, in_one_line=True) if value is None or isinstance(value, bool) else repr(value)


def _is_unquoted(value: object) -> bool:
    """Return whether a value was meant as a text: a number, or the template {question}, a mapping."""
    template = isinstance(value, dict) and list(value.values()) == [None]
    return template or isinstance(value, bool | int | float)


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
