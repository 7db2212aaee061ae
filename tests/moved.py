"""A model that is not the base: its weights moved at random."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def moved(base: Path, folder: Path, seed: int) -> Path:
    """Write a copy of a model that is moved at random."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: value + 0.05 * torch.randn(value.shape, generator=generator)
        for key, value in load_file(base / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
