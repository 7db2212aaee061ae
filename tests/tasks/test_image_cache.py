from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saft import tasks
from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.tasks import Limits, image_cache
from saft.tasks.image_cache import ImageCache
from saft.tasks.image_processor import Preprocessing, load_preprocessing
from tests.tasks.tiny_vision import LABELS, SIDE, images, model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "saft" / "images"


@pytest.fixture
def mapping(tmp_path: Path) -> dict[str, Any]:
    for split, seed in (("train", 0), ("test", 1)):
        pixels, labels = images(18, seed)
        for at, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = tmp_path / "data" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{at}.png")
    files = {split: str(tmp_path / "data" / split) for split in ("train", "test")}
    data = {"path": "folder", "files": files}
    return {"kind": "image_classification", "data": data, "labels": dict(LABELS), "image_size": SIDE}


def inputs(mapping: dict[str, Any], folder: Path) -> torch.Tensor:
    bound = tasks.build("shade", mapping, "t").bind("shade", ModelConfig(str(folder)), "t")
    examples = bound.examples(Limits(train=0, validation=0)).test
    return examples.collate(list(range(len(examples)))).inputs["pixel_values"]


def test_what_is_kept_has_the_bits_of_what_is_decoded(
    mapping: dict[str, Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model("clip", tmp_path / "m")
    first = inputs(mapping, folder)
    assert len([file for file in home.rglob("*") if file.is_file()]) == 18
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    assert torch.equal(inputs(mapping, folder), first)


def test_another_image_or_processor_is_made_anew(mapping: dict[str, Any], tmp_path: Path) -> None:
    folder = model("clip", tmp_path / "m")
    first = inputs(mapping, folder)
    Image.new("L", (24, 20), 90).save(tmp_path / "data" / "test" / "0" / "0.png")
    assert (inputs(mapping, folder) != first).flatten(1).any(1).sum() == 1
    assert inputs(mapping | {"image_size": 2 * SIDE}, folder).shape[-1] == 2 * SIDE


@pytest.fixture
def preprocessing(tmp_path: Path) -> Preprocessing:
    return load_preprocessing(str(model("vit", tmp_path / "vit")), None, "t")


def test_a_file_that_was_not_written_to_its_end_is_not_read(preprocessing: Preprocessing, home: Path) -> None:
    cache, pixels = ImageCache(preprocessing), np.full((3, SIDE, SIDE), 7, dtype=np.uint8)
    cache.write(b"an image", pixels)
    assert np.array_equal(cache.read(b"an image"), pixels)
    [file] = [file for file in home.rglob("*") if file.is_file()]
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.read(b"an image") is None
    assert cache.read(b"another image") is None


def test_nothing_is_added_beyond_the_cap_of_all_models(
    preprocessing: Preprocessing, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((3, SIDE, SIDE), dtype=np.uint8)
    monkeypatch.setattr(image_cache, "CAP", 2 * pixels.nbytes)
    for at in range(2):
        ImageCache(preprocessing).write(f"image {at}".encode(), pixels)
    ImageCache(preprocessing).write(b"one too many", pixels)
    assert len([file for file in home.rglob("*") if file.is_file()]) == 2


def test_a_file_that_another_process_takes_away_is_no_hindrance(
    preprocessing: Preprocessing, home: Path
) -> None:
    pixels = np.full((3, SIDE, SIDE), 7, dtype=np.uint8)
    ImageCache(preprocessing).write(b"an image", pixels)
    [file] = [file for file in home.rglob("*") if file.is_file()]
    (file.parent / "gone").symlink_to("nowhere")  # listed, but not there any more once it is looked at
    cache = ImageCache(preprocessing)
    cache.write(b"another image", pixels)
    assert np.array_equal(cache.read(b"another image"), pixels)


def test_a_home_that_cannot_be_written_to_is_no_hindrance(
    preprocessing: Preprocessing, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    cache = ImageCache(preprocessing)
    cache.write(b"an image", np.zeros((3, SIDE, SIDE), dtype=np.uint8))
    assert cache.read(b"an image") is None


def test_a_damaged_image_is_told_and_not_kept(mapping: dict[str, Any], home: Path, tmp_path: Path) -> None:
    folder = model("clip", tmp_path / "m")
    half = io.BytesIO()
    Image.fromarray(images(1, 0)[0][0]).save(half, "png")
    (tmp_path / "data" / "test" / "0" / "0.png").write_bytes(half.getvalue()[:60])
    with pytest.raises(UserError, match=r"test/0/0\.png: is not an image that can be read"):
        inputs(mapping, folder)
