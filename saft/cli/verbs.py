"""The verbs: one table is the whole command line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FLAGS", "OPTIONS", "VERBS", "Verb", "imported"]


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Args:
        summary: its line in `saft --help`.
        function: `module:name` of what does it. It is called with the config, or with the words where there
            is none, and the flags as keywords; what it returns is printed.
        config: `module:name` of the dataclass that its config file holds; "" if it takes none.
        words: what it takes beside CONFIG, as in its usage: "OUT", "[NAME]", "FOLDER...".
        flags: which of `FLAGS` it takes.
        options: which of `OPTIONS` it takes, of a verb without a config.
        read: `module:name` of a function of the mapping, its file and a depth to the config, instead of
            `config`; see `saft.config.parse`.
        kinds: key of the config -> registry, `module:name`, of what can stand there; for `--help`.
        interrupted: what to say of an interruption.
        folder: the config file in a folder that the verb has written, which can be given as CONFIG; "" if it
            writes none.
        folders: the key of the config that folders stand for, which can be given instead of CONFIG; "" if
            none can.
        named: the keys of the config below which the user names things, each with options.
        lists: whether it only says what there is, and computes nothing.
    """

    summary: str
    function: str
    config: str = ""
    words: str = ""
    flags: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    read: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    interrupted: str = "nothing was written"
    folder: str = ""
    folders: str = ""
    named: tuple[str, ...] = ()
    lists: bool = False

    @property
    def usage(self) -> str:
        """The words that follow the verb."""
        parts = [
            self._first,
            self.words,
            *(f"[--{flag}]" for flag in self.flags),
        ]
        parts += [f"[--{option}=VALUE]" for option in self.options]
        overrides = "[--dotted.name=value ...]" if self.config else ""
        return " ".join(part for part in (*parts, overrides) if part)

    @property
    def _first(self) -> str:
        """What the config is given as; in brackets where the command line alone may hold it."""
        if not self.config:
            return ""
        given = "CONFIG" + (" | FOLDER..." if self.folders else " | FOLDER" if self.folder else "")
        return given if self.words else f"[{given}]"


FLAGS = {  # flag -> keyword of the function, meaning
    "check": ("check_only", "check everything, compute and write nothing"),
    "status": ("status_only", "say which cells are done, at work and missing; compute nothing"),
    "tiny": ("tiny", "a dry run: the same on a tiny random model and generated data, into OUT-tiny"),
    "overwrite": ("overwrite", "replace what is in the target"),
}

OPTIONS = {  # option -> meaning; it is the keyword of the function
    "out": "a folder for one page of all folders side by side, where they can be compared",
}

RESUMES = "the same command goes on where it stopped"

VERBS = {
    "run": Verb(
        "train every task and arm, merge, evaluate, measure, report",
        "saft.run:run",
        "saft.experiment.run_config:RunConfig",
        flags=("check", "status", "tiny"),
        kinds={"tasks.NAME": "saft.tasks:TASKS"},
        interrupted=RESUMES,
        folder="config.yaml",
        named=("tasks", "reference", "held_out", "arms", "expected"),
    ),
    "train": Verb(
        "fine-tune on one task -> one checkpoint folder",
        "saft.train:train",
        "saft.training.train_config:TrainConfig",
        flags=("overwrite",),
        kinds={"task": "saft.tasks:TASKS"},
        interrupted=RESUMES,
    ),
    "merge": Verb(
        "checkpoints -> one checkpoint folder",
        "saft.cli.merge_file:merge",
        "saft.merging.merge_config:MergeConfig",
        words="OUT",
        flags=("check", "overwrite"),
        read="saft.cli.merge_file:read",
    ),
    "evaluate": Verb(
        "any checkpoint folder on any tasks",
        "saft.evaluate:evaluate",
        "saft.evaluate_config:EvaluateConfig",
        folders="checkpoints",
        named=("tasks",),
    ),
    "measure": Verb(
        "who hurts whom in a set of checkpoints: weights, losses, functions, merges",
        "saft.measure:measure",
        "saft.measure_config:MeasureConfig",
        folders="checkpoints",
        named=("tasks",),
    ),
    "suggest": Verb(
        "which merge of these checkpoints: methods and coefficients tried in a budget -> a merge file",
        "saft.suggest:suggest",
        "saft.suggest_config:SuggestConfig",
        flags=("overwrite",),
        folders="checkpoints",
        named=("tasks",),
    ),
    "report": Verb(
        "the figures of finished runs -> page and tables, written again",
        "saft.report:rewrite",
        words="FOLDER...",
        options=("out",),
    ),
    "summarize": Verb(
        "a task's inputs -> two matrices a layer, which the penalty kfac_drift reads instead of them",
        "saft.summarize:summarize",
        "saft.summarize_config:SummarizeConfig",
        flags=("overwrite",),
        kinds={"task": "saft.tasks:TASKS"},
    ),
    "methods": Verb(
        "what can be merged how: parameters, defaults, formula, source",
        "saft.merging.methods:describe",
        words="[NAME]",
        lists=True,
    ),
    "measures": Verb(
        "what can be measured: figures, units, equations, passes, options, sources",
        "saft.cli.catalogue:measures",
        words="[NAME]",
        lists=True,
    ),
    "tasks": Verb(
        "what can be trained on: the kinds of tasks and their keys",
        "saft.cli.catalogue:tasks",
        words="[NAME]",
        lists=True,
    ),
    "arms": Verb(
        "what can be trained with: optimizers, perturbations, penalties and averages, options and sources",
        "saft.cli.catalogue:arms",
        words="[NAME]",
        lists=True,
    ),
}


def imported(path: str) -> Any:
    """Return what is called `name` in `module`, given `module:name`."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
