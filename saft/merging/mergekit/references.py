"""How mergekit's merge file names a model: by a text, or by a mapping of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saft.errors import UserError, collecting, did_you_mean

__all__ = ["NOT_HERE", "location"]

NOT_HERE = "mergekit can do this; saft does not"


def location(reference: Any) -> str:
    """Return where a model is that mergekit's file names, as saft writes it: MODEL, or MODEL+ADAPTER.

    Args:
        reference: a text, or `{model: PATH, lora: PATH}`, where a path may be `{path: PATH}`.

    Raises:
        UserError: it is something else, or asks for a version or another architecture.

    Example:
        >>> location("base"), location({"model": {"path": "base"}, "lora": "adapter"})
        ('base', 'base+adapter')
    """
    if isinstance(reference, str):
        parts = [reference] if Path(reference).exists() else reference.split("+")
        for part in parts:
            path, _, version = part.partition("@")
            if version and not Path(part).exists():
                raise UserError(_version_problem(path, version))
        return reference
    if not isinstance(reference, Mapping) or reference.get("model") is None:
        raise UserError(
            f"must be a folder, a hub id, or a mapping with `model:` and `lora:`, but is {reference!r:.60}"
        )
    problems: list[str] = []
    places = []
    for key, value in reference.items():
        if key == "override_architecture" and value is not None:
            problems.append(f"override_architecture: {NOT_HERE}; change `architectures` in config.json")
        elif key not in ("model", "lora", "override_architecture"):
            problems.append(f"unknown key '{key}'" + did_you_mean(str(key), ["model", "lora"]))
    for key in ("model", "lora"):
        if reference.get(key) is not None:
            with collecting(problems, f"{key}: "):
                places.append(_path(reference[key]))
    if problems:
        raise UserError(*problems)
    return "+".join(places)


def _path(value: Any) -> str:
    """Return a path, which may stand in a mapping with the version that is meant."""
    if isinstance(value, str):
        return location(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
        raise UserError(f"must be a folder, a hub id, or a mapping with `path:`, but is {value!r:.60}")
    if unknown := [key for key in value if key not in ("path", "revision")]:
        raise UserError(f"unknown key '{unknown[0]}'" + did_you_mean(str(unknown[0]), ["path", "revision"]))
    if value.get("revision") is not None:
        raise UserError(_version_problem(value["path"], value["revision"]))
    return str(value["path"])


def _version_problem(path: str, version: object) -> str:
    return (
        f"the version '{version}' of '{path}': {NOT_HERE}; fetch it by `hf download {path} --revision "
        f"{version} --local-dir FOLDER`, and give FOLDER"
    )
