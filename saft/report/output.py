"""The files of a report, each either complete or absent: results.json and report.html."""

from __future__ import annotations

from pathlib import Path

from saft.errors import UserError
from saft.files.staging import write_text
from saft.report.results import Results, from_json, to_json

__all__ = ["read", "write"]


def write(results: Results, folder: str | Path) -> None:
    """Write `results.json` and `report.html` into `folder`, under temporary names first.

    The same results give the same bytes. JSON has no infinity: a number that is not finite becomes null.

    Args:
        results: of a whole experiment, or as far as it goes.
        folder: is made if it is not there.
    """
    from saft.report.html import page  # matplotlib and jinja2 are needed only here

    folder = Path(folder)
    text = to_json(results)
    html = page(from_json(text))  # what a later call makes of the file, to the byte
    write_text(folder / "results.json", text)
    write_text(folder / "report.html", html)


def read(folder: str | Path) -> Results:
    """Read the `results.json` of a run's folder.

    Raises:
        UserError: there is none, or it does not fit; see `from_json`.
    """
    file = Path(folder) / "results.json"
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{folder}: holds no results.json; give the `out` folder of a finished `saft run`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    return from_json(text, str(file))
