"""Where a table is, and how it splits: hub data sets, or local files, through `datasets.load_dataset`."""

from __future__ import annotations

import codecs
import hashlib
import inspect
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from saft import config
from saft.config import OpenFraction, Seed
from saft.errors import UserError, did_you_mean, is_for_memory
from saft.files.locations import is_hub_id, resolve, shown
from saft.tasks.examples import permutation
from saft.tasks.table_split import TableSplit

__all__ = [
    "TableSource",
    "divide",
    "load",
    "local_file",
    "local_files",
]

T = TypeVar("T")

# What a checkpoint's saft.json may name: readers that run nothing, and options that neither fetch nor write.
SAFE_READERS = {"arrow", "csv", "json", "parquet", "text"}
VALIDATION = {
    "dev",
    "val",
    "valid",
    "validation",
}  # as people call a split that is none of those that are read
UNSAFE_OPTIONS = {
    "cache_dir",
    "data_dir",
    "data_files",
    "download_config",
    "save_infos",
    "storage_options",
    "token",
}


@config.checked
@dataclass(frozen=True)
class TableSource:
    """Where a table is, and how it splits."""

    path: str
    """The first argument of datasets.load_dataset: a hub id, or csv, json, parquet, text for local files; or
    the folder that save_to_disk of `datasets` has written."""
    files: dict[str, str] = field(default_factory=dict, kw_only=True)
    """Split name -> file: a local path, or package://DISTRIBUTION/path/inside."""
    options: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """Further keyword arguments of datasets.load_dataset: name, delimiter, skiprows, revision ..."""
    train: str = field(default="train", kw_only=True)
    """The split that training and validation examples come from."""
    test: str | None = field(default="test", kw_only=True)
    """The split that test examples come from; null splits `test_fraction` off the training split."""
    test_fraction: OpenFraction = field(default=0.2, kw_only=True)
    """Share of the rows held out for the test, in (0, 1); read only where `test` is null."""
    validation_fraction: OpenFraction = field(default=0.1, kw_only=True)
    """Share of the training rows held out for validation, in (0, 1)."""
    split_seed: Seed = field(default=0, kw_only=True)
    """Draws the held-out rows; the same for every arm and seed, so that all face the same test."""
    drop_missing: bool = field(default=False, kw_only=True)
    """Leave out rows in which a column that is read is empty, instead of refusing them."""

    def __post_init__(self) -> None:
        cure = "set test: null, and `test_fraction` of it is held out"
        if self.test == self.train:
            raise ValueError(f"test: '{self.test}' is the split that is learned; {cure}")
        if self.test in self.files and self.files[self.test] == self.files.get(self.train):
            raise ValueError(f"files.{self.test}: is learned, as files.{self.train}; leave it out, {cure}")
        for split in sorted(VALIDATION & self.files.keys() - {self.train, self.test}):
            raise ValueError(
                f"files.{split}: nothing would be read of it: validation examples are drawn from the split "
                f"'{self.train}', a share of `validation_fraction`; leave the file out, or put its rows there"
            )

    def distrusted(self) -> str | None:
        """Return what a checkpoint folder must not ask for, as "key: reason"; None for nothing."""
        if self.path not in SAFE_READERS and not ("/" in self.path and is_hub_id(self.path)):
            known = ", ".join(sorted(SAFE_READERS))
            return f"path: '{self.path}' is not one of {known}, nor OWNER/NAME of a hub"
        if unsafe := sorted(UNSAFE_OPTIONS & self.options.keys()):
            return f"options.{unsafe[0]}: is not taken from a checkpoint folder"
        return None

    def local_files(self, where: str) -> dict[str, Path]:
        """Return the local files that are read, by their location as it was written; a hub's are not listed.

        Args:
            where: the place in front of every message.

        Raises:
            UserError: a file is missing.
        """
        if (saved := _saved(self)) is not None:
            return {f"{self.path}/{file.relative_to(saved)}": file for file in sorted(saved.rglob("*.arrow"))}
        return local_files(self.files, f"{where}.data.files")


def local_file(location: str, where: str) -> Path:
    """Return where a file is.

    Raises:
        UserError: it is not there.
    """
    path = resolve(location, where)
    if path.is_dir():
        held = did_you_mean(path.name, shown(path), "it holds")
        raise UserError(f"{where}: '{location}' is a folder ({path.absolute()}); name a file in it{held}")
    if not path.is_file():  # what might be a hub id elsewhere is a missing file here
        raise UserError(f"{where}: there is no file '{location}' (looked for {path.absolute()})")
    return path


def local_files(locations: Mapping[str, str], where: str) -> dict[str, Path]:
    """Return location -> where the file is, of files by their split.

    Raises:
        UserError: one is not there.
    """
    return {location: local_file(location, f"{where}.{split}") for split, location in locations.items()}


def load(source: TableSource, where: str) -> dict[str, TableSplit]:
    """Read a table.

    Args:
        source: where it is.
        where: the place in front of every message, for example "quickstart.yaml: tasks.reuters".

    Returns:
        "train", and "test" where the source names a split for it -> its rows.

    Raises:
        UserError: a file or split is missing, or `datasets` cannot read it.
    """
    content = _load(source, where)
    wanted = {"train": source.train} | ({"test": source.test} if source.test is not None else {})
    for split in wanted.values():
        if split not in content:
            raise UserError(f"{where}.data: there is no split '{split}'{did_you_mean(split, content)}")
    return {
        name: TableSplit(
            content[split], name, source.files.get(split, source.path), source.drop_missing, where
        )
        for name, split in wanted.items()
    }


def divide(
    rows: Mapping[str, list[T]], source: TableSource, where: str, why_empty: str = ""
) -> dict[str, list[T]]:
    """Hold out the validation rows, and the test rows where the table has none.

    Args:
        rows: "train", and "test" where the table has it -> its rows.
        source: says how many are held out.
        where: the place in front of every message.
        why_empty: ends the message of an empty split.

    Returns:
        {"train", "validation", "test"} -> rows, disjoint, in an order fixed by `split_seed`.

    Raises:
        UserError: a split is empty.
    """
    train, test = rows["train"], rows.get("test")
    if test is None:
        test, train = _held_out(train, source.test_fraction, source.split_seed, stream=0)
    validation, train = _held_out(train, source.validation_fraction, source.split_seed, stream=1)
    divided = {"train": train, "validation": validation, "test": test}
    for split, part in divided.items():
        if not part:
            count = len(rows["test" if split == "test" and "test" in rows else "train"])
            too_few = f"; {count} row(s) are too few to hold some out" if count else why_empty
            raise UserError(f"{where}.data: the {split} split is empty{too_few}")
    return divided


def _load(source: TableSource, where: str) -> Mapping[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    paths = local_files(source.files, f"{where}.data.files")
    files = {split: str(paths[file]) for split, file in source.files.items()}
    for split, file in files.items():
        if Path(file).is_file() and _is_blank(file):
            raise UserError(f"{where}.data.files.{split}: '{source.files[split]}' is empty")
    options = dict(source.options)
    try:
        with _no_further_words():
            if source.path == "csv":
                options |= _as_spelled(files, options)
            if (saved := _saved(source)) is not None:
                content = datasets.load_from_disk(str(saved), **options)
            else:
                if files:
                    options |= {"data_files": files}
                if source.path in SAFE_READERS:
                    options.setdefault("name", _as_they_are(files))
                content = datasets.load_dataset(source.path, **options)
            return content if isinstance(content, dict) else {source.train: content}
    except Exception as error:  # whatever a reader raises about the user's files is the user's to mend
        if is_for_memory(error):
            raise
        cause = error.__cause__ or error
        first_line = (str(cause).strip() or type(cause).__name__).split("\n")[0]
        if source.path == "json" and (line := _broken_line(files)):
            first_line = line
        if "corresponds to no data" in first_line:
            first_line = "it holds no rows"
        if isinstance(cause, UnicodeDecodeError):
            is_wide = cause.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            encoding = "utf-16" if is_wide else "latin-1"
            first_line += f"; name the file's own under options, as {{encoding: {encoding}}}"
        given = ", ".join(f"{split}: {file}" for split, file in source.files.items())
        raise UserError(
            f"{where}.data: datasets.load_dataset cannot read '{source.path}'{given and f' ({given})'}: "
            + first_line
        ) from None


def _as_they_are(files: Mapping[str, str]) -> str:
    """Return a name that other files of the same place and time do not have, as unpacked archives may.

    What `datasets` has read of a file it reads from its cache as long as the file's time is the same.
    """
    identity = [(stat.st_size, stat.st_ctime_ns) for stat in map(os.stat, files.values())]
    return f"default-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"


def _is_blank(file: str) -> bool:
    with open(file, "rb") as lines:
        return not any(line.strip() for line in lines)


def _saved(source: TableSource) -> Path | None:
    """Return the folder that a table was saved to by `datasets`; None of any other source."""
    folder = Path(os.path.expanduser(source.path))
    is_one = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return folder if is_one and not source.files else None


@contextmanager
def _no_further_words() -> Iterator[None]:
    """Keep `datasets` from writing of a file that it cannot read what it raises as well."""
    import datasets

    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)


def _broken_line(files: Mapping[str, str]) -> str:
    """Return which line of files of JSON lines is no row: the reader counts within a block of its own."""
    for file in files.values():
        with open(file, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line) if line.strip() else {}
                    problem = "" if isinstance(row, dict) else "no mapping, {COLUMN: VALUE}"
                except json.JSONDecodeError as error:
                    problem = f"not JSON: {error.msg}"
                if problem and number == 1:  # one document over several lines, perhaps
                    break
                if problem:
                    return f"line {number} of {file} is {problem}; fix it, or leave it out"
    return ""


def _as_spelled(files: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by which every field of CSV files is a text, as the file spells it.

    Else pandas takes NA, null, None for missing values, and 007, 1.50, TRUE for numbers and truth values.
    """
    import pandas

    taken = inspect.signature(pandas.read_csv).parameters
    header_only = {key: value for key, value in options.items() if key in taken} | {"nrows": 0}
    columns = [name for file in files.values() for name in pandas.read_csv(file, **header_only).columns]
    return {"converters": dict.fromkeys(columns, str), "keep_default_na": False}


def _held_out(rows: list[T], fraction: float, seed: int, stream: int) -> tuple[list[T], list[T]]:
    """Split rows into a held-out share, at least one row, and the rest."""
    order = permutation(len(rows), seed, stream)
    count = min(max(1, round(len(rows) * fraction)), max(0, len(rows) - 1))
    return [rows[i] for i in order[:count]], [rows[i] for i in order[count:]]
