from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from saft.tasks.generation import generate
from saft.tasks.language_model import LanguageModel, padded

TOKENIZER = SimpleNamespace(eos_token_id=63, pad_token_id=0)
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": 63}
HEADS = {"num_attention_heads": 2, "intermediate_size": 64}
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [20], [21, 22, 23]]


def rwkv() -> Any:
    return transformers.RwkvForCausalLM(transformers.RwkvConfig(**SIZES, context_length=32))


def xlnet() -> Any:
    sizes = {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}
    return transformers.XLNetLMHeadModel(transformers.XLNetConfig(**sizes, pad_token_id=0, eos_token_id=63))


def recurrent_gemma() -> Any:
    sizes = SIZES | HEADS | {"num_hidden_layers": 3, "lru_width": 32, "head_dim": 16}
    return transformers.RecurrentGemmaForCausalLM(transformers.RecurrentGemmaConfig(**sizes))


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **HEADS))


@pytest.mark.filterwarnings("ignore")  # transformers' own of old models
@pytest.mark.parametrize(
    ("make", "in_batches"), [(rwkv, False), (xlnet, False), (recurrent_gemma, True), (llama, True)]
)
def test_what_a_model_says_depends_on_no_other_text_of_the_batch(make: Any, in_batches: bool) -> None:
    """RWKV takes padding for text, and XLNet is not told of it: in a batch both went on otherwise.

    RecurrentGemma keeps what it has read, and went on from the text before where a text is one token.
    """
    torch.manual_seed(0)
    trunk = make().eval()
    for parameter in trunk.parameters():
        parameter.data.mul_(8 if parameter.ndim > 1 else 1)  # so that it does not say the same of all
    model, calls = LanguageModel(trunk), []
    said = trunk.generate

    def counted(**arguments: Any) -> Any:
        calls.append(len(arguments["input_ids"]))
        return said(**arguments)

    trunk.generate = counted

    def asked(rows: list[list[int]]) -> list[list[int]]:
        masks = [[1] * len(row) for row in rows]
        inputs = {"input_ids": padded(rows, 0, left=True), "attention_mask": padded(masks, 0, left=True)}
        with torch.inference_mode():
            return generate(model, inputs, 4, TOKENIZER)

    together = asked(PROMPTS)
    assert model.answers_in_batches == in_batches
    assert calls == [2, 1, *([5] if in_batches else [1] * 5)]
    assert together == [asked([row])[0] for row in reversed(PROMPTS)][::-1]
    assert len(set(map(tuple, together))) > 1
