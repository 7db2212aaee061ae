"""What is trained in the benchmark of trainings: models with random weights, on made-up texts and images."""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saft import config
from saft.models import quietly
from saft.train import TrainConfig

__all__ = ["MODELS", "Size", "Workload", "is_mixed", "settings_of", "workers_of"]

LABELS = [f"label{number}" for number in range(10)]


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Args:
        batch: examples of a step.
        warm: steps at the start that are not measured.
        steps: steps in all.
        rounds: trainings of each competitor.
    """

    batch: int
    warm: int
    steps: int
    rounds: int = 3


@dataclass(frozen=True)
class Workload:
    """A model, a task, and how much of it is trained.

    Args:
        title: for people.
        write: writes model and data into a folder, and returns the task as a config has it.
        cpu, gpu: how much is trained there.
        lora: keys of `parametrization: {name: lora}`; empty trains all weights.
        is_costly: whether processes of their own make the batches on a GPU.
    """

    title: str
    write: Callable[[Path], dict[str, Any]]
    cpu: Size
    gpu: Size
    lora: dict[str, Any] = field(default_factory=dict)
    is_costly: bool = False


# transformers takes seconds to import: only where a model of it is made. No model has dropout, whose masks
# every trainer draws in its own way: all are to compute the same losses.


def _texts(width: int, layers: int, heads: int, hidden: int, words: int) -> Callable[[Path], dict[str, Any]]:
    """Return what makes a BERT, its tokenizer of whole words, and a table of texts to classify."""

    def write(folder: Path) -> dict[str, Any]:
        import transformers

        vocabulary = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            *(f"w{number}" for number in range(words)),
        ]
        numbers = {word: number for number, word in enumerate(vocabulary[:words])}
        transformers.BertTokenizerFast(vocab=numbers).save_pretrained(folder)
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        settings = transformers.BertConfig(vocab_size=words, intermediate_size=hidden, **sizes, **dropout)
        transformers.BertModel(settings).save_pretrained(folder)
        draw = random.Random(0)
        files = {split: str(folder / f"{split}.csv") for split in ("train", "test")}
        for split, count in (("train", 512), ("test", 20)):
            with Path(files[split]).open("w", newline="") as stream:
                rows = csv.writer(stream)
                rows.writerow(["text", "label"])
                for number in range(count):
                    drawn = draw.choices(vocabulary[5:words], k=62)
                    rows.writerow([" ".join(drawn), LABELS[number % len(LABELS)]])
        return {
            "kind": "text_classification",
            "data": {"path": "csv", "files": files, "text": "text", "label": "label"},
            "labels": {label: label for label in LABELS},
            "head": "linear",
            "max_length": 64,
            "pooling": "mean",
        }

    return write


def _images(side: int, patch: int, **sizes: int) -> Callable[[Path], dict[str, Any]]:
    """Return what makes a ViT, its image processor, and folders of JPEG files to classify.

    Every image is larger than what the model sees. saft decodes each once, before the training; in a step a
    random part of each is resized and normalized.
    """

    def write(folder: Path) -> dict[str, Any]:
        import numpy as np
        import transformers
        from PIL import Image

        settings = transformers.ViTConfig(image_size=side, patch_size=patch, **sizes)
        transformers.ViTModel(settings).save_pretrained(folder)
        transformers.ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
        draw = np.random.default_rng(0)
        files = {split: str(folder / split) for split in ("train", "test")}
        for split, count in (("train", 256), ("test", 20)):
            for number in range(count):
                file = Path(files[split]) / LABELS[number % len(LABELS)] / f"{number}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
                width, height = (int(length) for length in draw.integers(side, 2 * side, 2))
                coarse.resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
        return {
            "kind": "image_classification",
            "data": {"path": "folder", "files": files},
            "labels": {label: label for label in LABELS},
            "head": "linear",
            "flip": True,
            "crop": 0.5,
        }

    return write


def _language(tokens: int, vocabulary: int, **sizes: int) -> Callable[[Path], dict[str, Any]]:
    """Return what makes a Qwen2, a tokenizer of bytes, and texts that are cut to `tokens`."""

    def write(folder: Path) -> dict[str, Any]:
        import transformers
        from tokenizers import pre_tokenizers

        marks = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        transformers.Qwen2TokenizerFast(
            vocab={mark: at for at, mark in enumerate(marks)}, merges=[],
            pad_token="<pad>", eos_token="<end>", unk_token="<pad>",
        ).save_pretrained(folder)  # fmt: skip
        settings = transformers.Qwen2Config(
            vocab_size=vocabulary, tie_word_embeddings=True, eos_token_id=1, pad_token_id=0, **sizes
        )
        # A model is loaded in float32 whatever it is written in: half the disk will do.
        transformers.Qwen2ForCausalLM(settings).bfloat16().save_pretrained(folder)
        draw = random.Random(0)
        file = folder / "train.jsonl"
        texts = ("".join(draw.choices(string.ascii_lowercase + " ", k=tokens + 8)) for _ in range(256))
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        data = {"path": "json", "files": {"train": str(file)}, "test": None}
        return {
            "kind": "language_modeling",
            "data": data,
            "text": "{text}",
            "metric_name": "loss",
            "max_length": tokens,
        }

    return write


_QWEN = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
_TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_ATTENTION = {"rank": 16, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
_TRIAL = Size(4, 2, 5, rounds=1)
MODELS = {
    "minilm": Workload(
        "MiniLM (22 M), 64 tokens",
        _texts(384, 6, 12, 1536, 30522),
        cpu=Size(32, 2, 8, rounds=4),
        gpu=Size(64, 10, 50),
    ),
    "vit-b32": Workload(
        "ViT-B/32 (88 M), images of 224 px",
        _images(224, 32),
        cpu=Size(16, 2, 6, rounds=1),
        gpu=Size(128, 5, 25),
        is_costly=True,
    ),
    "0.5b": Workload(
        "0.5 B in Qwen2.5's shape by LoRA (rank 16, attention), 256 tokens",
        _language(256, 151936, num_key_value_heads=2, **_QWEN),
        cpu=Size(1, 2, 4, rounds=1),
        gpu=Size(16, 5, 25),
        lora=_ATTENTION,
    ),
    "tiny-text": Workload("a tiny BERT", _texts(32, 2, 2, 64, 200), _TRIAL, _TRIAL),
    "tiny-image": Workload("a tiny ViT", _images(28, 14, **_TINY), _TRIAL, _TRIAL, is_costly=True),
    "tiny-language": Workload(
        "a tiny Qwen2 by LoRA", _language(16, 300, num_key_value_heads=1, **_TINY), _TRIAL, _TRIAL, _ATTENTION
    ),
}


def settings_of(options: argparse.Namespace, folder: Path) -> Callable[[Mapping[str, Any]], TrainConfig]:
    """Write the model and the data; return what makes the config of one that differs in some."""
    workload = MODELS[options.model]
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    with quietly():
        task = workload.write(folder)
    on_gpu = options.device != "cpu"

    def settings(differs: Mapping[str, Any]) -> TrainConfig:
        training: dict[str, Any] = {
            "steps": options.steps,
            "batch_size": options.batch,
            "learning_rate": 1e-4,
            "schedule": "constant",
            "weight_decay": 0.0,  # of which tensors is a matter of taste, and would make other losses
        }
        if workload.lora:
            training["parametrization"] = {"name": "lora", **workload.lora}
        training |= differs
        mapping = {
            "model": {"path": str(folder)},
            "task": task,
            "out": str(folder.parent / "out"),
            "training": training,
            "validation_examples": 4,
            "checkpoint_every": 0,
            "data_workers": options.workers,
            "trainer": {"accelerator": "gpu" if on_gpu else "cpu", "precision": options.precision},
        }
        return config.parse(TrainConfig, mapping, "bench train")

    return settings


def is_mixed(settings: TrainConfig) -> bool:
    """Return whether a training computes in bfloat16, with weights in float32."""
    return settings.trainer["precision"] == "bf16-mixed"


def workers_of(workload: Workload, device: str) -> int:
    """Return how many processes make the batches, as saft decides if it is not told."""
    return min(4, (os.cpu_count() or 1) - 1) if workload.is_costly and device != "cpu" else 0
