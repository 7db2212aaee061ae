"""The files of a report, each either complete or absent: results.json, report.html, and tables/."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from saft.errors import UserError, collecting, did_you_mean
from saft.files.staging import write_text
from saft.report.csv_tables import csv_tables
from saft.report.latex_tables import latex_tables
from saft.report.results import Results, from_json, to_json
from saft.report.side_by_side import is_of_runs, labels, side_by_side
from saft.report.summary import summarize
from saft.report.terminal import table

__all__ = ["read", "rewrite", "write"]

OWN = {"results.json", "report.html", "tables"}
SOMETIMES = ("trials.csv", "held_out.csv", "held_out.tex", "expected.csv")  # tables that not all runs have


def write(results: Results, folder: str | Path) -> None:
    """Write `results.json`, `report.html` and `tables/` into `folder`, each under a temporary name first.

    The same results give the same bytes. JSON has no infinity: a number that is not finite becomes null.

    Args:
        results: of a whole experiment, or as far as it goes.
        folder: is made if it is not there.
    """
    from saft.report.html import page  # matplotlib and jinja2 are needed only here

    folder = Path(folder)
    text = to_json(results)
    results = from_json(text)  # what a later call makes of the file, to the byte
    html, summary = page(results), summarize(results)
    tables = csv_tables(results, summary) | latex_tables(results, summary)
    write_text(folder / "results.json", text)
    write_text(folder / "report.html", html)
    for name, table_text in tables.items():
        write_text(folder / "tables" / name, table_text)
    for name in set(SOMETIMES) - tables.keys():
        (folder / "tables" / name).unlink(missing_ok=True)  # of an earlier report, which had it


def read(folder: str | Path) -> Results:
    """Read the `results.json` of a run's folder.

    Raises:
        UserError: there is none, or it does not fit; see `from_json`.
    """
    file = Path(os.path.expanduser(folder), "results.json")
    try:
        text = file.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder}: {_why_nothing(Path(folder))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    return from_json(text, str(file))


def _why_nothing(folder: Path) -> str:
    """Return why a path is no folder with results, and what to give instead."""
    instead = "give the `out` folder of a finished `saft run`"
    if folder.is_file():
        return f"is a file; {'give its folder' if folder.name in OWN else instead}"
    if not folder.is_dir():
        near = [file.parent.name for file in folder.parent.glob("*/results.json")]
        return f"there is no such folder{did_you_mean(folder.name, near)}; {instead}"
    if (folder / "figures").is_dir():
        return (
            "holds no results.json yet: `saft run` with the same config goes on and writes it; "
            f"`saft run --status {folder}` says what is missing"
        )
    return f"holds no results.json; {instead}"


def rewrite(folders: Sequence[str | Path], out: str | Path | None = None) -> RenderableType:
    """Write the page of each run's folder again, and return what `saft run` printed at its end.

    Args:
        folders: the `out` folders of runs; all are read before anything is written.
        out: a folder for one page of all runs side by side instead; it is made, or holds an earlier one.

    Raises:
        UserError: no folder is given, or one has no results, or they do not fit; see `read` and
            `side_by_side`; or `out` is in use.
    """
    if not folders:
        raise UserError("report: FOLDER is missing: the `out` folder of a finished `saft run`")
    folders = [os.path.expanduser(folder) for folder in folders]  # as of every path in a config
    if out is not None:
        return _compared(folders, Path(os.path.expanduser(out)))
    results = _read_all({str(folder): folder for folder in folders})
    parts: list[RenderableType] = []
    for folder, of_folder in results.items():
        write(of_folder, folder)
        parts += _told(of_folder, Path(folder))
    return Group(*parts)


def _read_all(folders: Mapping[str, str | Path]) -> dict[str, Results]:
    """Return the results of every folder; what is wrong is told of all."""
    results, problems = dict[str, Results](), list[str]()
    for name, folder in folders.items():
        with collecting(problems):
            results[name] = read(folder)
    if problems:
        raise UserError(*problems)
    return results


def _compared(folders: Sequence[str | Path], out: Path) -> RenderableType:
    if len(folders) < 2:
        raise UserError(f"--out: is for a comparison of several folders; without it {folders[0]} is written")
    runs = labels(folders)
    if out.resolve() in [folder.resolve() for folder in runs.values()]:
        raise UserError(f"--out: {out}: is one of these folders, whose results would be lost; choose another")
    strangers = {entry.name for entry in out.iterdir()} - OWN if out.is_dir() else set()
    if strangers or out.is_file() or ((out / "results.json").exists() and not is_of_runs(read(out).config)):
        raise UserError(f"--out: {out}: holds something else than a report of several; choose another folder")
    results = side_by_side(_read_all(runs))
    write(results, out)
    return Group(*_told(results, out))


def _told(results: Results, folder: Path) -> list[RenderableType]:
    return [table(results), Text(f"report: {folder / 'report.html'}; tables: {folder / 'tables'}")]
