"""Files and arrays as images of three channels of 8 bits."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["FORMAT", "FORMATS", "array_of_bytes", "rgb"]

FORMAT = 3
"""Of what is made of a file: counts the changes after which what was kept before is not to be read."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Without those that PIL reads by running another program, as it does PostScript."""


def rgb(content: bytes | np.ndarray) -> Image.Image:
    """Return the image that the content of a file stands for, upright; or that of an array.

    What a camera has written about how it was held is followed, as `datasets` and transformers do.

    Args:
        content: of a file; or bytes, [height, width] or [height, width, 3 or 4].

    Raises:
        ValueError: it is not an image, or one of numbers whose range is not known, or of too many pixels.
        OSError: it ends early.

    Example:
        >>> rgb(np.zeros((4, 3), dtype=np.uint8)).size
        (3, 4)
    """
    if isinstance(content, np.ndarray):
        return Image.fromarray(content).convert("RGB")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return ImageOps.exif_transpose(_of_eight_bits(image)).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(FORMATS)}; leave it out, or convert it") from None
    except Image.DecompressionBombError:
        raise ValueError(
            "PIL takes one of so many pixels for an attack; make it smaller, or leave it out"
        ) from None
    except OSError as error:
        raise OSError(f"{error}; fetch it again, or leave it out") from None


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image in a form that `convert` does not clip or warn about."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        made = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
        made.info = image.info
        return made
    if image.mode in ("I", "F"):
        raise ValueError(
            "its pixels are numbers of 32 bits, which of them is white is not known; make it one of 8 or 16"
        )
    return image.convert("RGBA") if image.mode in ("P", "PA") else image


def array_of_bytes(values: np.ndarray) -> np.ndarray:
    """Return numbers as the bytes of an image, [height, width] or [height, width, 3 or 4].

    Args:
        values: of any type; one channel may be an axis of its own.

    Raises:
        ValueError: the shape is another one, or the values are not whole numbers from 0 to 255.

    Example:
        >>> array_of_bytes(np.full((2, 2, 1), 255)).tolist()
        [[255, 255], [255, 255]]
    """
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in (1, 3, 4))) or 0 in values.shape:
        raise ValueError(
            f"its shape is {list(values.shape)}, but must be [height, width] or [height, width, 1, 3 or 4]"
        )
    made = values.astype(np.uint8)
    if not np.array_equal(made, values):
        raise ValueError(
            f"its values go from {values.min()} to {values.max()}, but must be whole numbers from 0 to 255"
        )
    return made[..., 0] if made.shape[2:] == (1,) else made
