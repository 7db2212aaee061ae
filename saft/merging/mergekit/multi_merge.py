"""mergekit's files of several merges, one a YAML document, which take the results of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saft.config.ranges import name_problem
from saft.errors import UserError

__all__ = ["Stage", "stages"]


@dataclass(frozen=True)
class Stage:
    """One of the merges of a file.

    Args:
        name: by which others ask for its result; None of the last, whose result is the file's.
        mapping: what its document holds, without the name.
        needs: names of the stages whose results it takes.
    """

    name: str | None
    mapping: Mapping[str, Any]
    needs: tuple[str, ...]

    def at(self, folders: Mapping[str, str]) -> dict[str, Any]:
        """Return the mapping with folders in the place of the names of stages.

        Args:
            folders: name of a stage -> where its result is.
        """
        given = dict(self.mapping)
        if isinstance(given.get("base_model"), str):
            given["base_model"] = _at(given["base_model"], folders)
        if isinstance(given.get("models"), list):
            given["models"] = [
                entry | {"model": _at(entry["model"], folders)} if _is_model(entry) else entry
                for entry in given["models"]
            ]
        return given


def stages(documents: Sequence[Any], where: str) -> list[Stage]:
    """Return the merges of a file in the order in which they can be done, the unnamed one last.

    Args:
        documents: of the file.
        where: the file, for messages.

    Raises:
        UserError: not exactly one is without a name, a name is given twice, or two need each other.

    Example:
        >>> last = {"merge_method": "linear", "models": [{"model": "first"}, {"model": "c"}]}
        >>> first = {"name": "first", "merge_method": "linear", "models": [{"model": "a"}]}
        >>> [stage.name for stage in stages([last, first], "merges.yaml")]
        ['first', None]
    """
    problems = [
        f"{where}: document {at}: must hold `key: value` lines"
        for at, document in enumerate(documents, 1)
        if not isinstance(document, Mapping)
    ]
    mappings = [dict(document) for document in documents if isinstance(document, Mapping)]
    names = [mapping.pop("name", None) for mapping in mappings]
    named = [name for name in names if name is not None]
    problems += [f"{where}: name: {text}" for name in named if (text := name_problem(name))]
    problems += [f"{where}: name: '{name}' is given twice" for name in {*named} if named.count(name) > 1]
    if names.count(None) != 1:
        problems.append(
            f"{where}: {names.count(None)} of its merges are without `name:`, but one must be: the one whose "
            "result is written to OUT"
        )
    if problems:
        raise UserError(*problems)
    waiting = [
        Stage(name, mapping, tuple(sorted(_needs(mapping, set(named)))))
        for name, mapping in zip(names, mappings, strict=True)
    ]
    ordered: list[Stage] = []
    while waiting:
        done = {stage.name for stage in ordered}
        ready = [stage for stage in waiting if done >= {*stage.needs}]
        if not ready:
            circle = ", ".join(repr(stage.name) for stage in waiting if stage.name)
            raise UserError(f"{where}: the merges {circle} need each other's results")
        ordered += ready
        waiting = [stage for stage in waiting if stage not in ready]
    return sorted(ordered, key=lambda stage: stage.name is None)


def _needs(mapping: Mapping[str, Any], names: set[str]) -> set[str]:
    models = mapping.get("models")
    listed = [entry["model"] for entry in models if _is_model(entry)] if isinstance(models, list) else []
    asked = [*listed, *([mapping["base_model"]] if isinstance(mapping.get("base_model"), str) else [])]
    return {location.partition("+")[0] for location in asked} & names


def _is_model(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("model"), str)


def _at(location: str, folders: Mapping[str, str]) -> str:
    model, plus, adapter = location.partition("+")
    return folders.get(model, model) + plus + adapter
