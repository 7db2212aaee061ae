"""What experts start from, read once in a process: a trunk that is asked for again is copied in memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from saft.files.checkpoint import weight_files
from saft.files.fingerprints import quick_fingerprint
from saft.files.locations import folder as local_folder
from saft.merging.inputs.adapted_model import adapted_model
from saft.model_config import ModelConfig
from saft.models import is_one_model, load_trunk

__all__ = ["MOST_BYTES", "start_trunk"]

MOST_BYTES = 4 * 2**30
"""Of a model that is held, in float32: of a larger one a second copy in memory costs more than reading."""


@dataclass
class _Held:
    """The last model that was asked for as a start; none is kept of it before it is asked for again."""

    key: Any = None
    model: nn.Module | None = None


_held = _Held()


def start_trunk(config: ModelConfig, task: str, kind: Any = None) -> nn.Module:
    """Load a trunk that many others may start from; see `saft.models.load_trunk`.

    The second time that a process asks for the same files, they are read for the last time: what was read is
    held, and every further caller has a copy of it, the same to the bit. So a worker reads the base once for
    its many cells, and who trains one expert holds nothing. Models beyond `MOST_BYTES` are read every time.

    Args:
        config: where the model is.
        task: its task, as for `load_trunk`.
        kind: class of transformers to load it as; default: `AutoModel`.

    Returns:
        The model, in evaluation mode, on the CPU; the caller's own.

    Raises:
        UserError: as `load_trunk`.
    """
    key = _files(config.path, kind)
    if key is None or key != _held.key:
        _held.key, _held.model = key, None
        return load_trunk(config, task, kind)
    if _held.model is None:
        model = load_trunk(config, task, kind)
        if sum(part.numel() * part.element_size() for part in model.state_dict().values()) > MOST_BYTES:
            return model
        _held.model = model
    return copy.deepcopy(_held.model)


def _files(path: str, kind: Any) -> Any:
    """Return what tells a model and its files as they are now; None for one that is put together."""
    if adapted_model(path, "model.path") is not None:
        return None
    folder = local_folder(path, "model.path").resolve()
    if not is_one_model(folder):
        return None
    files = [*weight_files(folder), *folder.glob("config.json")]
    return kind, folder, [(file.name, quick_fingerprint(file)) for file in files]
