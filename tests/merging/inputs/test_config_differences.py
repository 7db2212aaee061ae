"""Configs that contradict each other over tensors of one shape."""

from __future__ import annotations

import json

import pytest

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig


def plan(save, tensors, mine, theirs):
    base = save("base", tensors, **{"config.json": json.dumps(theirs)})
    return check(MergeConfig("average", base, [save("a", tensors, **{"config.json": json.dumps(mine)})]))


@pytest.mark.parametrize(
    ("key", "mine", "theirs"),
    [
        ("num_attention_heads", 4, 8),
        ("num_key_value_heads", 2, 8),
        ("n_head", 12, 6),
        ("hidden_act", "relu", "gelu"),
        ("position_embedding_type", "absolute", "relative_key"),
        ("model_type", "bert", "roberta"),
    ],
)
def test_models_that_compute_differently_are_refused(save, base_tensors, key, mine, theirs):
    with pytest.raises(UserError, match=f"models.a: .*{key} is {mine!r}, in the base .* it is {theirs!r}"):
        plan(save, base_tensors, {key: mine}, {key: theirs})


def test_the_parts_of_a_model_are_compared_too(save, base_tensors):
    parts = [{"model_type": "x", "text_config": {"num_attention_heads": heads}} for heads in (4, 8)]
    with pytest.raises(UserError, match="num_attention_heads is 4"):
        plan(save, base_tensors, *parts)


def test_a_part_of_a_model_may_be_the_base(save, base_tensors):
    whole = {"model_type": "clip", "text_config": {"model_type": "clip_text_model"}}
    assert plan(save, base_tensors, {"model_type": "clip_text_model"}, whole).merged


def test_what_one_config_does_not_state_is_no_contradiction(save, base_tensors):
    assert plan(save, base_tensors, {"num_attention_heads": 4}, {"num_attention_heads": None}).merged
