"""What a tensor's name tells."""

from __future__ import annotations

import pytest

from saft.merging.inputs.tensor_names import (
    can_be_factored,
    is_lookup_table,
    is_positions,
    is_vocabulary,
    match,
    rename,
    trunk_first,
)


@pytest.mark.parametrize(
    ("name", "words", "positions", "looked_up"),
    [
        ("shared.weight", True, False, True),
        ("model.shared.weight", True, False, True),
        ("model.embed_tokens.weight", True, False, True),
        ("bert.embeddings.word_embeddings.weight", True, False, True),
        ("transformer.wte.weight", True, False, True),
        ("lm_head.weight", True, False, False),
        ("cls.predictions.decoder.bias", True, False, False),
        ("cls.predictions.bias", True, False, False),
        ("bert.embeddings.position_embeddings.weight", False, True, True),
        ("model.decoder.embed_positions.weight", False, True, True),
        ("transformer.wpe.weight", False, True, True),
        ("bert.embeddings.token_type_embeddings.weight", False, False, True),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", False, False, True),
        ("model.layers.0.shared_mlp.input_linear.weight", False, False, False),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", False, False, False),
        ("model.layers.0.mlp.shared_expert_gate.weight", False, False, False),
        ("encoder.layernorm_embedding.weight", False, False, True),
        ("model.decoder.layers.0.fc1.weight", False, False, False),
        ("lm_head.dense.weight", False, False, False),
    ],
)
def test_the_tables_of_transformers_models_are_known(name, words, positions, looked_up):
    assert (is_vocabulary(name), is_positions(name), is_lookup_table(name)) == (words, positions, looked_up)
    assert can_be_factored(name, (8, 2)) == (name.endswith(".weight") and not looked_up)


def test_embeddings_come_before_heads_and_the_shared_first():
    names = ["lm_head.weight", "encoder.embed_tokens.weight", "shared.weight"]
    assert sorted(names, key=trunk_first) == names[::-1]


@pytest.mark.parametrize(
    ("name", "known", "prefix", "expected"),
    [
        ("encoder.w", ["bert.encoder.w"], None, "bert.encoder.w"),
        ("bert.encoder.w", ["encoder.w"], None, "encoder.w"),
        ("encoder.w", ["a.encoder.w", "b.encoder.w"], None, None),
        ("encoder.w", ["a.encoder.w", "b.encoder.w"], "b.", "b.encoder.w"),
        ("b.encoder.w", ["encoder.w"], "b.", "encoder.w"),
        ("a.encoder.w", ["encoder.w"], "b.", None),
        ("w", ["w", "a.w"], "a.", "w"),
    ],
)
def test_a_name_is_matched_but_for_a_prefix(name, known, prefix, expected):
    assert match(name, known, prefix) == expected


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("turn", [False, True])
def test_gamma_and_beta_of_a_layer_norm_are_its_weight_and_bias(prefix, turn):
    old = ["bert.x.LayerNorm.gamma", "bert.x.LayerNorm.beta", "bert.x.dense.weight"]
    new = [prefix + name for name in ("x.LayerNorm.weight", "x.LayerNorm.bias", "x.dense.weight")]
    names, known = (old, new) if turn else (new, old)
    assert rename(names, known) == dict(zip(known, names, strict=True))


def test_gamma_of_another_module_is_no_weight():
    names = ["block.gamma", "block.w"]
    assert rename(names, ["block.weight", "block.w"]) == {name: name for name in names}


def test_two_names_never_become_one():
    assert rename(["a.w", "w"], ["w", "v"]) == {"a.w": "a.w", "w": "w"}
