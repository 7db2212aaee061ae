from __future__ import annotations

from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from saft.tasks.causal_tokenizer import CausalTokenizer
from saft.tasks.conversation import segments

SPACE = "▁"
MARKS = ["<unk>", "<s>", "</s>", "<|assistant|>"]
MESSAGES = [
    {"role": role, "content": content}
    for role, content in (("user", "hi ho"), ("assistant", "yo"), ("user", "b"), ("assistant", "ho by"))
]
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
LINES = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>U:{{ m.content }}|A:"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}</s><|assistant|>\n"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)


def tokenizer(kind: str, strips: bool = False) -> Any:
    """Return one that writes a space in front of texts, by a normalizer as Llama 2's or a pre-tokenizer."""
    signs = [SPACE, *map(chr, range(33, 127))]
    pairs = [(SPACE, letter) for letter in "hby"]
    tokens = [*MARKS, *(f"<0x{byte:02X}>" for byte in range(256)), *signs, *map("".join, pairs)]
    made = Tokenizer(
        models.BPE(
            vocab={token: at for at, token in enumerate(tokens)},
            merges=pairs,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    if kind == "prepend":
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]  # type: ignore[list-item]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.add_tokens([AddedToken(MARKS[3], rstrip=strips, normalized=False)])
    return fast


@pytest.mark.parametrize("kind", ["prepend", "first", "always"])
@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("template", [INST, LINES, MARKED])
def test_a_conversation_in_pieces_is_the_whole_one(kind: str, strips: bool, template: str) -> None:
    fast = tokenizer(kind, strips)
    fast.chat_template = template
    whole = fast.apply_chat_template(MESSAGES, tokenize=True)["input_ids"]
    [(tokens, learned)] = CausalTokenizer(fast, True).encode([segments(fast, MESSAGES, "t")])
    assert tokens == whole
    signs = fast.convert_ids_to_tokens([token for token, own in zip(tokens, learned, strict=True) if own])
    assert "".join(signs).replace(SPACE, "") == "yo</s>hoby</s>"


@pytest.mark.parametrize("kind", ["prepend", "first", "always"])
def test_a_completion_gets_no_second_space(kind: str) -> None:
    fast = tokenizer(kind)
    text, pieces = CausalTokenizer(fast, False), [("hi:", False), (" ho", True)]
    [(tokens, _)] = text.encode([pieces])
    assert tokens == [*fast("hi: ho")["input_ids"], 2]
    assert text.endings([pieces]) == [tokens[-3:]]
    assert fast.convert_ids_to_tokens(tokens[-3:]) == [f"{SPACE}h", "o", "</s>"]


@pytest.mark.parametrize("kind", ["prepend", "first", "always"])
def test_begin_and_end_are_not_doubled_where_a_template_has_them(kind: str) -> None:
    fast = tokenizer(kind)
    text = CausalTokenizer(fast, False)
    plain, written = [("hi:", False), (" ho", True)], [("<s>hi:", False), (" ho</s>", True)]
    first, second = text.encode([plain, written])
    assert second[0].count(1) == second[0].count(2) == 1
    assert second == first or kind == "first"  # which puts no space behind a special token
    assert text.endings([written]) == text.endings([plain])
    assert second[1][-3:] == [True] * 3
