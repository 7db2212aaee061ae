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
    round_start,
    rounds_before,
    trained_expert,
)
from saft.interference.loss import loss_measures
from saft.interference.quantity import quantities_of
from saft.measure import sharpness
from saft.measured_units import in_units
from saft.progress import Bar
from saft.tasks import Score
from saft.training.callbacks import Diverged
from saft.training.fine_tuning import training_cost
from saft.training.options import TrainingOptions
from saft.training.train_result import TrainResult

__all__ = ["expert_steps", "round_steps"]

MOST_LOSSES = 200  # of a training that are kept for its curve


def round_steps(session: Session, cell: Cell) -> Iterator[Step]:
    """Yield the steps that come before those of the experts: the arm's rounds, each with its merge.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
    """
    options = session.resolved.arms[cell.arm].first
    if options is None:
        return
    for number in range(1, session.resolved.arms[cell.arm].rounds + 1):
        for task in session.tasks:
            yield _round_step(session, cell, task, number, options)
        if rounds_before(session, cell):
            yield _start_step(session, cell, number)


def _round_step(session: Session, cell: Cell, task: str, number: int, options: TrainingOptions) -> Step:
    def trained(bar: Bar) -> Training:
        return _training(
            session, cell, task, lambda: first_trained(session, cell, task, bar, number), options
        )

    foundations = session.foundations
    rests_on = foundations.training(cell, task) if number == 1 else foundations.expert(cell, task)
    words = f"train on {task}, {'first round' if number == 1 else f'round {number}'}"
    name, cost = f"{cell}/{session.folder.round_name(number, task)}", training_cost(options)
    return Step(name, Training, words, rests_on, cost, trained, decides=True)


def _start_step(session: Session, cell: Cell, number: int) -> Step:
    last = rounds_before(session, cell)

    def merged(_: Bar) -> StartMerge:
        folder = session.folder.start(cell, None if number == last else number)
        begin, is_there = time.perf_counter(), folder.exists()
        try:
            round_start(session, cell, number + 1)
        except Diverged:
            if _is_only_trial(session, cell):
                raise
            return StartMerge(None)
        return StartMerge(None if is_there else time.perf_counter() - begin)

    name = f"{cell}/{session.folder.start_name(number, last)}"
    rests_on, cost = session.foundations.experts(cell), float(len(session.tasks))
    words = f"merge the {'first round' if number == 1 else f'models of round {number}'}"
    return Step(name, StartMerge, words, rests_on, cost, merged, decides=True)


def expert_steps(session: Session, cell: Cell, task: str) -> Iterator[Step]:
    """Yield the steps of one expert: train it or take the given one, measure the sharpness, test.

    Args:
        session: the experiment in this process.
        cell: the arm, train size and seed.
        task: the task's name.
    """
    foundations = session.foundations
    bound, sizes = session.tasks[task], session.sizes[task]
    options = session.resolved.arms[cell.arm].last
    is_given = session.resolved.is_given(cell.arm)
    if not is_given:
        expert_config(session, cell, task)  # which checks what only training knows

    def trained(bar: Bar) -> Training:
        if is_given:
            return _given(session, cell, task)
        return _training(session, cell, task, lambda: trained_expert(session, cell, task, bar), options)

    def sharp(_: Bar) -> Measurement:
        model = session.model(task, expert_folder(session, cell, task), cell)
        config = session.config
        validation = session.splits(cell.train_size, cell.seed)[task].validation
        measures = loss_measures(rho=config.sharpness_rho)
        measured = sharpness(bound, model, validation, measures, config.sharpness_examples)
        told, of_all = quantities_of(measures), session.tasks.values()
        return Measurement(measured, {name: in_units(each, of_all) for name, each in told.items()})

    def tested(_: Bar) -> Score:
        model = session.model(task, expert_folder(session, cell, task), cell)
        test = session.splits(cell.train_size, cell.seed)[task].test
        return session.score(task, model, test)

    where = f"{cell}/experts/{task}"
    rests_on = foundations.expert(cell, task)
    words, cost = f"train on {task}", training_cost(options)
    if is_given:
        words, cost = f"evaluate the expert of {task}", float(sizes["validation"])
    yield Step(f"{where}/training", Training, words, rests_on, cost, trained, decides=True)
    batch = float(min(session.config.sharpness_examples, sizes["validation"]))
    measured = foundations.sharpness(cell, task)
    words = f"measure the sharpness on {task}"
    yield Step(f"{where}/sharpness", Measurement, words, measured, 6 * batch, sharp)
    if session.config.test:
        rests_on = foundations.tested(rests_on)
        words, cost = f"test the expert on {task}", float(sizes["test"])
        yield Step(f"{where}/test", Score, words, rests_on, cost, tested)


def _given(session: Session, cell: Cell, task: str) -> Training:
    """Return what stands for the training of an expert that is given: its validation score."""
    model = session.model(task, session.expert(cell, task), cell)
    validation = session.splits(cell.train_size, cell.seed)[task].validation
    return Training(session.score(task, model, validation), 0, None, device_name(session.device))


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
