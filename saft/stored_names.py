"""What files call the tensors of a model, where its class of transformers calls them otherwise."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saft.errors import UserError, abbreviated

__all__ = ["experts_in_files", "names_in_files", "renamings", "stored_names", "translated"]


def stored_names(trunk: nn.Module) -> dict[str, str]:
    """Return name of a tensor of a trunk -> its name in files.

    They differ for models of images, whose classes have been renamed since most were published: a tower of
    CLIP is `vision_model...` in every file, and a layer of a ViT `encoder.layer...`, ours and others'.

    Args:
        trunk: a transformers model; of others nothing is renamed.

    Raises:
        UserError: transformers stores a tensor in another form, and not only under another name.

    Example:
        >>> stored_names(nn.Linear(2, 1))
        {'weight': 'weight', 'bias': 'bias'}
    """
    names = list(trunk.state_dict())
    if getattr(trunk, "main_input_name", "") != "pixel_values":
        return {name: name for name in names}
    renamed = _names_as_stored(trunk, names)
    if missing := sorted(set(names) - renamed.keys()):
        raise UserError(f"model: transformers stores {abbreviated(missing)} in another form")
    return renamed


def names_in_files(model: nn.Module, names: Collection[str]) -> dict[str, str]:
    """Return name of a tensor -> its name in the files that `save_pretrained` would write, where they differ.

    Args:
        model: any module; of one that is not transformers' nothing is renamed.
        names: of its tensors.
    """
    if not hasattr(model, "main_input_name"):
        return {}
    try:
        stored = _names_as_stored(model, names)
    except Exception:  # a tensor that transformers stores in another form
        return {}
    return {name: other for name, other in stored.items() if name != other}


def experts_in_files(model: nn.Module, name: str) -> list[str]:
    """Return what the files of a model have in the place of a tensor of all experts of a layer.

    Args:
        model: a mixture of experts.
        name: of the tensor, [experts, rows, columns].

    Returns:
        The names of what is stored of one expert.
    """
    try:
        return list(_as_stored(model, {name: torch.zeros(1, 2, 1)}))
    except Exception:  # of one that is not transformers'
        return [name]


def _names_as_stored(model: nn.Module, names: Collection[str]) -> dict[str, str]:
    numbered = {name: torch.tensor([number]) for number, name in enumerate(names)}
    originals = list(numbered)
    stored = _as_stored(model, numbered)
    return {originals[int(value)]: name for name, value in stored.items() if value.numel() == 1}


def _as_stored(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in the form, and under the names, in which transformers would write them."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5 classes and files had the same names
        return tensors
    stored: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    return stored


def renamings(config: Mapping[str, Any]) -> Mapping[str, str]:
    """Return name of a tensor in transformers' class for a config -> its name in files, where they differ.

    Adapters of peft, and modules in memory, have the names of the class.

    Args:
        config: what a config.json says.

    Returns:
        An empty mapping where nothing is renamed, or transformers does not know the model.

    Example:
        >>> sizes = {"hidden_size": 4, "num_attention_heads": 1, "num_hidden_layers": 1}
        >>> renamings({"model_type": "vit", **sizes})["layers.0.attention.q_proj.weight"]
        'encoder.layer.0.attention.attention.query.weight'
        >>> renamings({"model_type": "bert", **sizes})
        {}
    """
    return _renamings(json.dumps(dict(config), sort_keys=True, default=str))


@functools.lru_cache(maxsize=8)
def _renamings(config: str) -> dict[str, str]:
    from transformers import AutoConfig, AutoModel

    told = json.loads(config)
    try:
        settings = AutoConfig.for_model(told.pop("model_type", ""), **told)
        with torch.device("meta"):
            trunk = AutoModel.from_config(settings, trust_remote_code=False)
        return {name: stored for name, stored in stored_names(trunk).items() if name != stored}
    except Exception:  # of a model or a config that transformers cannot make, it renames nothing
        return {}


def translated(name: str, table: Mapping[str, str]) -> str | None:
    """Return what a table calls a tensor that may stand in it without its prefix; None if it does not.

    Args:
        name: as a model with a head calls it, `vit.layers...`, or the bare model, `layers...`.
        table: names of the bare model -> other names.

    Example:
        >>> translated("vit.layers.0.w", {"layers.0.w": "encoder.layer.0.w"})
        'vit.encoder.layer.0.w'
    """
    if name in table:
        return table[name]
    prefix, dot, rest = name.partition(".")
    return f"{prefix}{dot}{table[rest]}" if rest in table else None
