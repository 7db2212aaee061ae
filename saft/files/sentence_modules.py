"""The modules of a sentence-transformers folder beside its trunk: which there are, and their weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saft.errors import UserError
from saft.files.json_files import read_json
from saft.files.links import inside
from saft.files.tensorfile import TensorHeader, read_headers

__all__ = ["module_files", "module_of", "module_settings", "module_tensors"]

MODULES = "modules.json"
_FILES = ("model.safetensors", "pytorch_model.bin")
_NAME = re.compile(r"(\d\w*)/")


def module_of(name: str) -> str:
    """Return the module that a tensor belongs to, by the name that it has here; "" of the trunk.

    Example:
        >>> module_of("2_Dense/linear.weight"), module_of("encoder.weight")
        ('2_Dense', '')
    """
    match = _NAME.match(name)
    return match[1] if match else ""


def module_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """Return module -> what its config.json says, with its `type`, in the order of the folder.

    Args:
        folder: of a checkpoint; of one that is not sentence-transformers' the result is empty.

    Raises:
        UserError: modules.json, or the config of a module, is damaged.
    """
    settings: dict[str, dict[str, Any]] = {}
    for entry in read_json(folder, MODULES) if (folder / MODULES).is_file() else ():
        path, kind = (entry.get(key) for key in ("path", "type")) if isinstance(entry, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(kind, str):
            raise UserError(f"{folder / MODULES}: is not a list of modules with `path` and `type`")
        if not _NAME.fullmatch(f"{path}/"):
            continue  # the trunk, which is in the folder itself
        config = read_json(folder, f"{path}/config.json") if (folder / path / "config.json").is_file() else {}
        # Where a class of sentence-transformers' is has changed, what it is called has not.
        settings[path] = {"type": kind.rpartition(".")[2]} | (config if isinstance(config, dict) else {})
    return settings


def module_files(folder: Path) -> dict[str, Path]:
    """Return module -> the file of its weights, of the modules that have any.

    Args:
        folder: of a checkpoint.

    Raises:
        UserError: a module has weights below its own folder, or modules.json is damaged.
    """
    files = {}
    for module in module_settings(folder):
        for below in (folder / module).glob("*/**/*.safetensors"):
            raise UserError(
                f"{below}: is a part of the module '{module}', which saft cannot merge; merge such models in "
                "memory: saft.merge_models(base, models, method)"
            )
        file = next((name for name in _FILES if (folder / module / name).is_file()), None)
        if file is not None:
            files[module] = inside(folder, f"{module}/{file}")
    return files


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
