"""peft's adapter folders as inputs of a merge: beside whole checkpoints, or on top of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from saft.errors import UserError, did_you_mean
from saft.files.checkpoint import MANIFEST, model_config, read_manifest
from saft.files.json_files import read_json_object
from saft.files.links import inside
from saft.files.locations import folder, shown
from saft.files.sentence_modules import module_files, module_tensors
from saft.files.tensorfile import read_headers
from saft.merging.inputs.lora_change import LoraAdapter, adapted
from saft.merging.inputs.source import Source, read_source

__all__ = ["CONFIG", "WEIGHTS", "is_adapter", "read_input"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def read_input(
    location: str, what: str, base: Source | None = None, known: Mapping[str, Source] | None = None
) -> Source:
    r"""Return an input of a merge: a checkpoint, or a base with an adapter merged in.

    .. math:: W + s B A, \qquad s = \alpha / r \text{ or, for rsLoRA, } \alpha / \sqrt r

    computed in float32 each time that the tensor is read, so that the adapted model is never in memory as a
    whole.

    Args:
        location: a checkpoint; an adapter, of `base`; or `CHECKPOINT+ADAPTER`.
        what: its place in the merge file, for messages.
        base: of an adapter that is given by itself.
        known: checkpoints that are not looked for in folders: location -> input.

    Raises:
        UserError: there is no such folder, the adapter is more than LoRA, or does not fit its base.
    """
    if known and location in known:
        return known[location]
    if "+" in location and not Path(location).exists():
        before, _, adapter = location.rpartition("+")
        whole = read_input(before, what, base, known)
        both = _adapted(location, folder(adapter, what), whole)
        # Config and tokenizer of a merge are copied from the folder of its base, where they are whole.
        return both if base else dataclasses.replace(both, folder=whole.folder, config=whole.config)
    path = folder(location, what)
    if not is_adapter(path):
        if (path / MANIFEST).is_file() and "interventions" in read_manifest(path):
            raise UserError(
                f"{path}: holds interventions for each task, which a merge of its weights would lose; merge "
                "the models that it was made of, or copy its weights and config.json to a folder of their own"
            )
        return read_source(location, path)
    if base is None:
        raise UserError(
            f"{what}: {path} holds only an adapter; write CHECKPOINT+ADAPTER, with the model that it changes"
        )
    return _adapted(location, path, base)


def is_adapter(path: Path) -> bool:
    """Return whether a folder holds an adapter of peft's and not a whole model."""
    return (path / CONFIG).is_file() and not any(path.glob("model*.safetensors"))


def _adapted(location: str, path: Path, base: Source) -> Source:
    if not is_adapter(path):
        raise UserError(f"{path}: holds no adapter ({CONFIG} and {WEIGHTS}) to add to {base.location}")
    config = read_json_object(path, CONFIG)
    file = next(
        (inside(path, name) for name in (WEIGHTS, "adapter_model.bin") if (path / name).is_file()), None
    )
    if file is None:
        raise UserError(f"{path}: holds no {WEIGHTS}" + did_you_mean(WEIGHTS, shown(path), "it holds"))
    place = path / CONFIG
    modules = module_tensors(path)
    files = (file, place, *module_files(path).values())
    adapter = LoraAdapter(path, config, read_headers(file), file, str(place), files, modules)
    return adapted(location, adapter, base, model_config(path))
