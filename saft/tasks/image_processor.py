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

# What a half of the work leaves to the other half, as far as a processor has it at all.
_OF_BYTES = ("do_resize", "do_center_crop", "do_convert_rgb", "do_flip_channel_order")
_OF_NUMBERS = ("do_rescale", "do_normalize", "include_top")


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
        options = self._without(_OF_NUMBERS) | self.sizes
        values = self.processor(images=[image], return_tensors=None, **options)["pixel_values"][0]
        return np.ascontiguousarray(values, dtype=np.uint8)

    def normalized(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Rescale and normalize what `pixels` made, [images, channels, height, width]."""
        options = self._without(_OF_BYTES)
        made = self.processor(
            images=list(pixels), return_tensors=None, input_data_format="channels_first", **options
        )
        return torch.from_numpy(np.stack(made["pixel_values"]).astype(np.float32))

    def is_whole(self, image: Image.Image) -> bool:
        """Return whether both halves make what the processor makes at once, up to a step of bytes."""
        options = {"return_tensors": None, **self.sizes}
        whole = np.asarray(self.processor(images=[image], **options)["pixel_values"][0], dtype=np.float32)
        halves = self.normalized([self.pixels(image)])[0].numpy()
        step = (whole.max() - whole.min()) / 255
        return whole.shape == halves.shape and bool((abs(whole - halves) <= step).all())

    def _without(self, steps: Sequence[str]) -> dict[str, Any]:
        return {step: False for step in steps if hasattr(self.processor, step)}


def load_preprocessing(location: str, image_size: int | None, where: str) -> Preprocessing:
    """Load the image processor that belongs to a model.

    Args:
        location: a folder, a hub id, or package://...
        image_size: side of the squares that the model is to see: every size of the processor is scaled by the
            same factor; None leaves them.
        where: the place of the task, for messages.

    Raises:
        UserError: the folder holds no processor, one that needs code of its own or torchvision, one whose
            results are not all of one size, or one that does more than `Preprocessing` does in two halves.
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
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    with as_user_error(f"model {location}: its image processor does not work"):
        is_whole = len(shape) == 3 and made.is_whole(Image.fromarray(noise))
    if not is_whole:
        raise UserError(
            f"{where}: the image processor of {location}, {type(processor).__name__}, makes more of an image "
            "than one that is resized, cropped, rescaled and normalized; take a model with another"
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
