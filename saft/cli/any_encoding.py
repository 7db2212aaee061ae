"""What is printed where not every letter can be: the nearest in its place, so that no result is lost."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import TextIO

__all__ = ["print_in_any_encoding"]

NEAREST = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "±": "+/-", "×": "x", "·": "*", "…": "...", "→": "->",
    "↓": "down", "≤": "<=", "≥": ">=", "“": '"', "”": '"', "’": "'", "‘": "'", "─": "-", "━": "-", "│": "|",
    "√": "sqrt", "Σ": "sum", "°": " deg", "‖": "||", "⟨": "<", "⟩": ">", "≠": "!=", "≈": "~=", "∈": "in",
    "∞": "inf", "∂": "d", "∇": "grad ", "ℓ": "l", "←": "<-", "⊙": "*", "⊥": "perp", "∪": "or", "∩": "and",
    "\u0302": "^", "\u0303": "~", "\u0304": "-",
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
    return "".join(map(_in_ascii, lacking)), error.end


def _in_ascii(letter: str) -> str:
    """Return the nearest: of a Greek letter its name, of one that is set lower or higher it behind _ or ^."""
    kind, _, point = unicodedata.decomposition(letter).partition(" ")
    if letter not in NEAREST and kind in ("<sub>", "<super>"):
        set_apart = chr(int(point, 16))
        return ("_" if kind == "<sub>" else "^") + NEAREST.get(set_apart, set_apart)
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (LAMDA|[A-Z]+)", unicodedata.name(letter, ""))
    name = greek[2].replace("LAMDA", "lambda").capitalize() if greek else ""
    of_greek = name.lower() if greek and greek[1] == "SMALL" else name
    return NEAREST.get(letter) or of_greek or letter.encode("ascii", "backslashreplace").decode()
