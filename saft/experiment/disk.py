"""What of an experiment stays on disk: experts, merges, or of the merges the best only; nothing outdated."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

from saft.experiment.cells import Cell
from saft.experiment.selection import mean_normalized
from saft.experiment.session import Session
from saft.experiment.stages import (
    choice,
    chosen_cells,
    drawn_cells,
    expert_values,
    keep_merges,
    weighted_folder,
    write_merge,
)
from saft.progress import note

__all__ = ["best_merges", "forget_outdated", "settle"]


def forget_outdated(session: Session) -> None:
    """Remove all that is there of the cells that are outdated, the figures last: by them it is known.

    Args:
        session: of this process, which is alone in the folder.
    """
    for cell in sorted(session.outdated):
        note(f"{cell} is computed anew: its arm has changed since it failed")
        for place in session.folder.places(cell):
            _remove(place)
    session.outdated.clear()


def settle(session: Session) -> None:
    """Leave on disk what the config's `keep` says, now that every figure is known.

    Without merges in it, the best merge of each arm and train size is written, and the others are removed; of
    an arm with `choices`, merges of the chosen trial. The experts of its other trials stay as the chosen ones
    do: with a further seed another trial may be chosen.
    Only what belongs to this config is touched: an arm that was taken out of it keeps its files. Nothing is
    trained again just to be kept.
    """
    tasks, keep = list(session.tasks), session.config.keep
    _remove(session.folder.cache)
    best, chosen = best_merges(session), set(chosen_cells(session))
    for cell in drawn_cells(session):
        experts = [session.expert(cell, task) for task in tasks]
        can_merge = all(folder.exists() for folder in experts)
        if "merges" in keep and cell in chosen:
            if can_merge:
                keep_merges(session, cell)
        else:
            _remove(weighted_folder(session, cell))
            for method in session.resolved.merges:
                if (cell, method) not in best:
                    _remove(session.folder.merge(cell, tasks, method))
                elif can_merge:
                    write_merge(session, cell, method)
        own = [] if session.resolved.is_given(cell.arm) else experts
        for folder in [*own, session.folder.start(cell)] if "experts" not in keep else ():
            _remove(folder)
        for number in range(1, session.resolved.arms[cell.arm].rounds + 1):
            for task in tasks:
                _remove(session.folder.first_round(cell, task, number))
            _remove(session.folder.start(cell, number))


def best_merges(session: Session) -> set[tuple[Cell, str]]:
    """Return the best merge of each arm and train size, by mean normalized validation score over the tasks.

    The seeds compete with each other too; of equals, the first is taken. Those that keep a part per task
    compete only where there is no single model.
    """
    worth: dict[tuple[str, str], dict[tuple[Cell, str], float]] = defaultdict(dict)
    for cell in chosen_cells(session):
        experts = expert_values(session, cell)
        for method in session.resolved.deciding:
            validation = choice(session, cell, method).chosen.validation
            values = {task: score.value for task, score in validation.items()}
            value = mean_normalized(values, experts, session.metrics)
            worth[cell.train_size, cell.arm][cell, method] = value
    return {max(merges, key=lambda merge: merges[merge]) for merges in worth.values()}


def _remove(folder: Path) -> None:
    """Remove a folder, and the folders above it that are empty then; it is gone at once or still whole."""
    aside = folder.with_name(f".{folder.name}.removed")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    elif not aside.exists():  # else a run was killed over it
        return
    shutil.rmtree(aside)
    for above in folder.parents:
        if any(above.iterdir()):
            return
        above.rmdir()
