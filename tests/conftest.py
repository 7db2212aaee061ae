"""A tiny model, tokenizer and data set, made on the spot: everything runs offline in seconds."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries below are imported

import torch
import transformers

collect_ignore = ["golden/mergekit/make.py"]  # needs mergekit, in an environment of its own

COLOURS = {
    "red": ["rose", "blood", "brick"],
    "blue": ["sky", "sea", "ink"],
    "green": ["leaf", "grass", "moss"],
}
SIZES = {"big": ["whale", "tower", "hill"], "small": ["ant", "crumb", "dot"]}
FILLER = ["the", "a", "of", "and", "thing", "is", "very", "near"]


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> None:
    """Small tensors are slower on two threads, and two test processes would fight over them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a BERT of two layers of width 32, with a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = [word for group in (COLOURS, SIZES) for label, some in group.items() for word in [label, *some]]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *FILLER]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    transformers.BertModel(settings).save_pretrained(folder)
    return folder


def _write_table(file: Path, groups: dict[str, list[str]], count: int, seed: int) -> None:
    draw = random.Random(seed)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for _ in range(count):
            label = draw.choice(sorted(groups))
            words = [draw.choice(groups[label]), *draw.choices(FILLER, k=draw.randrange(2, 6))]
            draw.shuffle(words)
            writer.writerow([" ".join(words), label])


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return two easy tasks, as the YAML mapping `tasks:` would hold them."""
    folder = tmp_path_factory.mktemp("data")
    mappings = {}
    for number, (name, groups) in enumerate((("colour", COLOURS), ("size", SIZES))):
        _write_table(folder / f"{name}-train.csv", groups, 120, seed=number)
        _write_table(folder / f"{name}-test.csv", groups, 60, seed=100 + number)
        mappings[name] = {
            "kind": "text_classification",
            "data": {
                "path": "csv",
                "files": {split: str(folder / f"{name}-{split}.csv") for split in ("train", "test")},
                "text": "text",
                "label": "label",
            },
            "labels": {label: label for label in groups},
            "prompts": ["a {} thing"],
            "max_length": 16,
        }
    return mappings
