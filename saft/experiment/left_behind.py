"""What a process that died on another machine has left in the folders of a cell, and bars others' way."""

from __future__ import annotations

from saft.experiment.claims import Claim
from saft.experiment.folder import ExperimentFolder
from saft.files.lock import forget
from saft.files.temporary_names import remove

__all__ = ["clear_after"]


def clear_after(dead: Claim, folder: ExperimentFolder) -> None:
    """Remove locks and what a dead claimant had half-written; the checkpoints of its trainings stay.

    Args:
        dead: its claim.
        folder: of the experiment.
    """
    mark = f".saft-{dead.host}-{dead.process}-"
    for place in folder.places(dead.cell):
        # What the merge of a round leaves lies beside the cell's folder, which is the merge.
        for entry in [*place.rglob(".*"), *place.parent.glob(f".{place.name}.*")]:
            if entry.suffix == ".lock":
                forget(entry, dead.host, dead.process)
            elif mark in entry.name:
                remove(entry)
