"""The whole model that an adapter's folder stands for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from saft.errors import UserError
from saft.files.links import inside
from saft.files.locations import folder
from saft.merging.inputs.peft_adapter import CONFIG, is_adapter, read_input
from saft.merging.inputs.source import Source, read_source

__all__ = ["adapted_model"]


def adapted_model(location: str, what: str) -> Source | None:
    """Return the base with an adapter merged in, read tensor by tensor; None of a folder that is a model.

    Args:
        location: a folder; of an adapter's, the base is the one that it names; or `CHECKPOINT+ADAPTER`.
        what: its place in the config, for messages.

    Returns:
        The model; its folder is that of the base, where config and tokenizer are.

    Raises:
        UserError: the base is not there, or the adapter is more than LoRA, or does not fit it.
    """
    if "+" in location and not Path(location).exists():
        return read_input(location, what)
    path = folder(location, what)
    if not is_adapter(path):
        return None
    base = _base(path)
    return dataclasses.replace(read_input(location, what, read_source(str(base), base)), folder=base)


def _base(adapter: Path) -> Path:
    """Return the folder of the base that an adapter names, or raise."""
    try:
        named = json.loads(inside(adapter, CONFIG).read_text("utf-8"))["base_model_name_or_path"]
        if not isinstance(named, str) or not named:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"{adapter / CONFIG}: base_model_name_or_path: does not name the adapter's base; write it there"
        ) from None
    return folder(named, f"{adapter / CONFIG}: base_model_name_or_path")
