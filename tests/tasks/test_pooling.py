from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saft.errors import UserError
from saft.model_config import ModelConfig
from saft.models import load_trunk
from saft.tasks.pooling import TextClassifier, check_reading, pool
from saft.tasks.tokenizer import load_tokenizer


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


def test_a_classifier_is_trunk_then_head(tiny_model: Path) -> None:
    trunk = load_trunk(ModelConfig(str(tiny_model)))
    head = nn.Linear(32, 3)
    inputs = dict(load_tokenizer(str(tiny_model))(["the red rose"], return_tensors="pt"))
    model = TextClassifier(trunk, head)
    torch.testing.assert_close(model(inputs), head(model.features(inputs)))
    assert not trunk.training
    assert all(parameter.dtype == torch.float32 for parameter in trunk.parameters())


@pytest.mark.parametrize("kind", [transformers.T5Model, transformers.T5EncoderModel, transformers.BartModel])
def test_of_an_encoder_decoder_the_encoder_is_read(kind: type[transformers.PreTrainedModel]) -> None:
    torch.manual_seed(0)
    options = {"vocab_size": 9, "d_model": 8, "decoder_start_token_id": 0}
    if kind is transformers.BartModel:
        layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        config = transformers.BartConfig(**options, **layers, decoder_attention_heads=2)
    else:
        config = transformers.T5Config(**options, num_layers=1, num_heads=2, d_kv=4, d_ff=8)
    trunk = kind(config).eval()
    inputs = {"input_ids": torch.tensor([[4, 5, 1]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    model = TextClassifier(trunk, nn.Identity())
    expected = trunk.get_encoder()(**inputs).last_hidden_state.mean(1)
    torch.testing.assert_close(model.features(inputs), expected)
    # Token types, which some tokenizers give and this model does not take, are left out.
    torch.testing.assert_close(model.features(inputs | {"token_type_ids": torch.zeros(1, 3)}), expected)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "FNet",
            {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1},
            "reads the padding of a",
        ),
        ("Bert", {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}, ""),
        ("FunnelBase", {"block_sizes": [1, 1], "d_inner": 8}, "makes 3 vectors of 5 tokens, and not one"),
    ],
)
def test_how_a_model_reads_is_tried(
    kind: str, options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of Funnel's base a training ended in a traceback; FNet scored otherwise with each size of batches."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2} if kind == "Bert" else {"d_model": 8, "n_head": 2, "d_head": 4}
    settings = getattr(transformers, f"{kind.removesuffix('Base')}Config")
    options |= {} if kind == "FNet" else heads
    model = TextClassifier(
        getattr(transformers, f"{kind}Model")(settings(vocab_size=9, **options)).eval(), nn.Identity()
    )
    if kind == "FunnelBase":
        with pytest.raises(UserError, match=message):
            check_reading(model, "t")
        return
    check_reading(model, "t")
    told = capsys.readouterr().err
    assert message in told if message else not told
