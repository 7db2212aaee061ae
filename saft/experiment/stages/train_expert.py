"""One expert: fine-tune on one task, then measure its sharpness, and test it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from saft import config as configs
from saft import tasks
from saft.errors import UserError
from saft.experiment.cells import Cell
from saft.experiment.figure_files import Measurement, Training
from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.files.checkpoint import read_manifest
from saft.interference.loss import loss_measures
from saft.interference.quantity import quantities_of
from saft.measure import sharpness
from saft.progress import Bar
from saft.tasks import Score
from saft.training.callbacks import Diverged
from saft.training.fine_tuning import fine_tune, training_cost
from saft.training.options import TrainingOptions
from saft.training.train_config import TrainConfig
from saft.training.train_result import TrainResult, inputs

__all__ = ["expert_folder", "expert_steps", "first_round_steps"]

MOST_LOSSES = 200  # of a training that are kept for its curve


def first_round_steps(session: Session, cell: Cell, task: str) -> Iterator[Step]:
    """Yield the training whose task vectors the other tasks' experts read, if the arm has a first round.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    options = session.resolved.arms[cell.arm].first
    if options is None:
        return

    def trained(bar: Bar) -> Training:
        return _training(session, cell, task, lambda: _first_trained(session, cell, task, bar), options)

    name, rests_on = f"{cell}/experts/{task}/first_round", session.foundations.training(cell, task)
    words = f"train on {task}, first round"
    yield Step(name, Training, words, rests_on, training_cost(options), trained, decides=True)


def expert_steps(session: Session, cell: Cell, task: str) -> Iterator[Step]:
    """Yield the steps of one expert: train, measure the sharpness, test.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    foundations = session.foundations
    bound, sizes = session.tasks[task], session.sizes[task]
    options = session.resolved.arms[cell.arm].last
    _train_config(session, cell, task)  # which checks what only training knows

    def trained(bar: Bar) -> Training:
        return _training(session, cell, task, lambda: _trained(session, cell, task, bar), options)

    def sharp(_: Bar) -> Measurement:
        model = session.model(task, expert_folder(session, cell, task), cell.arm)
        config = session.config
        validation = session.splits(cell.train_size, cell.seed)[task].validation
        measures = loss_measures(rho=config.sharpness_rho)
        measured = sharpness(bound, model, validation, measures, config.sharpness_examples)
        return Measurement(measured, quantities_of(measures))

    def tested(_: Bar) -> Score:
        model = session.model(task, expert_folder(session, cell, task), cell.arm)
        test = session.splits(cell.train_size, cell.seed)[task].test
        return session.score(task, model, test)

    where = f"{cell}/experts/{task}"
    rests_on = foundations.expert(cell, task)
    words, cost = f"train on {task}", training_cost(options)
    yield Step(f"{where}/training", Training, words, rests_on, cost, trained, decides=True)
    batch = float(min(session.config.sharpness_examples, sizes["validation"]))
    measured = foundations.sharpness(cell, task)
    words = f"measure the sharpness on {task}"
    yield Step(f"{where}/sharpness", Measurement, words, measured, 6 * batch, sharp)
    if session.config.test:
        rests_on = foundations.tested(rests_on)
        words, cost = f"test the expert on {task}", float(sizes["test"])
        yield Step(f"{where}/test", Score, words, rests_on, cost, tested)


def expert_folder(session: Session, cell: Cell, task: str) -> Path:
    """Return the checkpoint folder of an expert, which is trained again where it was not kept.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    return _trained(session, cell, task, Bar(0)).folder


def device_name(device: torch.device) -> str:
    """Return what a device is called in reports: a GPU's model, or the CPU with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def _training(
    session: Session, cell: Cell, task: str, train: Callable[[], TrainResult], options: TrainingOptions
) -> Training:
    """Return the figures of a training; of one that diverged, where the arm has other trials, that it did."""
    try:
        result = train()
    except Diverged:
        if len(session.resolved.trials_of(session.resolved.arm_of(cell))) == 1:
            raise
        nothing = Score(math.nan, None, session.sizes[task]["validation"])  # another trial is chosen
        return Training(nothing, options.steps, None, device_name(session.device), diverged=True)
    return Training(
        result.validation,
        result.steps,
        result.seconds,
        device_name(session.device),
        result.memory,
        result.losses[:: -(-len(result.losses) // MOST_LOSSES) or 1],
    )


def _train_config(session: Session, cell: Cell, task: str) -> TrainConfig:
    options, others = session.resolved.arms[cell.arm], []
    if options.first_round is not None:
        others = [str(session.folder.first_round(cell, name)) for name in session.tasks if name != task]
    return _config(session, cell, task, options.last, session.folder.expert(cell, task), others)


def _config(
    session: Session, cell: Cell, task: str, options: TrainingOptions, out: Path, others: list[str]
) -> TrainConfig:
    config = session.config
    return TrainConfig(
        model=session.base,
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


def _first_trained(session: Session, cell: Cell, task: str, bar: Bar) -> TrainResult:
    options = session.resolved.arms[cell.arm].first
    assert options is not None
    folder = session.folder.first_round(cell, task)
    return _fine_tuned(session, cell, _config(session, cell, task, options, folder, []), bar)


def _trained(session: Session, cell: Cell, task: str, bar: Bar) -> TrainResult:
    config = _train_config(session, cell, task)
    if not Path(config.out).exists():
        for name in session.tasks if config.others else ():
            _first_trained(session, cell, name, Bar(0))  # again, where it was not kept
    return _fine_tuned(session, cell, config, bar)


def _fine_tuned(session: Session, cell: Cell, config: TrainConfig, bar: Bar) -> TrainResult:
    task, folder = config.name, Path(config.out)
    if folder.exists():
        _refuse_another(session, folder, config)
        return TrainResult.read(folder)
    splits, reference = session.splits(cell.train_size, cell.seed)[task], session.inputs(cell, task)
    return fine_tune(config, splits=splits, progress=bar, reference=reference, cache=session.folder.cache)


def _refuse_another(session: Session, folder: Path, config: TrainConfig) -> None:
    """Refuse an expert that was trained in another way, before its figures could show it."""
    manifest = read_manifest(folder)
    before, now = dict(manifest["config"]), json.loads(json.dumps(dataclasses.asdict(config)))
    for unessential in ("out", "upload", "model", "others", "logger", "checkpoint_every", "data_workers"):
        before.pop(unessential, None)
        now.pop(unessential, None)
    before["data files"] = manifest["data"]["sha256"]
    now["data files"] = inputs(tasks.build(config.name, config.task, "tasks"), config)["data"]
    changes = list(configs.differences(before, now))
    if changes:
        raise UserError(
            f"{folder}: was trained in another way: {'; '.join(changes[:3])}; "
            "choose another `out`, or delete it"
        )
