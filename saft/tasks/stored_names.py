"""What files call the tensors of a trunk, where its class of transformers calls them otherwise."""

from __future__ import annotations

import torch
from torch import nn

from saft.errors import UserError, abbreviated

try:
    from transformers.core_model_loading import revert_weight_conversion
except ImportError:  # before transformers 5 classes and files had the same names
    revert_weight_conversion = None

__all__ = ["stored_names"]


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
    if revert_weight_conversion is None or getattr(trunk, "main_input_name", "") != "pixel_values":
        return {name: name for name in names}
    numbered = {name: torch.tensor([number]) for number, name in enumerate(names)}
    stored = revert_weight_conversion(trunk, numbered)
    renamed = {names[int(value)]: name for name, value in stored.items() if value.numel() == 1}
    if missing := sorted(set(names) - renamed.keys()):
        raise UserError(f"model: transformers stores {abbreviated(missing)} in another form")
    return renamed
