from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file, save_file

from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.models import load_trunk, max_tokens, vision_kind


def test_a_model_without_pooler_gets_no_random_one(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "no-pooler"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert set(load_trunk(ModelConfig(str(folder))).state_dict()) == set(kept)


def test_missing_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"weights of encoder.layer.0.output.dense.weight are missing"):
        load_trunk(ModelConfig(str(folder)))


def test_nan_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"encoder.layer.1.output.dense.bias holds NaN"):
        load_trunk(ModelConfig(str(folder)))


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.path: there is no"):
        load_trunk(ModelConfig(str(tmp_path / "nowhere")))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        load_trunk(ModelConfig(str(tmp_path)))


def test_the_positions_of_a_model_bound_its_texts(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    for name, settings, longest in (
        ("bert", transformers.BertConfig(**small, max_position_embeddings=20), 20),
        ("roberta", transformers.RobertaConfig(**small, max_position_embeddings=20), 18),  # counts from 2
        ("gpt2", transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=20), 20),
        ("t5", transformers.T5Config(d_model=8, num_layers=1, num_heads=2), 1000),  # relative: no end
    ):
        settings.save_pretrained(tmp_path / name)
        assert max_tokens(tmp_path / name, 1000) == longest, name
        assert max_tokens(tmp_path / name, 15) == 15, name


@pytest.mark.parametrize(
    "damage",
    [
        {"vocab_size": -5},
        {"hidden_size": 7, "num_attention_heads": 2},
        {"num_hidden_layers": "x"},
        {"architectures": [[]]},
    ],
)
def test_a_config_that_makes_no_model_is_told(
    tiny_model: Path, tmp_path: Path, damage: dict[str, Any]
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | damage))
    for read in (vision_kind, lambda place: max_tokens(place, 10**6)):
        with pytest.raises(UserError, match=r"damaged: (no model can be made of )?its config.json"):
            read(folder)


def test_code_in_a_folder_is_never_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / "config.json").read_text())
    content |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(
        UserError, match=r"is a model whose code lies in its folder \(auto_map in config.json\)"
    ):
        load_trunk(ModelConfig(str(folder)))
    content["model_type"] = "bert"  # which transformers has: its own code is used
    (folder / "config.json").write_text(json.dumps(content))
    load_trunk(ModelConfig(str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_head_that_is_left_out_is_no_news(tiny_llama: Path) -> None:
    told = list[logging.LogRecord]()
    listener = logging.Handler()
    listener.emit = told.append  # type: ignore[assignment]
    talker = logging.getLogger("transformers")
    talker.addHandler(listener)
    try:
        load_trunk(ModelConfig(str(tiny_llama)))
    finally:
        talker.removeHandler(listener)
    assert [record.getMessage() for record in told] == []
