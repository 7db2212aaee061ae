"""`saft merge`: checkpoints -> one checkpoint folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from saft.config import as_config
from saft.files.lock import beside, locked
from saft.files.upload import check_upload, uploading
from saft.merging import time_estimate
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.notes import notes
from saft.merging.outputs import record
from saft.merging.outputs.output import Written
from saft.merging.outputs.record import write_merge
from saft.merging.outputs.resume import shards_left
from saft.merging.plan import Plan
from saft.merging.stream.reader import Progress

__all__ = ["MergeConfig", "MergeResult", "merge"]


@dataclass(frozen=True)
class MergeResult:
    """What was merged, and where it is.

    Args:
        folder: the checkpoint folder; None when it was only checked.
        plan: what was read, merged, copied and written.
        seconds: that the merge is estimated to take, when it was only checked; None for a method that reads
            examples.
        written: what the output says of what it has written; empty when it was only checked.
        examples_memory: bytes that the models take while examples go through them, when it was only checked;
            0 for a merge that reads none.
        shards_left: how many shards a killed merge has left to go on with, and how many there will be.
        notes: what may not be meant. They are told from the inputs, which need not be there afterwards.
    """

    folder: Path | None
    plan: Plan
    seconds: float | None = None
    written: Written = field(default_factory=Written)
    examples_memory: int = 0
    shards_left: tuple[int, int] = (0, 0)
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        if self.folder:
            summary = f"\n{self.written.summary}" if self.written.summary else ""
            return f"{record.describe(self.plan, self.notes)}{summary}\nwritten: {self.folder}"
        time = "" if self.seconds is None else f"\ntakes about {self.seconds:.1f} s, by a short trial"
        if self.examples_memory:
            mebibytes = self.examples_memory / 2**20
            time = f"\nreads examples through the models, which take about {mebibytes:.0f} MiB meanwhile"
        if self.shards_left[0]:
            time += "\ngoes on with {} of {} shards, of a merge that was killed".format(*self.shards_left)
        return f"{record.describe(self.plan, self.notes)}{time}\nnothing is wrong"


def merge(
    config: MergeConfig,
    out: str | Path | None,
    overwrite: bool = False,
    check_only: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    r"""Merge fine-tuned checkpoints of one base model into one checkpoint folder.

    .. math:: \theta = \theta_0 + \lambda\, m(\tau_1, \dots, \tau_K), \qquad \tau_t = \theta_t - \theta_0

    First everything is checked, only from configs and headers; then the weights are read tensor by tensor,
    so that memory is bounded by the largest tensor and not by the model. The arithmetic is float32, with one
    cast at the end. The folder appears when it is complete. A method that reads examples has them go through
    the models before.

    Args:
        config: what to merge, and how.
        out: the folder to write; with `check_only` it may be None.
        overwrite: replace a folder that is there and not empty.
        check_only: check, and write nothing.
        progress: called with the bytes read and the bytes to read.

    Returns:
        Where the result is, and the plan that was carried out.

    Raises:
        UserError: with every problem that was found, or another process merges into the folder.

    Example:
        >>> merge(MergeConfig("teis", "no/base", ["no/model"]), "out")
        Traceback (most recent call last):
        saft.errors.UserError: unknown merge method 'teis'; did you mean 'ties'?
        ...
    """
    config = as_config(config, MergeConfig)
    out = None if out is None else os.path.expanduser(out)  # as of every path in a config
    plan = check(config, out, overwrite)
    if check_only:
        return checked(plan, out)
    if out is None:
        raise TypeError("merge() needs the folder to write, unless it only checks")
    return carried_out(plan, out, overwrite, progress)


def check_surroundings(plan: Plan) -> None:
    """Check what a plan needs beside its folders: examples, and a place to upload to.

    Args:
        plan: from `check`.

    Raises:
        UserError: they are not to be had.
    """
    if calibration := _calibration(plan):
        calibration.check(plan)
    check_upload(plan.config.upload)


def checked(plan: Plan, out: str | Path | None) -> MergeResult:
    """Check what a plan needs beside its folders, and estimate what it takes.

    Args:
        plan: from `check`.
        out: the folder that it will be written to, as far as it is known.

    Raises:
        UserError: the examples or the upload are not to be had.
    """
    check_surroundings(plan)
    told = tuple(notes(plan))
    if calibration := _calibration(plan):
        return MergeResult(None, plan, examples_memory=calibration.memory(plan), notes=told)
    left = shards_left(plan, Path(out)) if out is not None else (0, 0)
    return MergeResult(None, plan, time_estimate.seconds(plan), shards_left=left, notes=told)


def carried_out(
    plan: Plan, out: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> MergeResult:
    """Carry out a plan: read its examples, merge, write and upload.

    Args:
        plan: from `check`.
        out, overwrite, progress: as for `merge`.

    Raises:
        UserError: as `merge`, or another process merges into the folder.
    """
    calibration = _calibration(plan)
    if calibration:
        calibration.check(plan)
    told = tuple(notes(plan))
    collected = calibration.collected(plan, progress) if calibration else nullcontext(plan)
    with locked(beside(out), f"out: {out}"), uploading(Path(out), plan.config.upload), collected as ready:
        written = write_merge(ready, out, overwrite, progress)
    return MergeResult(Path(out), ready, written=written, notes=told)


def _calibration(plan: Plan) -> ModuleType | None:
    """Return what reads examples, which loads transformers; None where nothing asks for them."""
    if not plan.reads_examples:
        return None
    from saft import calibration

    return calibration
