"""`saft run`: a grid of (task x arm x seed), then merges, then measures, then the report; resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from rich.console import RenderableType

from saft import report
from saft.config import as_config
from saft.dry_run import tiny_run
from saft.errors import Unfinished, UserError
from saft.experiment.collect import collect
from saft.experiment.disk import forget_outdated, settle
from saft.experiment.events import Event
from saft.experiment.executors import EXECUTORS
from saft.experiment.folder import ExperimentFolder
from saft.experiment.growth import Changed
from saft.experiment.merge_options import MergeOptions
from saft.experiment.resolve import resolve
from saft.experiment.rounds import carry_out_all, write_steps
from saft.experiment.run_check import RunCheck, all_steps, check, cost_left, missing_steps, refuse_unfit
from saft.experiment.run_config import RunConfig
from saft.experiment.session import Session
from saft.experiment.status import RunStatus, status
from saft.files.upload import check_upload, uploading
from saft.progress import bar, waiting
from saft.report.results import Results

__all__ = ["MergeOptions", "RunCheck", "RunConfig", "RunResult", "RunStatus", "run"]


@dataclass(frozen=True)
class RunResult:
    """What came out of a run: its folder, and everything in results.json."""

    folder: Path
    results: Results

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def tables(self) -> Path:
        """The folder of its tables, as CSV and for LaTeX."""
        return self.folder / "tables"

    def table(self) -> RenderableType:
        """Return the table that is printed at the end."""
        return report.table(self.results)


@overload
def run(
    config: RunConfig,
    check_only: Literal[False] = False,
    status_only: Literal[False] = False,
    tiny: bool = False,
) -> RunResult: ...
@overload
def run(
    config: RunConfig, check_only: Literal[True], status_only: Literal[False] = False, tiny: bool = False
) -> RunCheck: ...
@overload
def run(
    config: RunConfig, check_only: bool = False, *, status_only: Literal[True], tiny: bool = False
) -> RunStatus: ...
def run(
    config: RunConfig, check_only: bool = False, status_only: bool = False, tiny: bool = False
) -> RunResult | RunCheck | RunStatus:
    """Train every task and arm, merge, choose coefficients, test, measure, report.

    Calling it again after an interruption goes on where it stopped and ends with the same numbers. Calling it
    with a further seed, arm, merge, train size or task computes only what is missing.

    Args:
        config: see `RunConfig`.
        check_only: find what can be wrong and say what it will cost; nothing is written.
        status_only: say which cells are done, at work and missing in the folder; nothing is computed.
        tiny: make a dry run on a tiny random model and generated data instead; see `saft.dry_run.tiny_run`.

    Returns:
        The folder and the results, which are also in results.json and report.html there; or the check, or the
        status.

    Raises:
        UserError: something in the config does not fit, figures in the folder rest on something else, another
            `saft run` is at work in it, the hub refuses the upload, or a training diverged; every other cell
            is computed and reported before that, see `saft.errors.Unfinished`.

    Example:
        >>> from saft.model_config import ModelConfig
        >>> task = {"kind": "text_clasification"}
        >>> run(RunConfig("runs/never", ModelConfig("./no-folder"), {"news": task}, {"adamw": {}}))
        Traceback (most recent call last):
        saft.errors.UserError: tasks.news.kind: unknown task kind 'text_clasification'; did you mean ...
    """
    config = as_config(config, RunConfig)
    if tiny:
        config = tiny_run(config)
    if status_only:
        return status(config.out)
    resolved, folder = resolve(config), ExperimentFolder(config.out)
    folder.refuse_strangers()
    executor = EXECUTORS.get(config.executor)(config)
    with waiting("loading model and data ..."):
        session = Session(resolved, folder, executor.elsewhere)
        try:
            steps = all_steps(session)
        except Changed as error:
            raise (_another_dry_run(folder.path, error) if tiny else error) from None
        refuse_unfit(session)
        checked = check(session, steps) if check_only else None
    if checked is not None:
        check_upload(config.upload)
        return checked
    with uploading(folder.path, config.upload), folder.locked():
        forget_outdated(session)
        missing = missing_steps(session, steps)  # what another call has computed meanwhile is done
        folder.write_config(resolved.plain())
        write_steps(session, steps)
        session.write_base()
        with bar(cost_left(session, missing)) as shown:

            def tell(event: Event) -> None:
                shown.stage(str(event)) if not event.done else shown.advance(event.done)

            problems = carry_out_all(session, executor, steps, missing, tell)
        results = collect(session, is_whole=not problems)
        if problems and not results.cells:
            raise UserError(*problems)
        report.write(results, folder.path)
        if problems:  # what failed may go on from what is there, so nothing is cleared away
            raise Unfinished(*problems, finished=RunResult(folder.path, results))
        with waiting("writing the merges that are kept ..."):  # after the report, which is not to wait for it
            settle(session)
    return RunResult(folder.path, results)


def _another_dry_run(folder: Path, changed: Changed) -> UserError:
    return UserError(
        f"{folder}: holds the dry run of another config, or of this one as it was: {changed.told}. "
        "Delete it, since its figures mean nothing, or choose another `out`"
    )
