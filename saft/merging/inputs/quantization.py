"""Quantized weights, in whatever form: codes that stand for numbers, and cannot be added up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saft.files.checkpoint import CONFIG, config_parts
from saft.files.tensorfile import TensorHeader

__all__ = ["quantization_problem"]

_KEYS = ("quantization_config", "quantization")  # of config.json: transformers', MLX's
# Files beside a plain config.json: AutoGPTQ's, AutoAWQ's, ModelOpt's.
_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
# Last parts of the names of weights; integers under these names are codes, under others they are buffers.
_WEIGHTS = ("weight", "qweight", "qzeros", "weight_packed", "W_q", "weight_qdata")
_SCALES = ("_scale", "_scale_inv")  # of floats of eight bits


def quantization_problem(
    folder: Path, headers: Mapping[str, TensorHeader], config: Mapping[str, Any]
) -> str | None:
    """Return what shows that the weights of a folder are quantized, with the cure; None where nothing does.

    Args:
        folder: of a checkpoint.
        headers: name -> header of its tensors.
        config: its config.json.
    """
    sign = _sign(folder, headers, config)
    cure = "codes cannot be added up; give the model as it was before, or save it after model.dequantize()"
    return f"{sign}, and {cure}" if sign else None


def _sign(folder: Path, headers: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> str | None:
    for part in config_parts(dict(config)):
        for key in _KEYS:
            if part.get(key):
                return f"{folder / CONFIG}: says that the weights are quantized ({key})"
    for name in _FILES:
        if (folder / name).is_file():
            return f"{folder / name}: says that the weights are quantized"
    for name, header in headers.items():
        is_code = not header.dtype.is_floating_point and header.dtype is not torch.bool
        if is_code and name.rpartition(".")[2] in _WEIGHTS:
            dtype = str(header.dtype).removeprefix("torch.")
            return f"{header.file}: '{name}' is {dtype}, so that the weights are quantized"
        if header.dtype.itemsize == 1 and any(name + ending in headers for ending in _SCALES):
            return f"{header.file}: '{name}' has a scale beside it, so that the weights are quantized"
    return None
