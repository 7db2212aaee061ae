"""The folder on disk: weights, what stands beside them, the manifest, the model card."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from saft.errors import UserError, did_you_mean
from saft.files.json_files import read_json_object
from saft.files.links import inside
from saft.files.locations import shown
from saft.files.sentence_modules import weights_elsewhere
from saft.files.staging import staged
from saft.files.tensorfile import Layout, TensorHeader, TensorWriter, read_headers

__all__ = [
    "BASE_WEIGHTS",
    "CONFIG",
    "HEADS",
    "MANIFEST",
    "PARTS",
    "WEIGHTS",
    "config_parts",
    "holds_parts",
    "model_config",
    "read_card",
    "read_manifest",
    "staged",
    "state_dtype",
    "task_names",
    "tensor_headers",
    "weight_files",
    "write_card",
    "write_manifest",
    "write_tensors",
]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
CONFIG = "config.json"
MANIFEST = "saft.json"
CARD = "README.md"
HEADS = "heads"
# In place of the weights, where a merge has kept a part per task (saft/merging/parts.py). In folders of their
# own: some readers, vLLM for one, take every safetensors file that they find at the top for weights.
BASE_WEIGHTS = "shared/base.safetensors"
PARTS = "parts"

# transformers makes every layer that a config asks for: 10^9 of them until the memory is full.
_COUNTS_MODULES, _MOST_MODULES = re.compile(r"(^|_)(layers?|experts|blocks)$"), 10_000
_IS_PROBABILITY = re.compile(r"drop(out|_path|$)|layerdrop")  # attention_dropout, resid_pdrop, drop_path_rate
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of `folder`, in order: safetensors, else torch's `.bin`.

    Args:
        folder: a checkpoint folder.

    Raises:
        UserError: the folder is absent, or holds no weights, other pickles or only an adapter, or not every
            shard.

    Example:
        >>> weight_files(Path("no-folder"))
        Traceback (most recent call last):
        saft.errors.UserError: no-folder: there is no such folder ...
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder (looked for {folder.absolute()})")
    for single, index in ((WEIGHTS, INDEX), (PICKLED, PICKLED_INDEX)):
        if (folder / single).is_file():
            return [inside(folder, single)]
        if (folder / index).is_file():
            files = [inside(folder, name) for name in sorted(set(_weight_map(folder / index).values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise UserError(f"{folder / index}: names shards that are not there: {', '.join(missing)}")
            return files
    if holds_parts(folder):
        raise UserError(
            f"{folder}: holds a part per task, and no single model; make one with "
            f'saft.load_task("{folder}", TASK).save_pretrained(OTHER_FOLDER), and give that folder'
        )
    if (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{folder}: holds only an adapter, not a whole model; merge it into its base model first"
        )
    if problem := weights_elsewhere(folder):
        raise UserError(problem)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder}: holds only pickled weights ({pickles[0]}), which can run code when they are loaded; "
            "save it again as safetensors: AutoModel.from_pretrained(...).save_pretrained(...)"
        )
    for file in folder.glob("*.safetensors"):
        if not file.exists():
            raise UserError(f"{file}: links to {os.readlink(file)}, where nothing is; download it again")
    beside = [name for name in shown(folder) if name != WEIGHTS]
    raise UserError(f"{folder}: holds no {WEIGHTS}{did_you_mean(WEIGHTS, beside, 'it holds')}")


def holds_parts(folder: Path) -> bool:
    """Return whether `folder` holds a part per task in place of weights."""
    return (folder / PARTS).is_dir() and (folder / BASE_WEIGHTS).is_file()


def _weight_map(index: Path) -> dict[str, str]:
    try:
        files: dict[str, str] = json.loads(inside(index.parent, index.name).read_text("utf-8"))["weight_map"]
        if files and all(Path(name).name == name for name in files.values()):
            return files
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index}: is not an index of weights ({error!r})") from error
    raise UserError(f"{index}: names {'files outside its folder' if files else 'no weights'}")


def tensor_headers(folder: Path) -> dict[str, TensorHeader]:
    """Return name, dtype, shape and place of every weight in `folder`, only from headers.

    Args:
        folder: with `model.safetensors` or `pytorch_model.bin`, or with shards and their index.

    Returns:
        Name -> header, sorted by name.

    Raises:
        UserError: there are no weights, or a file is cut off, or holds more than weights.
    """
    files = weight_files(folder)
    by_file = {file.name: read_headers(file) for file in files}
    by_name = {name: header for headers in by_file.values() for name, header in headers.items()}
    if files[0].name not in (WEIGHTS, PICKLED):
        index = folder / (INDEX if files[0].suffix == ".safetensors" else PICKLED_INDEX)
        promised = _weight_map(index)
        missing = sorted(name for name, file in promised.items() if name not in by_file[file])
        if missing:
            name = missing[0]
            where = f", but {by_name[name].file.name} does" if name in by_name else ""
            raise UserError(f"{index}: promises {name} in {promised[name]}, which does not hold it{where}")
        by_name |= {name: by_file[file][name] for name, file in promised.items()}
    return dict(sorted(by_name.items()))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` as one safetensors file; of tensors that share their storage (tied) the first is kept.

    So the order decides which name of a tied pair survives: modules register the trunk before the head, and
    readers tie the head to the trunk.

    Args:
        path: the file.
        tensors: name -> tensor of any shape, on any device; a `state_dict()` will do.
    """
    kept: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or place not in seen:
            kept[name] = tensor
        seen.add(place)
    with TensorWriter(
        path, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in kept.items()}
    ) as writer:
        for name in writer.names:
            writer.write(name, kept[name])


def model_config(folder: Path) -> dict[str, Any]:
    """Return what config.json says of a model; an empty mapping where there is no such file.

    Raises:
        UserError: it is not readable as JSON, is not an object, names a model's type by no text, or holds a
            number that no model can be made of, or none can compute with.
    """
    file = folder / CONFIG
    config = read_json_object(folder, CONFIG) if file.is_file() else {}
    for part in config_parts(config):
        if not isinstance(kind := part.get("model_type"), str | None):
            raise UserError(
                f"{file}: model_type: must be a text, but is {kind!r:.100}; copy or download it again"
            )
        for key, value in part.items():
            if problem := _impossible(key, value):
                raise UserError(f"{file}: {key}: {problem}; copy or download it again")
    return config


def _impossible(key: str, value: object) -> str | None:
    """Return what is wrong with a number that transformers would take, and fail on later, or never end."""
    if not isinstance(value, int | float):
        return None
    if isinstance(value, float) and math.isnan(value):
        return "must be a number, but is NaN"
    if _COUNTS_MODULES.search(key) and value > _MOST_MODULES:
        return f"must be at most {_MOST_MODULES}, but is {value}: no model has so many"
    if _IS_PROBABILITY.search(key) and not 0 <= value <= 1:
        return f"must be a probability from 0 to 1, but is {value}"
    return None


def config_parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a config and those inside it, of a model that is made of several (`text_config`).

    Example:
        >>> config = {"model_type": "clip", "text_config": {"model_type": "clip_text_model"}}
        >>> [part["model_type"] for part in config_parts(config)]
        ['clip', 'clip_text_model']
    """
    return [part for part in (config, *config.values()) if isinstance(part, dict)]


def state_dtype(folder: Path, layout: Layout | None = None) -> None:
    """Make config.json state the dtype of the weights, whatever was copied there from another model.

    transformers and others load by that statement: float32 weights under a config that says bfloat16 would be
    rounded, and most of a fine-tuning with them. Call it once weights and config.json are in the folder. A
    file that is right stays as it is, byte for byte, and so does one that states no dtype: its readers look
    at the weights.

    Args:
        folder: with the weights, in any form that `weight_files` knows, and config.json; without config.json
            nothing is done.
        layout: name -> (dtype, shape) of every weight; default: as the headers say. Where the floating-point
            weights have several dtypes, that of the most elements is stated, and a part of the config
            (`text_config`) may state any of them.

    Raises:
        UserError: the weights cannot be read, or config.json is damaged.
    """
    config = model_config(folder)
    stated = [part for part in config_parts(config) if {"dtype", "torch_dtype"} & part.keys()]
    if not stated:
        return
    layout = layout or {name: (header.dtype, header.shape) for name, header in tensor_headers(folder).items()}
    counts: Counter[str] = Counter()
    for dtype, shape in layout.values():
        if dtype.is_floating_point:
            counts[str(dtype).removeprefix("torch.")] += math.prod(shape)
    main = counts.most_common(1)[0][0] if counts else None
    changed = False
    for part in stated:
        for key in ("dtype", "torch_dtype"):
            right = (main,) if part is config else tuple(counts)
            if main is not None and key in part and part[key] not in right:
                part[key], changed = main, True
    if changed:
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / CONFIG).write_text(text + "\n", "utf-8")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write saft.json: keys in the order given (of labels it has a meaning), and no time of day.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_manifest(folder, {"kind": "merged"})
        >>> read_manifest(folder)
        {'kind': 'merged'}
    """
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what saft.json says.

    Raises:
        UserError: there is none, or it is not readable.
    """
    try:
        return read_json_object(folder, MANIFEST, finite=True)
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no {MANIFEST}, so saft did not write it") from None


def task_names(manifest: Mapping[str, Any]) -> list[str]:
    """Return the tasks that the manifest of a merge names; what is not a name is left out.

    Example:
        >>> task_names({"models": [{"task": "news", "location": "runs/news"}]})
        ['news']
    """
    models = manifest.get("models")
    entries = models if isinstance(models, list) else []
    names = [entry.get("task") for entry in entries if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str)]


def write_card(
    folder: Path,
    title: str,
    body: str,
    *,
    base_model: Sequence[str] = (),
    relation: str | None = None,
    tags: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write README.md, the model card: front matter that the hub reads, and a text for people.

    Args:
        folder: to write to.
        title: heading of the card.
        body: the text, in Markdown.
        base_model: hub ids of what the model was made from; local paths belong in the body.
        relation: `finetune` or `merge`.
        tags: for the hub's search.
        **more: further keys of the front matter, for example `datasets`, `library_name`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_card(folder, "A merge", "Of two models.", base_model=["owner/base"], relation="merge")
        >>> read_card(folder)["base_model"]
        ['owner/base']
    """
    front: dict[str, Any] = {"library_name": "transformers", "tags": list(tags)}
    if base_model:
        front |= {"base_model": list(base_model)}
        front |= {"base_model_relation": relation} if relation else {}
    front |= more
    matter = yaml.safe_dump(front, sort_keys=True, allow_unicode=True)
    (folder / CARD).write_text(f"---\n{matter}---\n\n# {title}\n\n{body.strip()}\n", "utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """Return the front matter of the model card; empty where there is none."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, UserError):
        text = inside(folder, CARD).read_text("utf-8")
        if text.startswith("---\n"):
            matter = yaml.safe_load(text.split("\n---", 1)[0])
            return matter if isinstance(matter, dict) else {}
    return {}
