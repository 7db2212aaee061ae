"""What is trained in the benchmark of trainings: models with random weights, on texts of random words."""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path
from typing import Any

import torch

from saft import config
from saft.train import TrainConfig

__all__ = ["MODELS", "pretrained", "settings_of"]

# name: width, layers, heads, width of the hidden layer, words, examples of a batch on a CPU and on a GPU
MODELS = {"minilm": (384, 6, 12, 1536, 30522, (8, 64)), "tiny": (32, 2, 2, 64, 200, (4, 4))}
LABELS = [f"label{number}" for number in range(10)]


def pretrained(name: str, folder: Path, seed: int = 0) -> Path:
    """Make a BERT with random weights, its tokenizer of whole words, and a table of random texts."""
    import transformers

    width, layers, heads, hidden, words, _ = MODELS[name]
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LABELS, *(f"w{n}" for n in range(words))]
    numbers = {word: number for number, word in enumerate(vocabulary[:words])}
    transformers.BertTokenizerFast(vocab=numbers).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    settings = transformers.BertConfig(vocab_size=words, intermediate_size=hidden, **sizes)
    transformers.BertModel(settings).save_pretrained(folder)
    draw = random.Random(seed)
    for split, count in (("train", 512), ("test", 20)):
        with (folder / f"{split}.csv").open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["text", "label"])
            for number in range(count):
                words_drawn = draw.choices(vocabulary[15:words], k=62)
                rows.writerow([" ".join(words_drawn), LABELS[number % len(LABELS)]])
    return folder


def settings_of(
    folder: Path, out: Path, options: argparse.Namespace, perturbation: str | None
) -> TrainConfig:
    """Return what is trained, as a config says it."""
    on_gpu = torch.device(options.device).type != "cpu"
    training: dict[str, Any] = {"steps": options.steps, "batch_size": options.batch}
    if perturbation is not None:
        training["perturbation"] = {"name": perturbation}
    files = {split: str(folder / f"{split}.csv") for split in ("train", "test")}
    mapping = {
        "model": {"path": str(folder), "pooling": "mean"},
        "task": {
            "kind": "text_classification",
            "data": {"path": "csv", "files": files, "text": "text", "label": "label"},
            "labels": {label: label for label in LABELS},
            "head": "linear",
            "max_length": 64,
        },
        "out": str(out),
        "training": training,
        "validation_examples": 4,
        "checkpoint_every": 0,
        "trainer": {"accelerator": "gpu", "precision": "bf16-mixed"} if on_gpu else {"accelerator": "cpu"},
    }
    return config.parse(TrainConfig, mapping, "bench train")
