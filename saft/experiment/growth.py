"""What figures rest on, so that a run can grow: only a change of what existing figures rest on is refused.

Every figures file names the part of the config that decided it, and the fingerprints of the files that were
read for it. A further seed, arm, merge, train size or task leaves all of them as they are.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from saft import config as configs
from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.folder import ExperimentFolder
from saft.experiment.resolve import Resolved
from saft.files.checkpoint import read_manifest, weight_files
from saft.files.fingerprints import fingerprint
from saft.files.locations import folder as local_folder
from saft.files.locations import is_hub_id
from saft.tasks import Task

__all__ = ["Changed", "Files", "Foundations", "copied", "files_of", "refuse_changes"]

Files = Mapping[str, Mapping[str, str]]
"""Place in the config -> file -> SHA-256, of the model's weights and of each task's data."""


class Changed(UserError):
    """Figures that are known rest on something else than the config says now.

    Args:
        folder: of the experiment.
        told: what has changed.
    """

    def __init__(self, folder: Path, told: str) -> None:
        super().__init__(
            f"{folder}: holds figures that rest on something else: {told}. "
            "Choose another `out`, or give what has changed a new name, as an arm or a merge of its own"
        )
        self.told = told


def files_of(model: str, copy: Mapping[str, Any] | None, tasks: Mapping[str, Mapping[str, Task]]) -> Files:
    """Return the fingerprints of the files that an experiment rests on.

    Args:
        model: where the pretrained model is. Once it is copied, it need not be there any more.
        copy: from `copied`: what the manifest of the experiment's copy of it says.
        tasks: key of the config -> name -> task.

    Raises:
        UserError: a file is missing.
    """
    data = {
        f"{key}.{name}": {
            location: fingerprint(file) for location, file in task.files(f"{key}.{name}").items()
        }
        for key, declared in tasks.items()
        for name, task in declared.items()
    }
    return {"model": _weights(model, copy), **data}


def copied(base: Path) -> dict[str, Any] | None:
    """Return what the manifest of an experiment's copy of the model says; None where there is no whole one.

    Args:
        base: the copy's folder.
    """
    with suppress(UserError):
        manifest = read_manifest(base)
        if {"location", "tasks", "pooling", "sha256"} <= manifest.keys():
            return manifest
    return None


def _weights(model: str, copy: Mapping[str, Any] | None) -> Mapping[str, str]:
    """Return the fingerprints of a model's weights; what is not at hand any more is asked of its copy."""
    is_gone = is_hub_id(model) or not Path(os.path.expanduser(model)).exists()
    if copy is not None and copy["location"] == model and is_gone:
        return dict(copy["sha256"])
    return {file.name: fingerprint(file) for file in weight_files(local_folder(model, "model.path"))}


class Foundations:
    """Knows what each kind of figures rests on: {"config": a part of the config, "files": fingerprints}.

    Args:
        resolved: the experiment.
        files: fingerprints of what it reads.
    """

    def __init__(self, resolved: Resolved, files: Files) -> None:
        self.resolved = resolved
        self.plain = resolved.plain()
        self._trainings: dict[str, dict[str, Any]] = {}
        self.files = files

    def base(self, task: str) -> dict[str, Any]:
        """Return what a validation score of the untouched base rests on."""
        model = {
            "config": {"model": {"pooling": self.plain["model"]["pooling"]}},
            "files": {"model": self.files["model"]},
        }
        key = "held_out" if task in self.plain["held_out"] else "tasks"
        return union(model, self._keys("validation_examples"), self._data(key, task))

    def expert(self, cell: Cell, task: str) -> dict[str, Any]:
        """Return what a fine-tuned model rests on; the seed is in the names of its files."""
        if self.resolved.is_given(cell.arm):
            place = f"arms.{cell.arm}.experts.{task}"
            config = {"arms": {cell.arm: {"experts": {task: "given"}}}}
            return union(self.base(task), {"config": config, "files": {place: self.files[place]}})
        if self.resolved.arms[cell.arm].first_round is None:
            return self.training(cell, task)
        return union(*(self.training(cell, name) for name in (task, *self.plain["tasks"])))

    def training(self, cell: Cell, task: str) -> dict[str, Any]:
        """Return what a training rests on, but for the others' task vectors: all that a first round does."""
        if cell.arm not in self._trainings:  # of many combinations, few may be tried
            self._trainings[cell.arm] = self.resolved.plain_training(cell.arm)
        arm = self._trainings[cell.arm]
        size = self.plain["regimes"][cell.train_size]
        config = {"arms": {cell.arm: arm}, "regimes": {cell.train_size: size}}
        key = "reference" if self.resolved.reads(cell.arm) == "reference" else "tasks"
        read = (self._data(key, name) for name in self.resolved.reference(cell.arm, task))
        return union(self.base(task), {"config": config}, self._keys("trainer"), *read)

    def experts(self, cell: Cell) -> dict[str, Any]:
        """Return what the fine-tuned models of all tasks rest on."""
        return union(*(self.expert(cell, task) for task in self.plain["tasks"]))

    def sharpness(self, cell: Cell, task: str) -> dict[str, Any]:
        """Return what the sharpness of a fine-tuned model rests on."""
        return union(self.expert(cell, task), self._keys("sharpness_rho", "sharpness_examples"))

    def interference(self, cell: Cell) -> dict[str, Any]:
        """Return what the measures of the task vectors rest on."""
        return union(self.experts(cell), self._keys("density"))

    def measure(self, cell: Cell, name: str) -> dict[str, Any]:
        """Return what a further measure of the experts rests on.

        Args:
            cell: whose experts are measured.
            name: of the measure in the config.
        """
        made = self.resolved.measures[name]
        fields: tuple[dataclasses.Field[Any], ...] = (
            dataclasses.fields(made) if dataclasses.is_dataclass(made) else ()
        )
        options = {field.name: getattr(made, field.name) for field in fields}
        config = {"config": {"measures": {name: json.loads(json.dumps(options))}}}
        below = self.merge(cell, self.resolved.measured_merge) if made.of_merge else self.experts(cell)
        return union(below, config, self._keys("density") if made.needs == "weights" else {})

    def merge(self, cell: Cell, method: str) -> dict[str, Any]:
        """Return what a merge, and the choice of its coefficient, rest on."""
        unsaid = {"choices": {}, "method": method}  # as before there were these keys
        options = {
            key: value
            for key, value in self.plain["merges"][method].items()
            if key not in unsaid or value != unsaid[key]
        }
        config = {"merges": {method: options}}
        if self.plain["selection"]["search"] != "grid":  # a grid has neither a budget nor a seed
            config["selection"] = self._selection("search", "budget", "seed")
        return union(self.experts(cell), {"config": config})

    def held_out(self, below: dict[str, Any], task: str) -> dict[str, Any]:
        """Return what the score of a model on a task that is held out rests on.

        Args:
            below: what the model rests on.
            task: the name of the one that is held out.
        """
        return union(below, self.base(task))

    def weights(self, cell: Cell, method: str) -> dict[str, Any]:
        """Return what the weights of the tasks rest on, found from the coefficient of a merge on.

        Args:
            cell: whose experts are merged.
            method: name of the merge in the config.
        """
        config = {"selection": self._selection("weights", "budget", "seed")}
        return union(self.merge(cell, method), {"config": config})

    def tested(self, foundation: dict[str, Any]) -> dict[str, Any]:
        """Return what test scores rest on, of a model that rests on this foundation."""
        return union(foundation, self._keys("test_examples"))

    def _data(self, key: str, task: str) -> dict[str, Any]:
        place = f"{key}.{task}"
        return {"config": {key: {task: self.plain[key][task]}}, "files": {place: self.files[place]}}

    def _selection(self, *keys: str) -> dict[str, Any]:
        return {key: self.plain["selection"][key] for key in keys}

    def _keys(self, *keys: str) -> dict[str, Any]:
        return {"config": {key: self.plain[key] for key in keys}}


def union(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of several nested mappings, which agree where they meet.

    Example:
        >>> union({"tasks": {"a": 1}}, {"tasks": {"b": 2}, "density": 0.2})
        {'tasks': {'a': 1, 'b': 2}, 'density': 0.2}
    """
    result: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            nested = isinstance(value, Mapping)
            result[key] = union(result.get(key, {}), value) if nested else value
    return result


def refuse_changes(
    folder: ExperimentFolder,
    wanted: Mapping[str, Mapping[str, Any]],
    kinds: Mapping[str, type[Any]] | None = None,
    may_change: Mapping[str, str] | None = None,
) -> set[str]:
    """Refuse to go on where figures that are known already rest on something else than the config says now.

    Args:
        folder: of the experiment.
        wanted: name of the figures -> what they rest on now.
        kinds: name of the figures -> what they are; those that are known are looked at too.
        may_change: name of the figures -> place in the config; where nothing else has changed, they are
            outdated, and are computed anew.

    Returns:
        The names of the figures that are outdated.

    Raises:
        Changed: naming what has changed, and the files that rest on it.
        UserError: figures are damaged.
    """
    changes, outdated = dict[str, list[str]](), set[str]()
    for name, now in wanted.items():
        before = folder.foundation(name, (kinds or {}).get(name))
        since = [] if before is None else list(_changes(before, now))
        place = (may_change or {}).get(name)
        if since and place is not None and all(text.startswith((f"{place}.", f"{place}:")) for text in since):
            outdated.add(name)
            continue
        for change in since:
            changes.setdefault(change, []).append(name)
    if not changes:
        return outdated
    told = [
        f"{change} ({len(names)} file{'s' if len(names) > 1 else ''} of figures, such as "
        f"{folder.figures(names[0]).relative_to(folder.path)})"
        for change, names in list(changes.items())[:3]
    ]
    more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
    raise Changed(folder.path, "; ".join(told) + more)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    yield from configs.differences(before["config"], now["config"])
    for place, files in now["files"].items():
        for file, digest in files.items():
            known = before["files"].get(place, {}).get(file)
            if known is not None and known != digest:
                yield f"{place}: the content of {file} has changed"
    was, now_in = (of["files"].get("model", {}) for of in (before, now))
    if was.keys() != now_in.keys():  # where data are, the config says
        yield f"model: its weights were in {_some(was)}, and are now in {_some(now_in)}"


def _some(names: Collection[str]) -> str:
    return f"{next(iter(names), 'no file')}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
