"""YAML as people mean it: what could be read in two ways, or not at all, is refused in one line.

Words are words and numbers are numbers, as in YAML 1.2: `yes`, `no`, `on` and `off` are words, 1e-5 is a
number, and every key is the text that the file says, `1` and `null` too. A key may stand once in its mapping.
An alias may neither hold itself nor make a small file a huge value.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from saft.config.ranges import within_floats
from saft.errors import UserError

__all__ = ["dump", "load", "read", "without_blank"]

BYTES = 4 * 2**20
VALUES = 10**6
DEPTH = 100

_RESOLVED = {  # what a plain word means, by its first letters; everything else is a text
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": (r"<<", ["<"]),
}
_TAGS = {f"tag:yaml.org,2002:{name}" for name in (*_RESOLVED, "str", "seq", "map")}
_STRING = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own attribute


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, (_pattern, _letters) in _RESOLVED.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), _letters)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return within_floats(int(text, 0) if text[:2] in ("0x", "0o") else int(text), text)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))


def _construct_bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    text = str(loader.construct_scalar(node))
    if text.lower() not in ("true", "false"):
        raise ValueError(f"'{text}' is neither true nor false")
    return text.lower() == "true"


_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def read(file: str | Path | None, several: str | None = None) -> Mapping[str, Any]:
    """Return the mapping in a YAML file; None gives an empty one.

    Args:
        file: in UTF-8.
        several: key under which the documents are listed of a file that has several; default: it is refused.

    Raises:
        UserError: there is no such file, or it does not hold one mapping that can be read in one way only.

    Example:
        >>> read("no.yaml")
        Traceback (most recent call last):
        saft.errors.UserError: no.yaml: there is no such file ...
    """
    if file is None:
        return {}
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file (looked in {Path(file).absolute().parent})") from None
    except IsADirectoryError:
        raise UserError(f"{file}: is a folder; name the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: is not a text file in UTF-8: {error.reason} at byte {error.start}"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{file}: cannot be read: {reason}") from None
    if len(content) > BYTES:
        raise UserError(f"{file}: is larger than {BYTES // 2**20} MiB, so it is not a config")
    if several is not None and len(texts := _documents(text)) > 1:
        return {several: [load(one, str(file)) for one in texts]}
    mapping = load(text, str(file))
    if not isinstance(mapping, Mapping):
        kind = {type(None): "nothing", str: "a text", list: "a list"}.get(type(mapping), "a single value")
        raise UserError(f"{file}: must hold `key: value` lines, but holds {kind}")
    return mapping


def _documents(text: str) -> list[str]:
    """Return the documents of a text, each after as many empty lines as are before it, for messages."""
    starts = [at for at, line in enumerate(text.splitlines()) if re.match(r"---(\s|$)", line)]
    lines = text.splitlines()
    ends = [*starts[1:], len(lines)] if starts else [len(lines)]
    before = lines[: starts[0]] if starts else lines
    head = [] if all(not line.strip() or line[0] in "#%" for line in before) else [(0, before)]
    parts = head + [(first, lines[first:last]) for first, last in zip(starts, ends, strict=False)]
    return ["\n" * first + "\n".join(part) for first, part in parts if any(x.strip("- ") for x in part)]


def load(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: one YAML document.
        where: begins every message: the file, or where else the text comes from.

    Raises:
        UserError: it is not YAML, or can be read in two ways; the message has the line.

    Example:
        >>> load("{1: yes, rate: 1e-5}", "f.yaml")
        {'1': 'yes', 'rate': 1e-05}
        >>> load("seed: 1\\nseed: 2", "f.yaml")
        Traceback (most recent call last):
        saft.errors.UserError: f.yaml: line 2: the key 'seed' is given twice; its first is in line 1
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _Check(where).values(node, 1) > VALUES:
            raise UserError(f"{where}: holds more than {VALUES} values when its aliases are written out")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        words = " ".join((error.problem or error.context or "").split())
        around = text.splitlines()[max(mark.line - 1, 0) : mark.line + 1] if mark else []
        cures = [cure for line in around if (cure := without_blank(line))]
        if mark and mark.line < len(lines := text.splitlines()):
            cures += _cures(lines[mark.line], mark.column)
        words = "; ".join([words, *cures])
        raise UserError(f"{where}: {line}not valid YAML: {words}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply") from None
    except ValueError as error:  # a number that Python does not read
        raise UserError(f"{where}: not valid YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _cures(line: str, column: int) -> Iterator[str]:
    """Yield what to do about a tab, and a text whose first letter means something else: `*.weight`, `{x} is`.

    Args:
        line: where the mistake is.
        column: of the letter that was not understood.
    """
    if line[column : column + 1] == "\t":
        yield "indent by blanks, not by tabs"
    begun = re.match(r"[*@`%][^\s,\]}]*", line[max(column - 1, 0) :].lstrip())
    if line[:column].rstrip().endswith("}"):
        begun = re.search(r"(?<![^\s\[])\{\w*\}.*", line)
    if begun is not None:
        yield f"put in quotes what begins with '{begun[0][0]}': '{begun[0]}'"


def without_blank(text: str) -> str:
    """Return what to do about a text that looks like a key and a value; empty if it does not.

    Example:
        >>> without_blank("name:drift")
        "a blank is missing after the colon in 'name:drift'; write name: drift"
    """
    written = re.fullmatch(r"\s*(?:- )?([A-Za-z]\w*):([^\s:/\\].*)", text)
    if written is None:
        return ""
    key, value = written.groups()
    return f"a blank is missing after the colon in '{key}:{value}'; write {key}: {value}"


def dump(config: Any, in_one_line: bool = False) -> str:
    """Return a config, in the order of its fields, or plain values as YAML that `load` reads back.

    Example:
        >>> dump({"name": "yes", "seeds": [0, 1], "size": "1"}, in_one_line=True)
        "{name: yes, seeds: [0, 1], size: '1'}"
    """
    text: str = yaml.dump(
        _plain(config),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf if in_one_line else 110,
        default_flow_style=in_one_line,
    )
    return text.removesuffix("...\n").strip() if in_one_line else text


def _plain(value: Any) -> Any:
    """Return the value without dataclasses and tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Check:
    """Walks the nodes of a document before they become values, and makes every key a text."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._counted: dict[int, int] = {}
        self._open: set[int] = set()

    def values(self, node: yaml.Node, depth: int) -> int:
        """Return how many values a node has when its aliases are written out."""
        if id(node) in self._open:
            self._refuse(node, "an alias holds itself")
        if id(node) in self._counted:
            return self._counted[id(node)]
        if depth > DEPTH:
            self._refuse(node, f"is nested more than {DEPTH} levels deep")
        if node.tag not in _TAGS:
            self._refuse(node, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed here")
        self._open.add(id(node))
        count = 1
        if isinstance(node, yaml.MappingNode):
            node.value = list(self._pairs(node, depth).values())
            count += sum(self.values(value, depth + 1) for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            count += sum(self.values(value, depth + 1) for value in node.value)
        else:
            self._text(node)
        self._open.remove(id(node))
        self._counted[id(node)] = count
        return count

    def _pairs(self, node: yaml.MappingNode, depth: int) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the pairs of a mapping by their keys, with those that `<<` takes over from others."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse(key, "a key must be a word; put it in quotes if it begins with a bracket")
            self._text(key)
            if key.tag == _MERGE:
                for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(other, yaml.MappingNode):
                        self._refuse(key, "<< takes over the keys of a mapping, or of a list of them")
                    self.values(other, depth + 1)
                    merged = {pair[0].value: pair for pair in other.value} | merged
            elif key.value in own:
                first = own[key.value][0].start_mark.line + 1
                self._refuse(key, f"the key '{key.value}' is given twice; its first is in line {first}")
            else:
                self._blank_after_colon(key, value)
                text = yaml.ScalarNode(_STRING, key.value, key.start_mark, key.end_mark)
                own[key.value] = (text, value)
        return {name: pair for name, pair in merged.items() if name not in own} | own

    def _blank_after_colon(self, key: yaml.ScalarNode, value: yaml.Node) -> None:
        """Refuse {name:drift}, which YAML reads as a key without a value; nobody means that."""
        has_no_value = key.style is None and value.start_mark.index == key.end_mark.index
        if has_no_value and (cure := without_blank(key.value)):
            self._refuse(key, cure)

    def _text(self, node: yaml.Node) -> None:
        if "\0" in node.value or re.search("[\ud800-\udfff]", node.value):
            self._refuse(node, "holds a character that no file name or text can have")

    def _refuse(self, node: yaml.Node, why: str) -> NoReturn:
        raise UserError(f"{self.where}: line {node.start_mark.line + 1}: {why}")
