"""Made-up tables in the form of a hub's: the columns, classes and images that a task reads."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saft.tasks.option_fields import filled_in
from saft.tasks.template import fields

__all__ = ["ROWS", "table_of"]

ROWS = 32
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath"]


def table_of(task: Mapping[str, Any], seed: int, file: Path) -> None:
    """Write a parquet file of made-up rows with the columns that a task reads.

    Args:
        task: the mapping of a task; a label of each row is one of its labels, in turn.
        seed: of what is made up.
        file: to write.
    """
    import datasets

    draw = random.Random(seed)
    columns: dict[str, list[Any]] = {}
    kinds: dict[str, Any] = {}
    for column in _texts(task):
        columns[column] = [" ".join(draw.choices(WORDS, k=draw.randrange(2, 5))) for _ in range(ROWS)]
    for column, values in (task.get("words") or {}).items():
        columns[column] = _in_turn(list(values))
    columns |= _row_options(task, draw)
    data = task["data"]
    if (image := _image_column(task)) is not None:
        columns[image] = [{"bytes": _png(draw, row), "path": None} for row in range(ROWS)]
        kinds[image] = datasets.Image()
    if (messages := task.get("messages")) is not None:
        columns[messages] = [_conversation(draw) for _ in range(ROWS)]
    if task.get("labels") and (label := data.get("label", "label")):
        columns[label], kinds[label] = _labels(task, datasets)
    elif task["kind"] == "text_regression":
        columns[data.get("label", "label")] = [float(row % 5) for row in range(ROWS)]
    elif task.get("metric_name") == "spearman":
        for column in fields(task["target"]):
            columns[column] = [float(row % 5) for row in range(ROWS)]
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        table = datasets.Dataset.from_dict(columns)
        for column, kind in kinds.items():
            table = table.cast_column(column, kind)
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(file)
    finally:
        if bars:
            datasets.enable_progress_bars()


def _texts(task: Mapping[str, Any]) -> list[str]:
    """Return the columns of texts: those of a table's keys, or those that templates name."""
    data = task["data"]
    named = [data.get(key) for key in ("text", "pair")] if task["kind"].startswith("text_") else []
    columns = [column for given in named for column in ([given] if isinstance(given, str) else given or ())]
    templates = [task.get(key) for key in ("text", "prompt", "completion", "input", "target")]
    in_templates = [column for template in templates if template for column in fields(template)]
    made = filled_in(task.get("blank")) if task.get("options") else set()
    return [*columns, *(column for column in in_templates if column not in made)]


def _row_options(task: Mapping[str, Any], draw: random.Random) -> dict[str, list[Any]]:
    """Return the columns of answers to choose among, two to four a row, and of the right one."""
    options, labels, columns = task.get("options"), task.get("option_labels"), dict[str, list[Any]]()
    if options is None:
        return columns
    counts = [len(options) if isinstance(options, list) else 2 + row % 3 for row in range(ROWS)]
    texts = [draw.sample(WORDS, count) for count in counts]
    names = [labels if isinstance(labels, list) else list("ABCD"[:count]) for count in counts]
    if isinstance(options, list):
        columns |= dict(zip(options, map(list, zip(*texts, strict=True)), strict=True))
    for column, values in ((options, texts), (labels, names)):
        if isinstance(column, str):
            outer, _, inner = column.partition(".")
            rows = columns.setdefault(outer, [{} for _ in range(ROWS)] if inner else values)
            for row, value in zip(rows, values, strict=True) if inner else ():
                row[inner] = value
    if (blank := task.get("blank")) is not None:
        columns[blank] = [f"{draw.choice(WORDS)} _ {draw.choice(WORDS)}" for _ in range(ROWS)]
    right = [draw.randrange(count) for count in counts]
    columns[task["answer"]] = [own[at] for own, at in zip(names, right, strict=True)] if labels else right
    return columns


def _image_column(task: Mapping[str, Any]) -> str | None:
    return task["data"].get("image", "image") if task["kind"] == "image_classification" else None


def _labels(task: Mapping[str, Any], datasets: Any) -> tuple[list[Any], Any]:
    """Return a column of labels as a hub has it, and its kind: numbers of classes, or values."""
    names = list(task["labels"])
    rows = list(range(len(names)))
    if task.get("several_labels"):
        return [[names[at]] for at in _in_turn(rows)], datasets.Sequence(datasets.Value("string"))
    if task["data"].get("numbered"):
        return _in_turn(rows), datasets.ClassLabel(names=[f"class {name}" for name in names])
    if set(names) <= {"true", "false"}:
        return _in_turn([name == "true" for name in names]), datasets.Value("bool")
    if all(name.isdigit() for name in names):
        return _in_turn([int(name) for name in names]), datasets.Value("int64")
    return _in_turn(rows), datasets.ClassLabel(names=names)


def _in_turn(values: list[Any]) -> list[Any]:
    return [values[row % len(values)] for row in range(ROWS)]


def _png(draw: random.Random, row: int) -> bytes:
    pixels = np.random.default_rng(draw.getrandbits(32)).integers(0, 100, (24, 28, 3), dtype=np.uint8)
    pixels[..., row % 3] += 100
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def _conversation(draw: random.Random) -> list[dict[str, str]]:
    return [{"role": role, "content": draw.choice(WORDS)} for role in ("user", "assistant")]
