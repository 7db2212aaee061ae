"""The files of a report, each either complete or absent: results.json and report.html."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saft.files.staging import write_text

__all__ = ["write"]


def write(results: Mapping[str, Any], folder: str | Path) -> None:
    """Write `results.json` and `report.html` into `folder`, under temporary names first.

    The same results give the same bytes. JSON has no infinity: a number that is not finite becomes null.

    Args:
        results: what `results.json` shall hold.
        folder: is made if it is not there.
    """
    from saft.report.html import page  # matplotlib and jinja2 are needed here alone

    folder = Path(folder)
    plain = _plain(results)
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / "results.json", text + "\n")
    write_text(folder / "report.html", page(plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
