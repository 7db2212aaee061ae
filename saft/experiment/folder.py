"""The folder of an experiment: config.yaml, base, experts, merges, and files of figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from saft import config as configs
from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.run_config import RunConfig
from saft.files.lock import locked
from saft.files.staging import refuse_file, write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["ExperimentFolder", "team"]

CONFIG = "config.yaml"
STEPS = "steps.json"
LOCK = ".lock"

T = TypeVar("T")
LONGEST = 240  # bytes of a name: disks take 255, and files of figures add ".trials"


def team(tasks: Sequence[str]) -> str:
    """Return the name of a set of tasks, which merges and their figures are filed under.

    Example:
        >>> team(["news", "tweets"])
        'news+tweets'
        >>> team([f"task_number_{number}" for number in range(20)])
        'task_number_0+19-others-25a9e5b2'
    """
    name = "+".join(tasks)
    if len(name.encode()) <= LONGEST:
        return name
    return f"{tasks[0]}+{len(tasks) - 1}-others-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class ExperimentFolder:
    """Knows where everything of an experiment lies, and keeps its figures.

    Every figure is in a file of its own as soon as it is known, together with the part of the config that it
    rests on. A file is complete or absent.

    Args:
        path: the folder; need not exist.

    Example:
        >>> ExperimentFolder("runs/quickstart").figures("all/sam/seed0/interference").as_posix()
        'runs/quickstart/figures/all/sam/seed0/interference.json'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def base(self) -> Path:
        """The copy of the pretrained model that every checkpoint of the experiment starts from."""
        return self.path / "base"

    @property
    def cache(self) -> Path:
        """Where penalties keep what they compute at the base, for all trainings; gone at the end of a run."""
        return self.path / "cache"

    def expert(self, cell: Cell, task: str) -> Path:
        """Return the checkpoint folder of one fine-tuned model."""
        return self.path / "experts" / str(cell) / task

    def first_round(self, cell: Cell, task: str, number: int = 1) -> Path:
        """Return the checkpoint folder of one model of a round before the experts'; gone at the end of a run.

        Args:
            cell: of an arm with a first round.
            task: the task's name.
            number: of the round, from 1.
        """
        return self.path / ("first_rounds" if number == 1 else f"rounds_{number}") / str(cell) / task

    def start(self, cell: Cell, number: int | None = None) -> Path:
        """Return the checkpoint folder of a round's merge, from which the next round or the experts start.

        Args:
            cell: of an arm with a first round.
            number: of the round that is merged, from 1, if another follows it before the experts; those are
                gone at the end of a run. None is the last.
        """
        return self.path / ("starts" if number is None else f"starts_{number}") / str(cell)

    def merge(self, cell: Cell, tasks: Sequence[str], method: str) -> Path:
        """Return the checkpoint folder of one merged model of these tasks.

        Args:
            cell: the arm, train size and seed of its experts.
            tasks: their names, in the order of summation.
            method: name of the merge in the config.
        """
        return self.path / "merges" / str(cell) / team(tasks) / method

    @staticmethod
    def round_name(number: int, task: str) -> str:
        """Return the name, within a cell, of the figures of a training of this round, numbered from 1."""
        return f"experts/{task}/{'first_round' if number == 1 else f'round_{number}'}"

    @staticmethod
    def start_name(number: int, last: int) -> str:
        """Return the name, within a cell, of the figures of a round's merge; the last has no number."""
        return "start" if number == last else f"start_{number}"

    def figures(self, name: str) -> Path:
        """Return the file of the figures of this name, such as `limited/sam/seed0/experts/news/test`."""
        return self.path / "figures" / f"{name}.json"

    def trials(self, name: str) -> Path:
        """Return the file of the trials of a search that has begun, whose figures will be of this name."""
        return self.figures(name).with_suffix(".trials")

    @property
    def lock(self) -> Path:
        """The file that says which `saft run` works in the folder."""
        return self.path / LOCK

    def locked(self) -> AbstractContextManager[None]:
        """Return a block in which no other `saft run` works in the folder.

        Raises:
            UserError: another does.
        """
        return locked(self.lock, f"out: {self.path}")

    def places(self, cell: Cell | str) -> list[Path]:
        """Return where something of a cell may lie, the figures last, by which it is known."""
        folders = [place for place in self.path.iterdir() if place.is_dir()]
        return [place / str(cell) for place in sorted(folders, key=lambda place: place.name == "figures")]

    # --- config.yaml -------------------------------------------------------------------------------------

    def refuse_strangers(self) -> None:
        """Refuse a place that is not free and holds no experiment.

        Raises:
            UserError: it is a file, or a folder of something else, or may not be written to.
        """
        if self.path.is_file():
            raise UserError(f"{self.path}: is a file; choose another `out`")
        if self.path.is_symlink() and not self.path.exists():
            there = self.path.readlink()
            raise UserError(f"{self.path}: is a link to {there}, which is not there; make that folder")
        refuse_file(self.path / CONFIG)
        names = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        # But for what a `saft run` leaves that was killed as it began.
        strangers = [name for name in names if name != LOCK and not name.startswith(f".{CONFIG}.saft-")]
        if strangers and not (self.path / CONFIG).is_file():
            raise UserError(f"{self.path}: is not empty, and is not a run of saft; choose another `out`")

    def write_config(self, plain: Mapping[str, Any]) -> None:
        """Write config.yaml, what `Resolved.plain` gives."""
        text = yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True, width=110)
        write_text(self.path / CONFIG, text)

    def read_config(self) -> RunConfig:
        """Return the config that the folder holds, so that any process can go on with it.

        Raises:
            UserError: there is none, or a value of it has been made wrong.
        """
        file = self.path / CONFIG
        return configs.parse(RunConfig, {**configs.read(file), "out": str(self.path)}, str(file))

    def write_steps(self, steps: Mapping[str, Sequence[str]]) -> None:
        """Write which figures there will be, cell -> names, so that anyone can see what is missing."""
        write_text(self.path / STEPS, json.dumps(steps, indent=1, ensure_ascii=False) + "\n")

    def read_steps(self) -> dict[str, list[str]] | None:
        """Return which figures there will be, cell -> names; None where no run has begun.

        Raises:
            UserError: the file is damaged.
        """
        file = self.path / STEPS
        if not file.is_file():
            return None
        try:
            return {cell: list(names) for cell, names in json.loads(file.read_text("utf-8")).items()}
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{file}: is damaged; the next `saft run` writes it again") from None

    # --- figures -----------------------------------------------------------------------------------------

    def known(self, name: str, kind: type[T]) -> T:
        """Return the figures of this name.

        Args:
            name: of the figures.
            kind: what they are, a dataclass.

        Raises:
            UserError: they are not known yet, or the file is damaged.
        """
        return self._parsed(name, self._read(name), kind)

    def foundation(self, name: str, kind: type[Any] | None = None) -> dict[str, Any] | None:
        """Return what the figures of this name rest on, or None where they are not known yet.

        Args:
            name: of the figures.
            kind: what they are, which is looked at too; None takes no look at them.

        Raises:
            UserError: the file is damaged.
        """
        if not self.figures(name).is_file():
            return None
        content = self._read(name)
        if kind is not None:
            self._parsed(name, content, kind)
        match content["rests_on"]:
            case {"config": dict(), "files": dict(files)} as rests_on if all(
                isinstance(digests, dict) for digests in files.values()
            ):
                return dict(rests_on)
        raise self._damaged(name)

    def remember(self, name: str, rests_on: Mapping[str, Any], figures: DataclassInstance) -> None:
        """Write figures, from where they are always read: a first and a resumed run see the same values.

        Args:
            name: of the figures.
            rests_on: place in the config -> plain value, everything that decides the figures.
            figures: a dataclass of plain values.
        """
        content = {"figures": dataclasses.asdict(figures), "rests_on": dict(rests_on)}
        write_text(self.figures(name), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        self.trials(name).unlink(missing_ok=True)  # of a search; the figures hold them by now

    def _parsed(self, name: str, content: Mapping[str, Any], kind: type[T]) -> T:
        if not isinstance(content["figures"], dict):
            raise self._damaged(name)
        try:
            return configs.parse(kind, content["figures"], str(self.figures(name)))
        except UserError as error:
            raise UserError(f"{error.problems[0]}; delete the file, and it is computed again") from None

    def _read(self, name: str) -> dict[str, Any]:
        file = self.figures(name)
        try:
            content = json.loads(file.read_text("utf-8"))
            return {"figures": content["figures"], "rests_on": content["rests_on"]}
        except FileNotFoundError:
            raise UserError(f"{file}: is missing; the next `saft run` computes it") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._damaged(name) from None

    def _damaged(self, name: str) -> UserError:
        return UserError(
            f"{self.figures(name)}: is not a file of figures; delete it, and it is computed again"
        )
