"""One expert: fine-tune on one task, then measure its sharpness, and test it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch

from saft.experiment.cells import Cell
from saft.experiment.figure_files import Measurement, StartMerge, Training
from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.experiment.stages.trained_models import (
    expert_config,
    expert_folder,
    first_trained,
    start_folder,
    trained_expert,
)
from saft.interference.loss import loss_measures
from saft.interference.quantity import quantities_of
from saft.measure import sharpness
from saft.progress import Bar
from saft.tasks import Score
from saft.training.callbacks import Diverged
from saft.training.fine_tuning import training_cost
from saft.training.options import TrainingOptions
from saft.training.train_result import TrainResult

__all__ = ["expert_steps", "first_round_steps", "start_steps"]

MOST_LOSSES = 200  # of a training that are kept for its curve


def first_round_steps(session: Session, cell: Cell, task: str) -> Iterator[Step]:
    """Yield the training that comes before those of the experts, if the arm has a first round.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    options = session.resolved.arms[cell.arm].first
    if options is None:
        return

    def trained(bar: Bar) -> Training:
        return _training(session, cell, task, lambda: first_trained(session, cell, task, bar), options)

    name, rests_on = f"{cell}/experts/{task}/first_round", session.foundations.training(cell, task)
    words = f"train on {task}, first round"
    yield Step(name, Training, words, rests_on, training_cost(options), trained, decides=True)


def start_steps(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield the merge of the first round, if the arm starts from it.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
    """
    if session.resolved.arms[cell.arm].start is None:
        return

    def merged(_: Bar) -> StartMerge:
        begin, is_there = time.perf_counter(), session.start(cell).exists()
        try:
            start_folder(session, cell)
        except Diverged:
            if _is_only_trial(session, cell):
                raise
            return StartMerge(None)
        return StartMerge(None if is_there else time.perf_counter() - begin)

    rests_on, cost = session.foundations.experts(cell), float(len(session.tasks))
    yield Step(f"{cell}/start", StartMerge, "merge the first round", rests_on, cost, merged, decides=True)


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
    expert_config(session, cell, task)  # which checks what only training knows

    def trained(bar: Bar) -> Training:
        return _training(session, cell, task, lambda: trained_expert(session, cell, task, bar), options)

    def sharp(_: Bar) -> Measurement:
        model = session.model(task, expert_folder(session, cell, task), cell)
        config = session.config
        validation = session.splits(cell.train_size, cell.seed)[task].validation
        measures = loss_measures(rho=config.sharpness_rho)
        measured = sharpness(bound, model, validation, measures, config.sharpness_examples)
        return Measurement(measured, quantities_of(measures))

    def tested(_: Bar) -> Score:
        model = session.model(task, expert_folder(session, cell, task), cell)
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
        if _is_only_trial(session, cell):
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


def _is_only_trial(session: Session, cell: Cell) -> bool:
    return len(session.resolved.trials_of(session.resolved.arm_of(cell))) == 1
