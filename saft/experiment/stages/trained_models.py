"""The checkpoints of a cell, made where they are missing: of the first round, its merge, of the experts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from saft import config as configs
from saft import tasks
from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.session import Session
from saft.files.checkpoint import read_manifest
from saft.merge import merge
from saft.merging.merge_config import MergeConfig
from saft.progress import Bar
from saft.tasks.heads import head_file
from saft.training.fine_tuning import clear_after_kill, fine_tune
from saft.training.options import TrainingOptions
from saft.training.train_config import TrainConfig
from saft.training.train_result import TrainResult, data_files

__all__ = ["expert_config", "expert_folder", "first_trained", "start_folder", "trained_expert"]


def expert_folder(session: Session, cell: Cell, task: str) -> Path:
    """Return the checkpoint folder of an expert, which is trained again where it was not kept.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    return trained_expert(session, cell, task, Bar(0)).folder


def start_folder(session: Session, cell: Cell) -> Path:
    """Return the checkpoint that a cell's experts start from: the base, or the merge of its first round.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
    """
    start, folder = session.resolved.arms[cell.arm].start, session.start(cell)
    if start is not None and not folder.exists():
        first = {task: str(first_trained(session, cell, task, Bar(0)).folder) for task in session.tasks}
        config = MergeConfig(
            method=start.method,
            base=session.base.path,
            models=first,
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
    if session.resolved.arms[cell.arm].first is not None and not Path(config.out).exists():
        first = {name: first_trained(session, cell, name, Bar(0)).folder for name in session.tasks}
        if config.model != session.base and head_file(first[task], task).exists():
            config = dataclasses.replace(config, head_from=str(first[task]))
    return _fine_tuned(session, cell, config, bar)


def first_trained(session: Session, cell: Cell, task: str, bar: Bar) -> TrainResult:
    """Return a model of the first round, trained where it is missing.

    Args:
        session: the experiment in this process.
        cell: of an arm with a first round.
        task: the task's name.
        bar: to advance.
    """
    options = session.resolved.arms[cell.arm].first
    assert options is not None
    out, start = session.folder.first_round(cell, task), session.folder.base
    return _fine_tuned(session, cell, _config(session, cell, task, options, out, start, []), bar)


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
    return fine_tune(config, splits=splits, progress=bar, reference=reference, cache=session.folder.cache)


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
