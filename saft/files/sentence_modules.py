"""The modules of a sentence-transformers folder beside its trunk: which there are, and their weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from saft.errors import UserError
from saft.files.json_files import read_json, read_json_object
from saft.files.links import inside
from saft.files.tensorfile import TensorHeader, read_headers

__all__ = [
    "MODULES",
    "different_settings",
    "folder_name_of",
    "module_files",
    "module_of",
    "module_settings",
    "module_tensors",
    "prompt_settings",
    "told_settings",
    "weights_elsewhere",
]

MODULES = "modules.json"
_OF_THE_WHOLE = "config_sentence_transformers.json"
_FILES = ("model.safetensors", "pytorch_model.bin")
_WEIGHTS = re.compile(r".*\.safetensors|pytorch_model.*\.bin")
_NAME = re.compile(r"(\d\w*)/")
_IN_MEMORY = (
    "merge such models in memory: saft.integrations.sentence_transformers."
    "merge_sentence_transformers(base, models, method)"
)
# What a module is if its config does not say it, and what of a config has no part in how it computes.
_DEFAULTS = {"use_residual": False, "include_prompt": True}
_COMPUTES_NOTHING = {"dropout", "dtype", "torch_dtype", "embedding_dimension", "word_embedding_dimension"}
# How versions before 5.7 wrote a pooling, in the order in which the results of several are joined.
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def module_of(name: str) -> str:
    """Return the module that a tensor belongs to, by the name that it has here; "" of the trunk.

    Example:
        >>> module_of("2_Dense/linear.weight"), module_of("encoder.weight")
        ('2_Dense', '')
    """
    match = _NAME.match(name)
    return match[1] if match else ""


def folder_name_of(model: nn.Module) -> Callable[[str], str]:
    """Return what makes of the name that a tensor has in memory the one that it has in a folder of the model.

    Args:
        model: of any but sentence-transformers' they are the same.
    """
    modules = list(model.named_children())
    prefixes: dict[str, str] = {}
    if modules and all(isinstance(getattr(module, "save_in_root", None), bool) for _, module in modules):
        prefixes = {f"{name}.": f"{at}_{type(module).__name__}/" for at, (name, module) in enumerate(modules)}
        name, first = modules[0]
        if getattr(first, "save_in_root", False):
            parts = first.named_children()
            trunk = next((f"{part}." for part, inner in parts if hasattr(inner, "save_pretrained")), "")
            del prefixes[f"{name}."]
            prefixes[f"{name}.{trunk}"] = ""

    def in_folder(name: str) -> str:
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        return prefixes[prefix] + name.removeprefix(prefix) if prefix else name

    return in_folder


def module_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """Return module -> what its config.json says, with its `type`, in the order of the folder.

    Args:
        folder: of a checkpoint; of one that is not sentence-transformers' the result is empty.

    Raises:
        UserError: modules.json, or the config of a module, is damaged.
    """
    settings: dict[str, dict[str, Any]] = {}
    entries = read_json(folder, MODULES) if (folder / MODULES).is_file() else []
    for entry in entries if isinstance(entries, list) else [entries]:
        path, kind = (entry.get(key) for key in ("path", "type")) if isinstance(entry, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(kind, str):
            raise UserError(f"{folder / MODULES}: is not a list of modules with `path` and `type`")
        if not _NAME.fullmatch(f"{path}/"):
            continue  # the trunk, which is in the folder itself
        config = read_json(folder, f"{path}/config.json") if (folder / path / "config.json").is_file() else {}
        # Where a class of sentence-transformers' is has changed, what it is called has not.
        settings[path] = {"type": kind.rpartition(".")[2]} | (config if isinstance(config, dict) else {})
    return settings


def different_settings(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield key, value and the other's value of what makes two modules compute differently.

    A key that only one of them states is passed over, unless it is known what the other then does.

    Args:
        mine: what the config of one module says; one that an earlier version of sentence-transformers wrote
            is read as the present version reads it.
        theirs: of the other.

    Example:
        >>> list(different_settings({"pooling_mode_cls_token": True}, {"pooling_mode": "mean"}))
        [('pooling_mode', 'cls', 'mean')]
    """
    one, other = _as_now(mine), _as_now(theirs)
    for key in dict.fromkeys((*one, *other)):
        value, its = (x.get(key, _DEFAULTS.get(key)) for x in (one, other))
        if value is not None and its is not None and value != its:
            yield key, value, its


def prompt_settings(folder: Path) -> dict[str, Any]:
    """Return how a folder of sentence-transformers says that its model is used; {} of any other folder.

    Args:
        folder: of a checkpoint.

    Raises:
        UserError: the file that says it is damaged.
    """
    there = (folder / MODULES).is_file() and (folder / _OF_THE_WHOLE).is_file()
    return told_settings(read_json_object(folder, _OF_THE_WHOLE)) if there else {}


def told_settings(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prompts and the similarity among what is stated of a model; what is empty is not stated.

    Example:
        >>> told_settings({"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": None})
        {'prompts': {'query': 'q: '}}
    """
    prompts = stated.get("prompts")
    settings = {key: stated.get(key) for key in ("default_prompt_name", "similarity_fn_name")}
    settings["prompts"] = {x: y for x, y in prompts.items() if y} if isinstance(prompts, Mapping) else None
    return {key: value for key, value in settings.items() if value}


def _as_now(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides how a module computes, as the present version writes it."""
    settings = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key not in _POOLINGS and key not in _COMPUTES_NOTHING
    }
    if _POOLINGS.keys() & config.keys() and "pooling_mode" not in config:
        modes = [mode for key, mode in _POOLINGS.items() if config.get(key)] or ["mean"]
        settings["pooling_mode"] = modes if modes[1:] else modes[0]
    return settings


def module_files(folder: Path) -> dict[str, Path]:
    """Return module -> the file of its weights, of the modules that have any.

    Args:
        folder: of a checkpoint.

    Raises:
        UserError: a module has its weights in several files or below its own folder, or modules.json is
            damaged.
    """
    files = {}
    for module in module_settings(folder):
        for below in sorted((folder / module).rglob("*")):
            if _WEIGHTS.fullmatch(below.name) and below not in [folder / module / name for name in _FILES]:
                raise UserError(
                    f"{below}: is a part of the module '{module}', which saft cannot merge; {_IN_MEMORY}"
                )
        file = next((name for name in _FILES if (folder / module / name).is_file()), None)
        if file is not None:
            files[module] = inside(folder, f"{module}/{file}")
    return files


def weights_elsewhere(folder: Path) -> str | None:
    """Return what is wrong with a folder that has weights only in the folders of its modules, or None.

    So are those of a router for queries and documents, and of versions before 1.0.

    Args:
        folder: a checkpoint without weights of its own.
    """
    if not (folder / MODULES).is_file():
        return None
    below = sorted({x.parent.name for x in folder.glob("*/*") if _WEIGHTS.fullmatch(x.name)})
    return f"{folder}: has its weights in {', '.join(below)}; {_IN_MEMORY}" if below else None


def module_tensors(folder: Path) -> dict[str, TensorHeader]:
    """Return `MODULE/name` -> header of every tensor of the modules.

    Args:
        folder: of a checkpoint.

    Raises:
        UserError: a file cannot be read, or holds more than weights.
    """
    return {
        f"{module}/{name}": header
        for module, file in module_files(folder).items()
        for name, header in read_headers(file).items()
    }
