"""Images ready for a model: decoded once, kept as bytes, varied every time they are trained on."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from saft.tasks.examples import Batch, Examples
from saft.tasks.image_cache import ImageCache
from saft.tasks.image_processor import Preprocessing
from saft.tasks.image_source import Picture

__all__ = ["Pixels", "Variation", "image_examples"]

KEPT = 4 << 30
"""Bytes of decoded images that a task keeps in memory; what is beyond is read whenever it is needed."""


@dataclass(frozen=True)
class Variation:
    """How a training image is varied, by draws that depend only on the step and the image.

    Args:
        flip: mirror every other image, left to right.
        crop: smallest share of the area that a random part of the image has, in (0, 1]; it is enlarged to the
            whole. Sides are drawn as 3:4 to 4:3.
    """

    flip: bool = False
    crop: float = 1.0

    def __bool__(self) -> bool:
        return self.flip or self.crop < 1

    def __call__(self, pixels: np.ndarray, draw: random.Random) -> np.ndarray:
        """Return an image varied, [channels, height, width] of bytes."""
        if self.crop < 1:
            pixels = self._part(pixels, draw)
        if self.flip and draw.random() < 0.5:
            pixels = pixels[..., ::-1]
        return pixels

    def _part(self, pixels: np.ndarray, draw: random.Random) -> np.ndarray:
        height, width = pixels.shape[1:]
        area = draw.uniform(self.crop, 1)  # wide and tall as it may be, it is within the image
        ratio = draw.uniform(max(3 / 4, area), min(4 / 3, 1 / area)) ** 0.5
        tall, wide = (min(1.0, side) for side in (area**0.5 / ratio, area**0.5 * ratio))
        top, left = draw.uniform(0, 1 - tall) * height, draw.uniform(0, 1 - wide) * width
        box = (left, top, left + wide * width, top + tall * height)
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        part = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
        return np.asarray(part).transpose(2, 0, 1)


@dataclass(frozen=True)
class Pixels:
    """The images of a task as bytes, each decoded once: kept in memory as long as they fit, and on the disk.

    Args:
        preprocessing: of the model.
        where: the place in front of every message.
    """

    preprocessing: Preprocessing
    where: str
    _kept: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @functools.cached_property
    def _cache(self) -> ImageCache:
        return ImageCache(self.preprocessing)

    def of(self, picture: Picture) -> np.ndarray:
        """Return an image, resized and cropped, [channels, height, width] of bytes.

        Raises:
            UserError: it cannot be read.
        """
        known = self._kept.get(picture.place)
        if known is None:
            known = self._decoded(picture)
            if len(self._kept) * known.nbytes < KEPT:
                self._kept[picture.place] = known
        return known

    def _decoded(self, picture: Picture) -> np.ndarray:
        content = picture.content(self.where)
        if isinstance(content, np.ndarray):  # there is nothing to decode
            return self.preprocessing.pixels(picture.decoded(content, self.where))
        known = self._cache.read(content)
        if known is None:
            known = self.preprocessing.pixels(picture.decoded(content, self.where))
            self._cache.write(content, known)
        return known

    def read(self, pictures: Iterable[Picture]) -> None:
        """Decode images, on all cores, so that one that cannot be read is reported before a training."""
        new = [picture for picture in pictures if picture.place not in self._kept]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(self.of, new):
                pass

    def batch(self, pictures: Sequence[Picture]) -> Tensor:
        """Return images as the model takes them, [images, channels, height, width]."""
        return self.preprocessing.normalized([self.of(picture) for picture in pictures])


def image_examples(
    rows: Sequence[tuple[Picture, str]], labels: Sequence[str], pixels: Pixels, vary: Variation | None = None
) -> Examples:
    """Return images and labels as examples.

    Args:
        rows: (image, label) of each.
        labels: of the task, in the order of the logits.
        pixels: decodes and keeps.
        vary: how training batches are varied.
    """
    number = {label: index for index, label in enumerate(labels)}
    targets = torch.tensor([number[label] for _, label in rows], dtype=torch.long)

    def collate(indices: list[int]) -> Batch:
        images = pixels.batch([rows[index][0] for index in indices])
        return Batch({"pixel_values": images}, targets[indices])

    def varied(indices: list[int], step: int, seed: int) -> Batch:
        assert vary is not None
        images = [
            vary(pixels.of(rows[index][0]), random.Random(repr((seed, step, index)))) for index in indices
        ]
        return Batch({"pixel_values": pixels.preprocessing.normalized(images)}, targets[indices])

    pixels.read(picture for picture, _ in rows)
    return Examples([1] * len(rows), collate, varied if vary else None, is_costly=True)
