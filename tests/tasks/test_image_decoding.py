from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saft.tasks.image_decoding import array_of_bytes, rgb

RAMP = np.tile(np.arange(0, 65536, 1024, dtype=np.uint16), (3, 1))


def written(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["png", "tiff", "pgm"])
def test_grey_of_16_bits_is_not_clipped(form: str) -> None:
    if form == "pgm":
        content = b"P5\n64 3\n65535\n" + RAMP.astype(">u2").tobytes()
    else:
        content = written(Image.fromarray(RAMP), form)
    made = np.asarray(rgb(content))
    assert made.shape == (3, 64, 3)
    assert np.array_equal(made[..., 1], RAMP // 256)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_of_unknown_range_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"numbers of 32 bits, .*; make it one of 8 or 16"):
        rgb(written(Image.fromarray(RAMP.astype(kind)), "tiff"))


def test_an_image_of_a_turned_camera_is_upright() -> None:
    """As `datasets` and transformers read it."""
    from transformers.image_utils import load_image

    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0] = 255
    turned = Image.Exif()
    turned[0x0112] = 6
    for form in ("png", "tiff"):
        content = written(Image.fromarray(pixels), form, exif=turned)
        made = rgb(content)
        assert made.size == (4, 6)
        assert np.array_equal(made, np.rot90(pixels, -1))
        assert np.array_equal(made, load_image(Image.open(io.BytesIO(content))))
    sixteen = written(Image.fromarray(RAMP), "png", exif=turned)
    assert rgb(sixteen).size == (3, 64)


def test_a_palette_with_transparent_colours_keeps_its_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).quantize(16)
    content = written(image, "png", transparency=bytes([0] * 8 + [255] * 8))
    assert np.array_equal(rgb(content), image.convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "CMYK"])
def test_other_modes_are_as_pil_converts_them(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    assert np.array_equal(rgb(written(image, "tiff")), image.convert("RGB"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(4), r"its shape is \[4\], but must be \[height, width\] or"),
        (np.zeros((3, 8, 8)), r"its shape is \[3, 8, 8\]"),
        (np.zeros((0, 2)), r"its shape is \[0, 2\]"),
        (np.full((2, 2), 0.5), r"its values go from 0.5 to 0.5, but must be whole numbers from 0 to 255"),
        (np.full((2, 2), 256), "its values go from 256 to 256"),
        (np.full((2, 2), -1), "its values go from -1 to -1"),
    ],
)
def test_an_array_that_is_no_image_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        array_of_bytes(values)


def test_whole_numbers_of_any_type_are_bytes() -> None:
    for kind in (np.int64, np.float32, np.uint16):
        assert array_of_bytes(np.full((2, 3, 1), 200, dtype=kind)).tolist() == [[200] * 3] * 2


def test_a_file_that_ends_early_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.effect_noise((32, 32), 9).save(stream, "png")
    with pytest.raises(OSError, match="truncated; fetch it again, or leave it out"):
        rgb(stream.getvalue()[:200])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # and so is one of more than twice as many pixels
    with pytest.raises(ValueError, match="for an attack; make it smaller, or leave it out"):
        rgb(stream.getvalue())
