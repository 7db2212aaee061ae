"""The cells of an experiment: one for each train size, arm and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from saft.errors import UserError, did_you_mean

__all__ = ["Cell", "file_name", "find", "grid", "is_too_long"]

LONGEST = 220  # bytes of a file's name, without the seed and what claims add: disks take 255


@dataclass(frozen=True)
class Cell:
    """One way to fine-tune all tasks once, and to merge what comes out.

    Args:
        train_size: its name in the config's `regimes`.
        arm: its name in the config; of an arm with `choices`, the name of one of its trials.
        seed: draws the training examples, their order, and dropout.

    Example:
        >>> print(Cell("limited", "sam", 0))
        limited/sam/seed0
    """

    train_size: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.train_size}/{self.arm}/seed{self.seed}"


def grid(train_sizes: Iterable[str], arms: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
    """Return every cell, all of the first seed before any of the second.

    Args:
        train_sizes: names of the train sizes.
        arms: names of the arms.
        seeds: at least 0.

    Example:
        >>> [str(cell) for cell in grid(["few"], ["adamw", "sam"], [0, 1])]
        ['few/adamw/seed0', 'few/sam/seed0', 'few/adamw/seed1', 'few/sam/seed1']
    """
    return [Cell(train_size, arm, seed) for seed, train_size, arm in product(seeds, train_sizes, arms)]


def file_name(cell: str) -> str:
    """Return the name of a cell, or a part of it, as a part of the name of a file.

    Args:
        cell: with a slash between its parts.

    Example:
        >>> file_name("limited/sam/seed0")
        'limited%2Fsam%2Fseed0'
    """
    return cell.replace("%", "%25").replace("/", "%2F")


def is_too_long(train_size: str, arm: str) -> bool:
    """Return whether a disk would not take the file that is called by the cells of an arm at a train size.

    Args:
        train_size, arm: the names.

    Example:
        >>> is_too_long("limited", "sam"), is_too_long("limited", "sam--" + "steps=100--" * 20)
        (False, True)
    """
    return len(file_name(f"{train_size}/{arm}").encode()) > LONGEST


def find(name: str, cells: Iterable[Cell]) -> Cell:
    """Return the cell of this name.

    Args:
        name: as `str(cell)` gives it.
        cells: those there are.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    by_name = {str(cell): cell for cell in cells}
    if name not in by_name:
        raise UserError(f"the experiment has no cell '{name}'{did_you_mean(name, by_name)}")
    return by_name[name]
