"""mergekit's files of several merges, one a YAML document, which take the results of each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from saft.config.ranges import name_problem
from saft.errors import UserError
from saft.merging.mergekit.references import location
from saft.merging.mergekit.slices import with_models

__all__ = ["Stage", "stages"]


@dataclass(frozen=True)
class Stage:
    """One of the merges of a file.

    Args:
        name: by which others ask for its result; None where nobody can.
        mapping: what its document holds, without the name.
        needs: names of the stages whose results it takes.
    """

    name: str | None
    mapping: Mapping[str, Any]
    needs: tuple[str, ...]

    @property
    def label(self) -> str:
        """What messages call it, and its result where others take it."""
        return self.name or "last merge"


def stages(documents: Sequence[Any], where: str) -> list[Stage]:
    """Return the merges of a file in the order in which they can be done, the one whose result is kept last.

    That is the one without a name or, where all have one, the one that no other takes.

    Args:
        documents: of the file.
        where: the file, for messages.

    Raises:
        UserError: a name cannot be one or is given twice, two merges need each other, or several results
            would be kept.

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
    problems += [f"{where}: name: {text}" for name in named if (text := _name_problem(name))]
    texts = [name for name in named if isinstance(name, str)]
    problems += [
        f"{where}: name: '{name}' is given twice" for name in dict.fromkeys(texts) if texts.count(name) > 1
    ]
    if names.count(None) > 1:
        problems.append(
            f"{where}: {names.count(None)} of its merges are without `name:`, but only one may be: the one "
            "whose result is written to OUT" + _mistyped(mappings)
        )
    if problems:
        raise UserError(*problems)
    waiting = [
        Stage(name, mapping, tuple(sorted(_asked_for(mapping) & set(named))))
        for name, mapping in zip(names, mappings, strict=True)
    ]
    if own := [stage.name for stage in waiting if stage.name in stage.needs]:
        raise UserError(
            *(
                f"{where}: the merge '{name}' takes its own result; if the folder '{name}' is meant, "
                "give the merge another `name:`"
                for name in own
            )
        )
    ordered: list[Stage] = []
    while waiting:
        done = {stage.name for stage in ordered}
        ready = [stage for stage in waiting if done >= {*stage.needs}]
        if not ready:
            circle = ", ".join(repr(stage.name) for stage in waiting if stage.name)
            raise UserError(f"{where}: the merges {circle} need each other's results")
        ordered += ready
        waiting = [stage for stage in waiting if stage not in ready]
    taken = {name for stage in ordered for name in stage.needs}
    *surplus, last = sorted(
        (stage for stage in ordered if stage.name not in taken), key=lambda stage: stage.name is None
    )
    if surplus:
        kept = f"'{last.name}'" if last.name else "the one without a name"
        asked = {text for stage in ordered for text in _asked_for(stage.mapping)}
        raise UserError(
            *(
                f"{where}: no other merge takes the result of '{stage.name}'{_meant(stage.name, asked)}, "
                f"and OUT holds only that of {kept}; write it into a file of its own"
                for stage in surplus
            )
        )
    return [*(stage for stage in ordered if stage is not last), last]


def _name_problem(name: Any) -> str | None:
    if isinstance(name, str):
        return name_problem(name)
    cure = "put it in quotes" if isinstance(name, (int, float)) else "write a word"
    return f"{name!r} is not a word, by which others ask for the result; {cure}"


def _asked_for(mapping: Mapping[str, Any]) -> set[str]:
    """Return what a merge takes: names of other merges, and folders."""
    models = with_models(mapping).get("models")
    listed = models if isinstance(models, list) else []
    references = [entry.get("model") for entry in listed if isinstance(entry, Mapping)]
    asked = set()
    for reference in [*references, mapping.get("base_model")]:
        with suppress(UserError):  # what is no name of a model is told when the merge is read
            asked.add(location(reference).partition("+")[0])
    return asked


def _mistyped(mappings: Iterable[Mapping[str, Any]]) -> str:
    """Return which key may be meant for `name`, as the end of a sentence."""
    keys = {key for mapping in mappings for key in mapping if isinstance(key, str)}
    near = get_close_matches("name", keys, n=1)
    return f"; is '{near[0]}' meant for `name`?" if near else ""


def _meant(name: str | None, asked: Iterable[str]) -> str:
    """Return what is asked for and may be meant for a name, as a part of a sentence."""
    near = get_close_matches(name or "", [text for text in asked if not Path(text).exists()], n=1)
    return f" (is '{near[0]}' meant for it?)" if near else ""
