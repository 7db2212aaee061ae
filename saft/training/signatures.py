"""What classes of other libraries take, read from their source: importing them takes seconds."""

from __future__ import annotations

import ast
import functools
import re
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["arguments", "classes_of"]

Kinds = frozenset[type]
"""Types of plain values that an argument takes; empty where the source does not say it in plain words."""

_PLAIN = {"bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict}


@functools.cache
def arguments(module: str, name: str) -> dict[str, Kinds]:
    """Return what the constructor of a class takes, argument -> types of plain values.

    Args:
        module: where the class stands, dotted.
        name: the class.

    Returns:
        Every named argument; nothing where there is no such class, or it is made in another way.

    Example:
        >>> taken = arguments("lightning.pytorch.trainer.trainer", "Trainer")
        >>> taken["benchmark"] == {bool, type(None)}, "bench_mark" in taken
        (True, False)
    """
    text = _source(module)
    for node in ast.walk(ast.parse(text)) if text else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    named = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs][1:]
                    return {item.arg: _kinds(item.annotation) or frozenset() for item in named}
    return {}


@functools.cache
def classes_of(package: str) -> dict[str, str]:
    """Return the classes that a package gathers from its modules, class -> module; {} if it is not there.

    Example:
        >>> classes_of("torch.optim")["SGD"]
        'torch.optim.sgd'
    """
    imports = rf"^from ({re.escape(package)}\.\w+) import ([A-Z]\w+)"
    return {name: module for module, name in re.findall(imports, _source(f"{package}.__init__"), re.M)}


def _source(module: str) -> str:
    """Return the text of a module's file; "" where there is none."""
    library, *inside = module.split(".")
    spec = PathFinder.find_spec(library)
    places = (spec.submodule_search_locations if spec else None) or []
    files = [Path(place, *inside).with_suffix(".py") for place in places]
    return next((file.read_text("utf-8") for file in files if file.is_file()), "")


def _kinds(annotation: ast.expr | None) -> Kinds | None:
    """Return the plain types in an annotation; None if it has a name of which it is not clear what it is."""
    match annotation:
        case ast.Constant(value=None):
            return frozenset({type(None)})
        case ast.Name(id=name):
            if name.startswith("_"):
                return None
            return frozenset({_PLAIN[name]} if name in _PLAIN else ())
        case ast.Subscript(value=ast.Name(id="Union" | "Optional" as origin), slice=inside):
            parts = [_kinds(part) for part in (inside.elts if isinstance(inside, ast.Tuple) else [inside])]
            if any(part is None for part in parts):
                return None
            own: Kinds = frozenset({type(None)} if origin == "Optional" else ())
            return own.union(*(part for part in parts if part is not None))
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            before, after = _kinds(left), _kinds(right)
            return None if before is None or after is None else before | after
        case ast.Subscript(value=value):
            return _kinds(value)
        case _:
            return None
