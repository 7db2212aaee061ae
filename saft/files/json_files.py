"""JSON files of a folder that someone else made."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from saft.config import within_floats
from saft.errors import UserError
from saft.files.links import inside

__all__ = ["read_json", "read_json_object"]


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a number")
    return value


_ONLY_FINITE: Any = {"parse_constant": _finite, "parse_float": _finite}


def read_json(folder: Path, name: str, finite: bool = False) -> Any:
    """Return what a JSON file of a folder holds.

    Args:
        folder: of a checkpoint.
        name: of the file in it, which is there.
        finite: refuse NaN and numbers that are too large, which JSON does not have, but Python reads.

    Raises:
        UserError: it is not readable as JSON, or a link out of the folder.
    """
    try:
        text = inside(folder, name).read_text("utf-8")
        return json.loads(
            text,
            parse_int=lambda number: within_floats(int(number), number),
            **(_ONLY_FINITE if finite else {}),
        )
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{folder / name}: is not readable as JSON: {error}; copy or download it again"
        ) from error


def read_json_object(folder: Path, name: str, finite: bool = False) -> dict[str, Any]:
    """Return the mapping that a JSON file of a folder holds.

    Args:
        folder, name, finite: see `read_json`.

    Raises:
        UserError: as `read_json`; or it holds something else than an object.
    """
    content = read_json(folder, name, finite)
    if not isinstance(content, dict):
        raise UserError(f"{folder / name}: is not a JSON object; copy or download it again")
    return content
