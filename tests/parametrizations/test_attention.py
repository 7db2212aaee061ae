"""Which tensors are the matrices of attention, in models that call them differently."""

from __future__ import annotations

from pathlib import Path

import transformers

from saft.parametrizations.attention import Attention


def trained(model: transformers.PreTrainedModel) -> set[str]:
    Attention().wrap(model, lambda count: iter(()))
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_bert(tiny_model: Path) -> None:
    parts = ("self.query", "self.key", "self.value", "output.dense")
    expected = {f"encoder.layer.{n}.attention.{part}.weight" for n in (0, 1) for part in parts}
    assert trained(transformers.AutoModel.from_pretrained(tiny_model)) == expected


def test_llama(tiny_llama: Path) -> None:
    found = trained(transformers.AutoModelForCausalLM.from_pretrained(tiny_llama))
    assert found == {f"model.layers.{n}.self_attn.{part}_proj.weight" for n in (0, 1) for part in "qkvo"}


def test_gpt2_whose_matrices_are_fused_and_no_linear_layers(tiny_gpt2: Path) -> None:
    found = trained(transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2))
    assert found == {f"transformer.h.{n}.attn.{part}.weight" for n in (0, 1) for part in ("c_attn", "c_proj")}


def test_t5_with_cross_attention_and_without_relative_positions(tiny_t5: Path) -> None:
    found = trained(transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_t5))
    assert {name.split(".")[-3] for name in found} == {"SelfAttention", "EncDecAttention"}
    assert {name.split(".")[-2] for name in found} == set("qkvo")
    assert len(found) == 4 * (2 + 2 + 2)
