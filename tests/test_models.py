from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from saft.errors import UserError
from saft.models import Classifier, ModelConfig, load_tokenizer, load_trunk, pool


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), left=st.booleans(), seed=st.integers(0, 99)
)
@settings(deadline=None, derandomize=True)
def test_pooling_ignores_padding_on_either_side(lengths: list[int], left: bool, seed: int) -> None:
    longest = max(lengths)
    features = torch.randn(len(lengths), longest, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    rows = []
    for row, length in enumerate(lengths):
        start = longest - length if left else 0
        mask[row, start : start + length] = 1
        rows.append(features[row, start : start + length])
    for pooling, oracle in (
        ("mean", lambda row: row.mean(0)),
        ("cls", lambda row: row[0]),
        ("last", lambda row: row[-1]),
    ):
        expected = torch.stack([oracle(row) for row in rows])
        torch.testing.assert_close(pool(features, mask, pooling), expected)


def test_classifier_is_trunk_then_head(tiny_model: Path) -> None:
    trunk = load_trunk(ModelConfig(str(tiny_model)))
    head = nn.Linear(32, 3)
    inputs = dict(load_tokenizer(ModelConfig(str(tiny_model)))(["the red rose"], return_tensors="pt"))
    classifier = Classifier(trunk, head)
    torch.testing.assert_close(classifier(inputs), head(classifier.embed(inputs)))
    assert not trunk.training
    assert all(parameter.dtype == torch.float32 for parameter in trunk.parameters())


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


def test_absent_folder_and_absent_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.path: there is no"):
        load_trunk(ModelConfig(str(tmp_path / "nowhere")))
    folder = tmp_path / "no-tokenizer"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_model / name, folder)
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(ModelConfig(str(folder)))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        load_trunk(ModelConfig(str(tmp_path)))
