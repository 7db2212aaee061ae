"""Where labelled images are: a `datasets` column, a folder of folders, IDX or npz files."""

from __future__ import annotations

import gzip
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saft import config
from saft.errors import UserError, as_user_error, did_you_mean
from saft.files.locations import resolve
from saft.progress import note
from saft.tasks.image_decoding import array_of_bytes, rgb
from saft.tasks.table_source import TableSource, load, local_file, local_files
from saft.tasks.table_split import LabelledRow, TableSplit, as_text, present

__all__ = ["ImageSource", "Picture", "pictures"]

OWN = ("folder", "idx", "npz")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
_SPLITS = {"train", "test", "val", "valid", "validation"}
_UNSIGNED_BYTES = 8  # the code of IDX


@config.checked
@dataclass(frozen=True)
class ImageSource(TableSource):
    """Where labelled images are, and how they split."""

    path: str
    """folder: a folder a split, with a folder of images a label. idx: MNIST's files. npz: numpy's. Else the
    first argument of datasets.load_dataset: a hub id, or parquet, json, csv ... for local files."""
    image: str = "image"
    """The column, or npz array, of the images; a column may hold paths, relative to its own file."""
    label: str = "label"
    """The column, or npz array, of the labels: a class's name, or what stands there, as text."""
    numbered: bool = False
    """Classes of a column go by their numbers, from 0, as texts, and not by the names that the hub has."""
    label_files: dict[str, str] = field(default_factory=dict)
    """Split name -> IDX file of the labels; `files` has those of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path in OWN and not self.files:
            raise ValueError(
                f"files: is required with path: {self.path}, for example {{train: ..., test: ...}}"
            )
        if self.path == "idx" and self.label_files.keys() != self.files.keys():
            raise ValueError("label_files: must have the splits of files, since IDX keeps labels apart")

    def distrusted(self) -> str | None:
        """Return what a checkpoint folder must not ask for, as "key: reason"; None for nothing."""
        return None if self.path in OWN else super().distrusted()

    def local_files(self, where: str) -> dict[str, Path]:
        """Return the local files of images and labels, by their location as it was written.

        Args:
            where: the place in front of every message.

        Raises:
            UserError: a file is missing.
        """
        if self.path != "folder":
            return super().local_files(where) | local_files(self.label_files, f"{where}.data.label_files")
        return {
            f"{location}/{file.relative_to(folder)}": file
            for split, location in self.files.items()
            for folder in [_folder(location, f"{where}.data.files.{split}")]
            for file in _in_folders(folder)[0]
        }


@dataclass(frozen=True)
class Picture:
    """An image that is not read yet.

    Args:
        place: file and row, for messages.
        open: reads it.
    """

    place: str
    open: Callable[[], Any] = field(repr=False, compare=False)

    def rgb(self, where: str) -> Image.Image:
        """Return the image, in three channels of 8 bits.

        Raises:
            UserError: it cannot be read.
        """
        return self.decoded(self.content(where), where)

    def content(self, where: str) -> bytes | np.ndarray:
        """Return the content of the image's file; an array where that is what there is.

        Raises:
            UserError: there is no such file.
        """
        with self._readable(where):
            opened = self.open()
            if isinstance(opened, np.ndarray):
                return opened
            return opened.getvalue() if isinstance(opened, io.BytesIO) else Path(opened).read_bytes()

    def decoded(self, content: bytes | np.ndarray, where: str) -> Image.Image:
        """Return the image that its content stands for, in three channels of 8 bits.

        Raises:
            UserError: it is not an image.
        """
        with self._readable(where):
            return rgb(content)

    def _readable(self, where: str) -> AbstractContextManager[None]:
        return as_user_error(f"{where}.data: {self.place}: is not an image that can be read")


Labelled = list[LabelledRow[Picture, str]]


def pictures(source: ImageSource, where: str) -> dict[str, Labelled]:
    """Find the images and read their labels.

    Args:
        source: where they are.
        where: the place in front of every message, for example "vision.yaml: tasks.digits".

    Returns:
        "train", and "test" where the source names a split for it -> (image, label) of each.

    Raises:
        UserError: a file, folder, split, column or array is missing or damaged.
    """
    if source.path not in OWN:
        content = load(source, where)
        return {name: _of_table(split, source) for name, split in content.items()}
    read = {"folder": _of_folder, "idx": _of_idx, "npz": _of_npz}[source.path]
    wanted = {"train": source.train} | ({"test": source.test} if source.test is not None else {})
    for split in wanted.values():
        if split not in source.files:
            raise UserError(f"{where}.data: there is no split '{split}'{did_you_mean(split, source.files)}")
    return {name: read(source, split, f"{where}.data.files.{split}") for name, split in wanted.items()}


def _of_table(split: TableSplit, source: ImageSource) -> Labelled:
    import datasets

    split.check_columns([("data.image", source.image), ("data.label", source.label)])
    rows = split.rows
    if isinstance(rows.features[source.label], datasets.Image):
        raise UserError(f"{split.where}.data.label: the column '{source.label}' holds images, not labels")
    labels = _numbers(split, source) if source.numbered else split.texts("data.label", source.label)
    if isinstance(rows.features[source.image], datasets.Image):
        rows = rows.cast_column(source.image, datasets.Image(decode=False))
    column = rows.select_columns([source.image])
    beside = local_file(split.origin, f"{split.where}.data.files").parent if source.files else Path()
    [images] = column.with_format("arrow")[:].columns
    return [
        _labelled(split.place(row), partial(_cell, column, row, source.image, beside), labels[row])
        for row in split.present({"data.image": images.is_valid().to_pylist(), "data.label": labels})
    ]


def _labelled(place: str, opened: Callable[[], Any], label: str) -> LabelledRow[Picture, str]:
    return LabelledRow(Picture(place, opened), label, place)


def _numbers(split: TableSplit, source: ImageSource) -> list[str]:
    """Return the numbers of the classes as texts; "" where a row has none, for which the hub has -1.

    Raises:
        UserError: a label is no whole number.
    """
    numbers = []
    for row, value in enumerate(split.values(source.label)):
        try:
            number = -1 if value is None or value == "" else int(value)
            whole = isinstance(value, str) or value is None or number == value
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise UserError(
                f"{split.where}.data.numbered: {split.place(row)} has the label {value!r:.60}, which is no "
                "whole number; set numbered: false"
            )
        numbers.append(str(number) if number >= 0 else "")
    return numbers


def _cell(rows: Any, row: int, column: str, beside: Path) -> Any:
    value = rows[row][column]
    if isinstance(value, Mapping):  # of a column of images: the bytes, or where they are
        value = value["bytes"] or value["path"]
    if isinstance(value, str):
        return beside / value
    if isinstance(value, list):
        return array_of_bytes(np.asarray(value))
    if not isinstance(value, bytes):
        raise ValueError(f"the column '{column}' holds {value!r:.80}")
    return io.BytesIO(value)


def _of_folder(source: ImageSource, split: str, where: str) -> Labelled:
    location = source.files[split]
    folder = _folder(location, where)
    files, others = _in_folders(folder)
    places = [file.relative_to(folder) for file in files]
    images = [
        _labelled(f"{location}/{inside}", partial(Path, folder / inside), inside.parts[0])
        for inside in places
    ]
    splits = {inside.parts[0] for inside in places}
    if splits and splits <= _SPLITS and all(len(inside.parts) > 2 for inside in places):
        named = ", ".join(f"{name}: {location}/{name}" for name in sorted(splits, reverse=True))
        raise UserError(
            f"{where}: {location} holds splits, not labels: name each of them, such as files: {{{named}}}"
        )
    if not images:
        raise UserError(f"{where}: {location} has no folder with images in it: LABEL/NAME{SUFFIXES[0]}")
    if others:
        note(
            f"{where}: {len(others)} file(s) are not read, such as {location}/"
            f"{others[0].relative_to(folder)}; an image is LABEL/NAME with one of {', '.join(SUFFIXES)}"
        )
    return images


def _in_folders(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images of the labels, hidden ones left out, and what else is there."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    labels = [entry for entry in entries if entry.is_dir()]
    within = [file for label in labels for file in sorted(label.rglob("*")) if not file.is_dir()]
    shown = [file for file in within if not any(part[0] == "." for part in file.relative_to(folder).parts)]
    beside = [entry for entry in entries if _has_suffix(entry) and not entry.is_dir()]
    images = [file for file in shown if _has_suffix(file)]
    return images, beside + [file for file in shown if not _has_suffix(file)]


def _has_suffix(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _of_idx(source: ImageSource, split: str, where: str) -> Labelled:
    images = _idx(source.files[split], where)
    labels = _idx(source.label_files[split], where.replace(".files.", ".label_files."))
    return _of_arrays(images, labels, source, split, where)


def _idx(location: str, where: str) -> np.ndarray:
    """Return the array of an IDX file: two zeros, a type, how many dimensions, their sizes, the values."""
    content = local_file(location, where).read_bytes()
    with as_user_error(f"{where}: {location}: is not an IDX file"):
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTES:
            raise ValueError("it does not begin as one of unsigned bytes")
        start = 4 + 4 * content[3]
        shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
        if len(content) != start + math.prod(shape):
            raise ValueError(
                f"it has {len(content)} bytes, but says that it holds {shape}, which makes "
                f"{start + math.prod(shape)}; fetch it again"
            )
        return np.frombuffer(content[start:], dtype=np.uint8).reshape(shape)


def _of_npz(source: ImageSource, split: str, where: str) -> Labelled:
    location = source.files[split]
    file = local_file(location, where)
    if not zipfile.is_zipfile(file):
        raise UserError(f"{where}: {location}: is not an npz file; write it with numpy.savez_compressed")
    with as_user_error(f"{where}: {location}: cannot be read"), np.load(file, allow_pickle=False) as arrays:
        for key, name in (("image", source.image), ("label", source.label)):
            if name not in arrays:
                near = did_you_mean(name, arrays.files)
                raise UserError(f"{where}: {location}: {key}: there is no array '{name}'{near}")
        images, labels = arrays[source.image], arrays[source.label]
    return _of_arrays(images, labels, source, split, where)


def _of_arrays(
    images: np.ndarray, labels: np.ndarray, source: ImageSource, split: str, where: str
) -> Labelled:
    location = source.files[split]
    if images.ndim > 1 and not len(images):
        raise UserError(f"{where}: {location}: holds no images")
    colour = images.ndim == 4 and images.shape[-1] in (1, 3, 4)
    if images.dtype != np.uint8 or not (images.ndim == 3 or colour) or 0 in images.shape:
        raise UserError(
            f"{where}: {location}: images must be bytes, [rows, height, width] or "
            f"[rows, height, width, 1, 3 or 4], but are {images.dtype} {list(images.shape)}; write whole "
            "numbers from 0 to 255 as numpy.uint8, channels last"
        )
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{where}: {location}: there are {len(images)} images, but labels {list(labels.shape)}; "
            f"write one of each image, [{len(images)}]"
        )
    if colour and images.shape[-1] == 1:
        images = images[..., 0]
    if labels.dtype.kind == "S":
        with as_user_error(f"{where}: {location}: its labels are bytes, but no UTF-8; write texts"):
            labels = np.char.decode(labels)
    texts = [as_text(label) for label in labels.tolist()]

    def place(row: int) -> str:
        return f"{location}, row {row + 1}"

    task = where.removesuffix(f".data.files.{split}")
    rows = present({"data.label": texts}, place, source.drop_missing, task)
    return [_labelled(place(row), partial(images.__getitem__, row), texts[row]) for row in rows]


def _folder(location: str, where: str) -> Path:
    path = resolve(location, where)
    if not path.is_dir():
        raise UserError(f"{where}: there is no folder '{location}' (looked for {path.absolute()})")
    return path
