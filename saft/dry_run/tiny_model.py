"""Tiny random models of the architectures that recipes have, with tokenizers of bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from saft.errors import UserError
from saft.files.staging import staged
from saft.models import quietly

__all__ = ["architecture", "write_model"]

END, PAD = 256, 257  # after the bytes
VOCABULARY = 264
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SEEING = WIDTH | {"image_size": 28, "patch_size": 14}
READING = WIDTH | {"vocab_size": VOCABULARY, "max_position_embeddings": 200, "pad_token_id": PAD}


def architecture(path: str, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which of the tiny models stands for a model: by the kinds of its tasks, and words in its name.

    Args:
        path: of the model, as a config has it.
        tasks: name -> mapping.

    Raises:
        UserError: the tasks are of a kind that no tiny model is for.

    Example:
        >>> architecture("openai-community/gpt2", {"rte": {"kind": "text_classification"}})
        'gpt2'
    """
    kinds = {keys["kind"] for keys in tasks.values()}
    name = path.lower()
    if kinds == {"image_classification"}:
        needs_text = any(keys.get("head") == "zero_shot" for keys in tasks.values())
        return "clip" if needs_text or "clip" in name else "vit"
    if kinds == {"text_to_text"}:
        return "t5"
    if "gpt2" in name:
        return "gpt2"
    if "language_modeling" in kinds:
        return "llama"
    if kinds <= {"text_classification", "text_regression"}:
        return "roberta" if "roberta" in name else "bert"
    raise UserError(f"--tiny: there is no tiny model for tasks of the kinds {', '.join(sorted(kinds))}")


def write_model(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a random model as transformers does, with its tokenizer and image processor.

    Args:
        folder: to write to; nothing is done if it is there.
        kind: as `architecture` says.
        seed: of its weights.

    Returns:
        The folder.
    """
    if folder.exists():
        return folder
    with staged(folder) as place:
        with quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _made(kind).save_pretrained(place)
        if kind in ("clip", "vit"):
            size = {"height": 28, "width": 28}
            processor = _by_pil("CLIPImageProcessor" if kind == "clip" else "ViTImageProcessor")
            options: dict[str, Any] = {"size": size} | ({"crop_size": size} if kind == "clip" else {})
            processor(**options).save_pretrained(place)
        if kind != "vit":
            _write_tokenizer(place, ends=kind not in ("gpt2", "llama"))
    return folder


def _made(kind: str) -> Any:
    marks = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
    match kind:
        case "clip":
            reading = READING | marks
            settings = transformers.CLIPConfig(text_config=reading, vision_config=SEEING, projection_dim=8)
            return transformers.CLIPModel(settings)
        case "vit":
            return transformers.ViTModel(transformers.ViTConfig(**SEEING))
        case "t5":
            sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
            start = {"decoder_start_token_id": PAD, "feed_forward_proj": "gated-gelu"}
            return transformers.T5ForConditionalGeneration(
                transformers.T5Config(vocab_size=VOCABULARY, **sizes, **start, **marks)
            )
        case "gpt2":
            sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 200}
            return transformers.GPT2LMHeadModel(
                transformers.GPT2Config(vocab_size=VOCABULARY, **sizes, **marks)
            )
        case "llama":
            options = READING | marks | {"num_key_value_heads": 1}
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**options))
        case "roberta":
            options = READING | marks | {"max_position_embeddings": 200 + PAD, "pad_token_id": PAD}
            return transformers.RobertaModel(transformers.RobertaConfig(**options))
        case _:
            return transformers.BertModel(transformers.BertConfig(**READING))


def _by_pil(name: str) -> Any:
    """Return the form of an image processor that needs no torchvision, of which transformers would speak."""
    with_pil = f"{name}Pil"  # since transformers 5
    return getattr(transformers, with_pil if hasattr(transformers, with_pil) else name)


def _write_tokenizer(folder: Path, ends: bool) -> None:
    """Write a tokenizer whose tokens are bytes, and which ends every text if it is to."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, "<end>", "<pad>"]
    tokenizer = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <end>", pair="$A <end> $B <end>", special_tokens=[("<end>", END)]
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>"
    )
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
