"""The checkpoints of a cell, made where they are missing: of the first round, its merge, of the experts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from saft import config as configs
from saft import tasks
from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.figure_files import Training
from saft.experiment.session import Session
from saft.files.checkpoint import read_manifest
from saft.merge import merge
from saft.merging.merge_config import MergeConfig
from saft.progress import Bar
from saft.tasks.heads import head_file
from saft.training.callbacks import Diverged
from saft.training.fine_tuning import fine_tune
from saft.training.options import TrainingOptions
from saft.training.train_config import TrainConfig
from saft.training.train_result import TrainResult, data_files
from saft.training.work_folder import clear_after_kill

__all__ = [
    "expert_config",
    "expert_folder",
    "first_trained",
    "round_start",
    "rounds_before",
    "start_folder",
    "trained_expert",
]


def expert_folder(session: Session, cell: Cell, task: str) -> Path:
    """Return the checkpoint folder of an expert, which is trained again where it was not kept, or given.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    if session.resolved.is_given(cell.arm):
        return session.expert(cell, task)
    return trained_expert(session, cell, task, Bar(0)).folder


def start_folder(session: Session, cell: Cell) -> Path:
    """Return the checkpoint that a cell's experts start from: the base, or the merge of the last round.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
    """
    return round_start(session, cell, rounds_before(session, cell) + 1)


def rounds_before(session: Session, cell: Cell) -> int:
    """Return how many rounds of an arm are trained and merged before its experts."""
    start = session.resolved.arms[cell.arm].start
    return 0 if start is None else start.rounds


def round_start(session: Session, cell: Cell, number: int) -> Path:
    """Return the checkpoint that a round starts from: the base, or the merge of the round before.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        number: of the round, from 1; the experts' is the one after the last that is merged.
    """
    start = session.resolved.arms[cell.arm].start
    if start is None or number == 1:
        return session.folder.base
    before = number - 1
    folder = session.folder.start(cell, None if before == start.rounds else before)
    if not folder.exists():
        trained = {
            task: str(first_trained(session, cell, task, Bar(0), before).folder) for task in session.tasks
        }
        config = MergeConfig(
            method=start.method,
            base=str(round_start(session, cell, before)),
            models=trained,
            parameters=start.parameters,
            scaling=start.scaling,
            seed=cell.seed,
        )
        merge(config, folder)
    return folder


def trained_expert(session: Session, cell: Cell, task: str, bar: Bar) -> TrainResult:
    """Return an expert, trained where it is missing, after the first round of its arm where that is missing.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
        bar: to advance by the expert's own training.
    """
    start_folder(session, cell)
    config = expert_config(session, cell, task)
    if session.resolved.arms[cell.arm].needs_vectors and not Path(config.out).exists():
        for name in session.tasks:
            first_trained(session, cell, name, Bar(0))
    return _trained_on(session, cell, task, config, rounds_before(session, cell), bar)


def first_trained(session: Session, cell: Cell, task: str, bar: Bar, number: int = 1) -> TrainResult:
    """Return a model of a round before the experts', trained where it is missing.

    Args:
        session: the experiment in this process.
        cell: of an arm with a first round.
        task: the task's name.
        bar: to advance.
        number: of the round, from 1.

    Raises:
        Diverged: it has diverged, now or when it was trained before.
    """
    name = f"{cell}/{session.folder.round_name(number, task)}"
    if session.folder.figures(name).is_file() and session.folder.known(name, Training).diverged:
        raise Diverged("training diverged; lower learning_rate or rho")
    options = session.resolved.arms[cell.arm].first
    assert options is not None
    out, start = session.folder.first_round(cell, task, number), round_start(session, cell, number)
    config = _config(session, cell, task, options, out, start, [])
    return _trained_on(session, cell, task, config, number - 1, bar)


def _trained_on(
    session: Session, cell: Cell, task: str, config: TrainConfig, before: int, bar: Bar
) -> TrainResult:
    """Return what a training gives that goes on with the task's head of the round before, if there is one."""
    if before > 0 and not Path(config.out).exists():
        trained = first_trained(session, cell, task, Bar(0), before).folder
        if head_file(trained, task).exists():
            config = dataclasses.replace(config, head_from=str(trained))
    return _fine_tuned(session, cell, config, bar)


def expert_config(session: Session, cell: Cell, task: str) -> TrainConfig:
    """Return how an expert is trained, in the last round of its arm.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    options, others = session.resolved.arms[cell.arm], []
    if options.needs_vectors:
        others = [str(session.folder.first_round(cell, name)) for name in session.tasks if name != task]
    out, start = session.folder.expert(cell, task), session.start(cell)
    return _config(session, cell, task, options.last, out, start, others)


def _config(
    session: Session, cell: Cell, task: str, options: TrainingOptions, out: Path, start: Path,
    others: list[str],
) -> TrainConfig:  # fmt: skip
    config = session.config
    return TrainConfig(
        model=dataclasses.replace(session.base, path=str(start)),
        task=config.tasks[task],
        out=str(out),
        name=task,
        training=options,
        seed=cell.seed,
        train_examples=config.regimes[cell.train_size],
        validation_examples=config.validation_examples,
        reference=session.resolved.reference(cell.arm, task),
        others=others,
        trainer=config.trainer,
        data_workers=config.data_workers,
        logger=config.logger,
    )


def _fine_tuned(session: Session, cell: Cell, config: TrainConfig, bar: Bar) -> TrainResult:
    task, folder = config.name, Path(config.out)
    if folder.exists():
        _refuse_another(folder, config)
        clear_after_kill(folder)
        return TrainResult.read(folder)
    splits, reference = session.splits(cell.train_size, cell.seed)[task], session.inputs(cell, task)
    try:
        return fine_tune(config, splits=splits, progress=bar, reference=reference, cache=session.folder.cache)
    except UserError:
        if not folder.exists():
            raise
        # A worker that was taken for dead has come back and written the same, before it learned of that.
        return _fine_tuned(session, cell, config, bar)


_PLACES = ("model", "out", "others", "head_from", "upload", "logger")  # which a moved run has elsewhere


def _refuse_another(folder: Path, config: TrainConfig) -> None:
    """Refuse an expert that was trained in another way, before its figures could show it."""
    manifest = read_manifest(folder)
    before, now = dict(manifest["config"]), json.loads(json.dumps(dataclasses.asdict(config)))
    for unessential in (*_PLACES, "checkpoint_every", "data_workers"):
        before.pop(unessential, None)
        now.pop(unessential, None)
    before["data files"] = manifest["data"]["sha256"]
    now["data files"] = data_files(tasks.build(config.name, config.task, "tasks"), config)
    changes = list(configs.differences(before, now))
    if changes:
        raise UserError(
            f"{folder}: was trained in another way: {'; '.join(changes[:3])}; "
            "choose another `out`, or delete it"
        )
