from __future__ import annotations

import json
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


def test_nothing_is_read_through_a_link_out_of_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    (tmp_path / "elsewhere.json").write_text("{}")
    (tmp_path / "model" / "tokenizer_config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"tokenizer_config.json: leads out of its folder"):
        load_tokenizer(str(tmp_path / "model"))


def test_an_adapter_is_told_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds an adapter, and not a whole model; copy config.json"):
        load_tokenizer(str(tmp_path))


def test_a_padding_token_that_the_model_lacks_is_not_used(tiny_model: Path, tmp_path: Path) -> None:
    made = PreTrainedTokenizerFast.from_pretrained(tiny_model)
    size = len(made)
    made.add_special_tokens({"pad_token": "<pad>"})
    assert made.pad_token_id == size
    made.save_pretrained(tmp_path)
    shutil.copy(tiny_model / "config.json", tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id < size


def test_a_tokenizer_of_a_larger_model_is_told(tiny_model: Path, tmp_path: Path) -> None:
    """Else the first batch fails in the middle of the embedding."""
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    with pytest.raises(
        UserError, match=r"writes token number \d+, but the model has weights for 20 tokens only"
    ):
        load_tokenizer(str(tmp_path / "model"))


@pytest.mark.parametrize("value", [[], {}, "many", [512]])
def test_a_damaged_length_is_told_and_not_met_at_the_first_text(
    value: object, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": value}))
    with pytest.raises(UserError, match="its tokenizer cannot be loaded: "):
        load_tokenizer(str(tmp_path / "model"))
