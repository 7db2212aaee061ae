"""The image processor of a model, as its own files say: by PIL and numpy, in two halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from saft.errors import UserError, as_user_error
from saft.files.links import inside
from saft.files.locations import folder as local_folder

__all__ = ["Preprocessing", "load_preprocessing"]

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Preprocessing:
    """What a model's processor does to images.

    Args:
        processor: of transformers.
        sizes: what it is told about sizes; empty leaves its own.
        channels, height, width: of the result.
    """

    processor: Any
    sizes: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    height: int = 0
    width: int = 0

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop, [channels, height, width] of bytes."""
        options = {"do_rescale": False, "do_normalize": False, **self.sizes}
        values = self.processor(images=[image], return_tensors=None, **options)["pixel_values"][0]
        return np.ascontiguousarray(values, dtype=np.uint8)

    def normalized(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Rescale and normalize what `pixels` made, [images, channels, height, width]."""
        options = {"do_resize": False, "do_center_crop": False, "do_convert_rgb": False}
        made = self.processor(
            images=list(pixels), return_tensors=None, input_data_format="channels_first", **options
        )
        return torch.from_numpy(np.stack(made["pixel_values"]).astype(np.float32))


def load_preprocessing(location: str, image_size: int | None, where: str) -> Preprocessing:
    """Load the image processor that belongs to a model.

    Args:
        location: a folder, a hub id, or package://...
        image_size: side of the squares that the model is to see: every size of the processor is scaled by the
            same factor; None leaves them.
        where: the place of the task, for messages.

    Raises:
        UserError: the folder holds no processor, one that needs code of its own or torchvision, or one whose
            results are not all of one size.
    """
    folder = local_folder(location, "model.path")
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise UserError(
            f"model {location}: holds no image processor ({' or '.join(PROCESSOR_FILES)}); "
            "copy the base model's"
        )
    for name in PROCESSOR_FILES:
        inside(folder, name)
    processor = _loaded(folder, location)
    with as_user_error(f"model {location}: its image processor does not work"):
        made = Preprocessing(processor)
        shape = made.pixels(Image.new("RGB", (400, 300))).shape
        if image_size is not None and shape[-1]:
            made = Preprocessing(processor, _scaled(processor, image_size / shape[-1]))
            shape = made.pixels(Image.new("RGB", (400, 300))).shape
        other = made.pixels(Image.new("RGB", (300, 400))).shape
    if other != shape:
        raise UserError(
            f"{where}: the image processor of {location} makes images of different sizes, "
            f"{list(shape[1:])} and {list(other[1:])}; set do_center_crop: true and crop_size in its "
            f"{PROCESSOR_FILES[0]}"
        )
    return Preprocessing(processor, made.sizes, *shape)


def _loaded(folder: Path, location: str) -> Any:
    with as_user_error(f"model {location}: its image processor cannot be loaded"):
        five = hasattr(transformers, "CLIPImageProcessorPil")
        options: dict[str, Any] = {"backend": "pil"} if five else {"use_fast": False}
        return transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, **options)


def _scaled(processor: Any, factor: float) -> dict[str, Any]:
    """Return the processor's sizes times a factor."""
    sizes = {name: dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size")}
    return {
        name: {key: round(value * factor) for key, value in size.items() if isinstance(value, int)}
        for name, size in sizes.items()
        if size
    }
