"""What stands beside the weights of a model, and goes with them: config, tokenizer, processor, templates."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from saft.files.links import inside

__all__ = ["NEVER_READ", "copy_side_files", "custom_code", "side_files"]

NEVER_READ = (
    *("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.h5.index.json"),
    *("*.msgpack", "*.msgpack.index.json", "*.ot", "*.gguf", "*.ggml", "*.onnx", "*.onnx_data", "*.tflite"),
    *("*.mlmodel", "*.npz", "*.npy", "*.zip", "*.tar*", "*.py", "*.pyc", "*.so"),
)
"""Patterns of the names of files that saft never reads: weights in other forms, and code."""

_LEFT_BEHIND = (
    *NEVER_READ,
    *("*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    *("saft.json", "readme*", "trainer_state.json", ".*"),
)
_FOLDERS = ("additional_chat_templates",)
_CODE = "auto_map"  # the key by which config.json and its like name classes in *.py beside them


def copy_side_files(base: Path, target: Path) -> None:
    """Copy what readers need beside the weights, byte for byte: everything that is not known to be else.

    Weights, code, heads, the model card and saft's manifest stay behind. A file that names code (`auto_map`)
    loses that key: nothing of ours shall run what came with a model. Folders of chat templates and of
    sentence-transformers' modules (`1_Pooling`) come along, without the weights of those that are written.

    Args:
        base: the folder of the base model.
        target: the folder to fill; exists.

    Raises:
        UserError: a file is a link out of the folder.
    """
    written = {file.parent.relative_to(target) for file in target.glob("*/model.safetensors")}
    for name in side_files(base):
        if not (Path(name.parts[0]) in written and name.suffix in (".safetensors", ".bin")):
            _copy(base, name, target)


def side_files(base: Path) -> list[Path]:
    """Return what `copy_side_files` may copy, below the folder.

    Args:
        base: the folder of the base model.

    Raises:
        UserError: a file is a link out of the folder.
    """
    names: list[Path] = []
    for entry in sorted(base.iterdir()):
        if entry.is_dir() and (entry.name in _FOLDERS or _is_module(base, entry.name)):
            names += [file.relative_to(base) for file in sorted(entry.rglob("*")) if file.is_file()]
        elif entry.is_file() and _is_side_file(entry.name):
            names.append(entry.relative_to(base))
    for name in names:
        inside(base, name)
    return names


def custom_code(folder: Path) -> list[str]:
    """Return the names of the files of a model that are code, or name code that is to be run."""
    code = [file.name for file in sorted(folder.glob("*.py"))]
    return code + [file.name for file in sorted(folder.glob("*.json")) if _without_code(file) is not None]


def _is_side_file(name: str) -> bool:
    return not any(fnmatch(name.lower(), pattern) for pattern in _LEFT_BEHIND)


def _is_module(base: Path, name: str) -> bool:
    """Return whether a folder is of one of sentence-transformers' modules: `1_Pooling`."""
    return name[0].isdigit() and "_" in name and (base / "modules.json").is_file()


def _copy(base: Path, name: Path, target: Path) -> None:
    source, copy = inside(base, name), target / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    plain = _without_code(source)
    if plain is None:
        shutil.copyfile(source, copy)
    else:
        copy.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _without_code(file: Path) -> dict[str, Any] | None:
    """Return what config.json or another `..._config.json` says but for code; None where it names none.

    A processor of several has the config of each in its own, so the key is looked for at any depth.
    """
    named: list[object] = []

    def plain(mapping: dict[str, Any]) -> dict[str, Any]:
        if _CODE in mapping:
            named.append(mapping.pop(_CODE))
        return mapping

    if not file.name.endswith("config.json"):
        return None
    try:
        content = json.loads(file.read_text("utf-8"), object_hook=plain)
    except (ValueError, RecursionError):
        return None
    return content if named and isinstance(content, dict) else None
