"""Values given on the command line, `--dotted.name=value`, and what two configs differ in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from saft.config import yaml_files
from saft.errors import UserError, did_you_mean

__all__ = ["differences", "overridden"]


def overridden(
    mapping: Mapping[str, Any], overrides: Sequence[str], named: Collection[str] = ()
) -> dict[str, Any]:
    """Return `mapping` with dotted command-line overrides set; nothing is modified in place.

    `--shard-size` is understood as `--shard_size`, and a key of the file that holds a point as one key.

    Args:
        mapping: what the file says.
        overrides: the remaining words of the command line: `--a.b=1`, or `--a.b 1`; values are YAML.
        named: keys below which the file has names of the user's own, such as `arms`: an option of one that
            is not there would make one more of a misspelt name, and is refused.

    Raises:
        UserError: a word is not an override, its value is not YAML or would end at a `#`, or it is an option
            of a name that is not there.

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
        value = yaml_files.load(text, f"command line: --{key}")
        _refuse_comment(key, text, value)
        first, *rest = key.split(".")
        if len(rest) > yaml_files.DEPTH:
            raise UserError(f"command line: --{key[:40]}...: is nested too deeply")
        *parents, last = _path(result, [first.replace("-", "_"), *rest])  # fields hold no hyphen; names may
        if parents[:1] and parents[0] in named and mapping.get(parents[0]):
            _refuse_new_name(result[parents[0]], parents, key)
        place = result
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
    return result


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Yield `place: old, now new` for each leaf in which two plain values differ.

    Args:
        old: a plain value: mapping, list, number, text.
        new: the other.
        place: begins each key; empty at the top.

    A key that only the new one has is no difference while it is off: an older version did not have it.

    Example:
        >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2, "c": False}}))
        ['a.b: was 1, now 2']
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old and new[key] is not False)]:
            yield from differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif old != new:
        yield f"{place}: was {old}, now {new}"


def _path(known: Any, parts: Sequence[str]) -> Iterator[str]:
    """Yield the keys that a dotted name goes through: of those that are there the longest, as `rho0.05`."""
    while parts:
        known = known if isinstance(known, Mapping) else {}
        counts = (count for count in range(len(parts), 1, -1) if ".".join(parts[:count]) in known)
        count = next(counts, 1)
        key, parts = ".".join(parts[:count]), parts[count:]
        known = known.get(key)
        yield key


def _refuse_comment(key: str, text: str, value: Any) -> None:
    """Refuse a value that YAML cuts off at a comment, which nobody writes on a command line."""
    plain = not isinstance(value, dict | list) and text.strip()[:1] not in ("'", '"') and "\n" not in text
    if plain and re.search(r"(^|\s)#", text):
        raise UserError(
            f"command line: --{key}: YAML reads what begins with '#' in '{text}' as a comment; put the value "
            f"in quotes of its own: --{key}='\"{text}\"'"
        )


def _refuse_new_name(known: Any, parents: Sequence[str], key: str) -> None:
    """Refuse an option of a name that is not there."""
    if len(parents) > 1 and isinstance(known, dict) and (name := parents[1]) not in known:
        raise UserError(
            f"command line: --{key}: there is no '{name}' in {parents[0]}{did_you_mean(name, known)} "
            f"(a new one is given whole: --{parents[0]}.{name}='{{...}}')"
        )


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
