"""What is printed where not every letter can be: the nearest in its place, so that no result is lost."""

from __future__ import annotations

import codecs
import io
from typing import TextIO

__all__ = ["print_in_any_encoding"]

NEAREST = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "±": "+/-", "×": "x", "·": "*", "…": "...", "→": "->",
    "↓": "down", "≤": "<=", "≥": ">=", "“": '"', "”": '"', "’": "'", "‘": "'", "─": "-", "━": "-", "│": "|",
    "√": "sqrt", "λ": "lambda", "ρ": "rho", "θ": "theta", "τ": "tau", "ε": "epsilon",
    "Σ": "sum", "²": "^2", "°": " deg",
}  # fmt: skip
"""What saft's own words are written with -> the same in ASCII."""


def print_in_any_encoding(*streams: TextIO) -> None:
    """Let streams print what their encoding lacks, such as a minus in Latin-1, or bytes of a file's name.

    Args:
        streams: standard output and standard error.

    Example:
        >>> file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        >>> print_in_any_encoding(file)
        >>> print("−1.3 ± 0.2 of é", file=file, flush=True)
        >>> file.buffer.getvalue()
        b'-1.3 +/- 0.2 of \\\\xe9\\n'
    """
    codecs.register_error("saft.nearest", _nearest)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors="saft.nearest")


def _nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (NEAREST.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in lacking)
    return "".join(plain), error.end
