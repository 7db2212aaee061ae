"""How far an experiment is, read only from its folder, by any process on any machine that sees the folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saft.errors import UserError
from saft.experiment.claims import Claim, ClaimFolder, Witness
from saft.experiment.folder import ExperimentFolder
from saft.files.lock import holder

__all__ = ["RunStatus", "status"]

SHOWN = 10  # cells of one sort
_SKEW = 5.0  # seconds by which clocks that agree may differ


@dataclass(frozen=True)
class RunStatus:
    """How far an experiment is.

    Args:
        folder: of the experiment.
        runs: the `saft run` that is at work in it: "process 12 on anna"; None where none is.
        done: names of the cells of which nothing is missing.
        at_work: cell -> what is being done, and where, of the cells that a worker has claimed.
        failed: cell -> why it could not be computed, in the last run.
        missing: cell -> figures that are known, and figures there will be, of all others.
    """

    folder: Path
    runs: str | None
    done: list[str]
    at_work: dict[str, str]
    failed: dict[str, str]
    missing: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        cells = len(self.done) + len(self.at_work) + len(self.failed) + len(self.missing)
        missing = {cell: f"{known} of {all_} figures" for cell, (known, all_) in self.missing.items()}
        return "\n".join(
            (
                f"{self.folder}: {cells} cells; "
                + (
                    f"saft run is at work in it ({self.runs})"
                    if self.runs
                    else "no saft run is at work in it"
                ),
                f"done: {len(self.done)}",
                *_listed("at work", self.at_work),
                *_listed("failed", self.failed),
                *_listed("missing", missing),
            )
        )


def status(folder: str | Path) -> RunStatus:
    """Return how far an experiment is; neither its model nor its data are read.

    Args:
        folder: that `saft run` has begun to fill.

    Raises:
        UserError: there is no experiment.
    """
    place = ExperimentFolder(folder)
    steps = place.read_steps()
    if steps is None:
        raise UserError(
            f"{folder}: holds no experiment that `saft run` has begun; begin it, or name the folder that is "
            "its `out`"
        )
    claims = ClaimFolder(place.path)
    latest, witness = claims.latest(), Witness()
    done, at_work, failed, missing = [], {}, {}, {}
    for cell, names in steps.items():
        known = sum(place.figures(name).is_file() for name in names)
        claim = latest.get(cell)
        is_whole = known == len(names)
        if claim is not None and claim.state == "at work" and not (is_whole and witness.is_dead(claim)):
            at_work[cell] = _where(claim, claims, witness)
        elif is_whole:
            done.append(cell)
        elif claim is not None and claim.state == "failed":
            told = "\n".join(claim.problems).split("\n")
            failed[cell] = next((line for line in reversed(told) if line.strip()), "it does not say why")
        else:
            missing[cell] = (known, len(names))
    return RunStatus(place.path, holder(place.lock), done, at_work, failed, missing)


def _where(claim: Claim, claims: ClaimFolder, witness: Witness) -> str:
    seconds = claims.age(claim)
    age = f"{max(seconds, 0):.0f} seconds"
    if claim.is_cut_off:
        file = claims.file(claim).relative_to(claims.folder.parent)
        return (
            f"its claim {file} is empty or cut off ({age} old): it is being written, or its process died "
            f"over that; `saft run` has the cell computed once it is so for {witness.patience:.0f} seconds"
        )
    heard = f"heard of {age} ago"
    if seconds < -_SKEW:
        heard = f"heard of at a time {-seconds:.0f} seconds ahead of this machine's clock: the clocks differ"
    if witness.is_dead(claim):
        heard = "has died"
    return f"{claim.step or 'begins'} (process {claim.process} on {claim.host}, {heard})"


def _listed(title: str, lines: dict[str, str]) -> list[str]:
    shown = [f"    {cell}: {text}" for cell, text in list(lines.items())[:SHOWN]]
    more = [f"    and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{title}: {len(lines)}", *shown, *more]
