"""Tiny models that see, and images that can be told apart, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIDE = 28
LABELS = {"0": "dark", "1": "bright", "2": "striped"}
WORDS = ["<pad>", "<end>", "a", "photo", "of", "picture", *LABELS.values()]

SEEING = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
}
READING = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
KINDS = ("vit", "clip", "dinov2", "convnext", "siglip")


def model(kind: str, folder: Path, dropout: float = 0.0) -> Path:
    """Write a model of random weights, as transformers publishes it, with its image processor."""
    torch.manual_seed(0)
    size = {"height": SIDE, "width": SIDE}
    processor: Any = transformers.ViTImageProcessorPil(size=size)
    made: Any
    match kind:
        case "vit":
            settings = transformers.ViTConfig(**SEEING, hidden_dropout_prob=dropout)
            made = transformers.ViTModel(settings)
        case "dinov2":
            options = {**SEEING, "image_size": 2 * SIDE, "mlp_ratio": 2, "hidden_dropout_prob": dropout}
            del options["intermediate_size"]
            made = transformers.Dinov2Model(transformers.Dinov2Config(**options))
            processor = transformers.BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
        case "convnext":
            settings = transformers.ConvNextConfig(
                hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, drop_path_rate=dropout
            )
            made = transformers.ConvNextModel(settings)
            processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": SIDE})
        case "clip":
            seeing = SEEING | {"attention_dropout": dropout}
            made = transformers.CLIPModel(
                transformers.CLIPConfig(text_config=READING, vision_config=seeing, projection_dim=8)
            )
            processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size)
        case "siglip":
            reading = READING | {"hidden_size": 24}
            made = transformers.SiglipModel(
                transformers.SiglipConfig(text_config=reading, vision_config=SEEING)
            )
            processor = transformers.SiglipImageProcessorPil(size=size)
        case _:
            raise ValueError(kind)
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kind in ("clip", "siglip"):
        _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words that ends each text, as the towers that read expect it."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("$A <end>", special_tokens=[("<end>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<pad>"
    ).save_pretrained(folder)


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return grey images, [count, 20, 24], and which of `LABELS` each is."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % len(LABELS)
    level = np.where(labels == 1, 200, 40)[:, None, None] + draw.integers(0, 40, (count, 20, 24))
    level[labels == 2, :, ::4] = 250
    return level.astype(np.uint8), labels


def task(folder: Path, **keys: Any) -> dict[str, Any]:
    """Return an easy task, as the YAML mapping below `tasks: NAME:` would hold it; its files lie in a folder."""
    for split, count, seed in (("train", 60, 0), ("test", 30, 1)):
        pixels, labels = images(count, seed)
        np.savez_compressed(folder / f"{split}.npz", image=pixels, label=labels)
    data = {"path": "npz", "files": {split: str(folder / f"{split}.npz") for split in ("train", "test")}}
    return {"kind": "image_classification", "data": data, "labels": dict(LABELS)} | keys
