"""`saft merge`: checkpoints -> one checkpoint folder."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from saft.merging import estimate
from saft.merging.outputs import adapter, parts, record
from saft.merging.per_task import Keeping
from saft.merging.plan import MergeConfig, Plan
from saft.merging.stream import engine
from saft.merging.stream.engine import Progress

__all__ = ["MergeConfig", "MergeResult", "merge"]


@dataclass(frozen=True)
class MergeResult:
    """What was merged, and where it is.

    Args:
        folder: the checkpoint folder; None when it was only checked.
        plan: what was read, merged, copied and written.
        seconds: that the merge is estimated to take, when it was only checked; None for a method that reads
            examples.
        adapter: how well the factors give the merged change back, when an adapter was written.
        examples_memory: bytes that the models take while examples go through them, when it was only checked;
            0 for a merge that reads none.
    """

    folder: Path | None
    plan: Plan
    seconds: float | None = None
    adapter: adapter.Refactored | None = None
    examples_memory: int = 0

    def __str__(self) -> str:
        if self.folder:
            fit = f"\n{self.adapter}" if self.adapter else ""
            return f"{record.describe(self.plan)}{fit}\nwritten: {self.folder}"
        time = "" if self.seconds is None else f"\ntakes about {self.seconds:.1f} s, by a short trial"
        if self.examples_memory:
            mebibytes = self.examples_memory / 2**20
            time = f"\nreads examples through the models, which take about {mebibytes:.0f} MiB meanwhile"
        return f"{record.describe(self.plan)}{time}\nnothing is wrong"


def merge(
    config: MergeConfig,
    out: str | Path | None,
    overwrite: bool = False,
    check_only: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    r"""Merge fine-tuned checkpoints of one base model into one checkpoint folder.

    .. math:: \theta = \theta_0 + \lambda\, m(\tau_1, \dots, \tau_K), \qquad \tau_t = \theta_t - \theta_0

    First everything is checked, from configs and headers alone; then the weights are read tensor by tensor,
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
        UserError: with every problem that was found.

    Example:
        >>> merge(MergeConfig("teis", "no/base", ["no/model"]), "out")
        Traceback (most recent call last):
        saft.errors.UserError: unknown merge method 'teis'; did you mean 'ties'?
        ...
    """
    plan = engine.check(config, out, overwrite)
    plan = parts.planned(plan, out) if isinstance(plan.method, Keeping) else plan
    if plan.config.adapter_rank is not None:
        adapter.check(plan)
    if plan.method.collects or plan.config.interventions is not None:
        from saft import calibration  # which loads transformers

        calibration.check(plan)
        if check_only:
            return MergeResult(None, plan, examples_memory=calibration.memory(plan))
    if check_only:
        return MergeResult(None, plan, estimate.seconds(plan))
    if out is None:
        raise TypeError("merge() needs the folder to write, unless it only checks")
    fit = None
    if plan.config.interventions is not None:
        from saft.calibration import intervention

        intervention.write(plan, out, overwrite, progress)
    elif isinstance(plan, parts.PartsPlan):
        parts.write(plan, out, overwrite, progress)
    else:
        with _with_data(plan, progress) as plan:
            if plan.config.adapter_rank is None:
                engine.write(plan, out, overwrite, progress)
            else:
                fit = adapter.write(plan, plan.config.adapter_rank, out, overwrite, progress)
    return MergeResult(Path(out), plan, adapter=fit)


def _with_data(plan: Plan, progress: Progress | None) -> AbstractContextManager[Plan]:
    if not plan.method.collects:
        return nullcontext(plan)
    from saft import calibration

    return calibration.collected(plan, progress)
