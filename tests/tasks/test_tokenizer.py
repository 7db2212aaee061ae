from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saft.errors import UserError
from saft.tasks.tokenizer import load_tokenizer


def test_an_absent_tokenizer_is_told(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_model / name, tmp_path)
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_a_padding_token_pads(tmp_path: Path) -> None:
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "film": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", padding_side="left").save_pretrained(
        tmp_path
    )
    batch = load_tokenizer(str(tmp_path))(["good film", "film"], padding=True)
    assert batch["attention_mask"] == [[1, 1], [1, 0]]
