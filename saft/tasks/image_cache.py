"""Images as a model's processor made them, kept on the disk: what was decoded once is read from then on."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
import transformers

from saft.files.locations import cache_folder
from saft.files.staging import write_shared
from saft.tasks.image_decoding import FORMAT
from saft.tasks.image_processor import Preprocessing

__all__ = ["CAP", "ImageCache"]

CAP = 16 << 30
"""Bytes of images that are kept of all models and tasks together; what is beyond is decoded every time."""


@dataclass
class ImageCache:
    """The images that one processor made, each under the SHA-256 of the file that it was made from.

    They lie in `saft/images` in $XDG_CACHE_HOME, or in ~/.cache. So what is kept of a file that has changed
    is never read, and two trainings share what they have in common. Nothing is ever removed: once `CAP` is
    reached nothing is added, and whoever deletes the folder has every image decoded again.

    Args:
        preprocessing: of the model.
    """

    preprocessing: Preprocessing
    _bytes: int | None = field(default=None, init=False, repr=False)
    _folder: Path = field(init=False, repr=False)

    def __post_init__(self) -> None:
        made = self.preprocessing
        what = {
            "format": FORMAT,
            "processor": made.processor.to_dict(),
            "sizes": made.sizes,
            "shape": [made.channels, made.height, made.width],
            "versions": [PIL.__version__, transformers.__version__, np.__version__],
        }
        name = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
        self._folder = cache_folder("images") / name

    def read(self, content: bytes) -> np.ndarray | None:
        """Return what was made of an image file, [channels, height, width] of bytes; None if it is not known.

        Args:
            content: of the image file.
        """
        made = self.preprocessing
        with suppress(OSError):
            pixels = np.fromfile(self._file(content), dtype=np.uint8)
            if pixels.size == made.channels * made.height * made.width:  # else it was not written to its end
                return pixels.reshape(made.channels, made.height, made.width)
        return None

    def write(self, content: bytes, pixels: np.ndarray) -> None:
        """Keep what was made of an image file, unless there is no room.

        Args:
            content: of the image file.
            pixels: [channels, height, width] of bytes.
        """
        if self._bytes is None:
            self._bytes = _bytes_in(cache_folder("images"))
        if self._bytes + pixels.nbytes > CAP:
            return
        file = self._file(content)
        with suppress(OSError):  # a home that cannot be written to, a disk that is full
            write_shared(file, pixels.tobytes())
            self._bytes += pixels.nbytes

    def _file(self, content: bytes) -> Path:
        name = hashlib.sha256(content).hexdigest()
        return self._folder / name[:2] / name


def _bytes_in(folder: Path) -> int:
    """Return the bytes of all images; other processes may be writing some, under a name that soon is gone."""
    total = 0
    for file in folder.glob("*/*/*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
