"""Numbers as people read them, in every table, sentence and figure: a minus is a minus, zero has no sign."""

from __future__ import annotations

__all__ = ["as_count", "as_number"]


def as_number(value: float, decimals: int) -> str:
    """Return a number with so many decimals.

    Args:
        value: is finite.
        decimals: at least 0.

    Example:
        >>> as_number(-0.125, 2), as_number(-0.001, 2), as_number(3.14159, 3)
        ('−0.12', '0.00', '3.142')
    """
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def as_count(value: float) -> str:
    """Return how many there are of something that may be had in parts, such as passes, never as a power.

    Args:
        value: is finite.

    Example:
        >>> as_count(1_234_567.0), as_count(157.5)
        ('1234567', '157.5')
    """
    return as_number(value, 1).removesuffix(".0")
