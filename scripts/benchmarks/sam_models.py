"""The models that are trained in the benchmark, with random weights and one fixed batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODELS", "Workload", "workload"]


@dataclass(frozen=True)
class Workload:
    """A model in training mode, its batch, and how the loss comes from both."""

    model: nn.Module
    batch: dict[str, Tensor]
    forward: Callable[[nn.Module], Tensor]

    def backward(self, model: nn.Module | None = None) -> None:
        """Run forward and backward once, through a wrapper of the model if one is given."""
        with torch.enable_grad():
            self.forward(self.model if model is None else model).backward()


class Classifier(nn.Module):
    """An encoder, and a linear head on the output of its first token."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, 10)

    def forward(self, **batch: Tensor) -> Tensor:
        logits = self.head(self.encoder(**batch).last_hidden_state[:, 0])
        return nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device) % 10)


class LanguageModel(nn.Module):
    """A causal language model, called for its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> Tensor:
        loss: Tensor = self.model(**batch, labels=batch["input_ids"], use_cache=False).loss
        return loss


class Tiny(nn.Module):
    """Trains in no time, for trying the benchmark itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(1000, 32), nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits = self.head(self.norm(self.embedding(input_ids)).mean(1))
        return nn.functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device) % 10)


# transformers takes seconds to import: only where a model of it is made.


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return Classifier(BertModel(config, add_pooling_layer=False), config.hidden_size)


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(image_size=224, patch_size=32)
    return Classifier(ViTModel(config, add_pooling_layer=False), config.hidden_size)


def _qwen() -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LanguageModel(Qwen2ForCausalLM(config))


def _tokens(vocabulary: int, length: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda size: {"input_ids": torch.randint(vocabulary, (size, length))}


def _images(size: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(size, 3, 224, 224)}


# name: what it is, how it is made, its batch of a given size, the default size on a CPU and elsewhere
MODELS: dict[
    str, tuple[str, Callable[[], nn.Module], Callable[[int], dict[str, Tensor]], tuple[int, int]]
] = {
    "bert": ("BERT, 6 layers of width 384, 64 tokens", _bert, _tokens(30522, 64), (4, 64)),
    "vit-b32": ("ViT-B/32, images of 224 x 224", _vit, _images, (8, 128)),
    "0.5b": ("Qwen2-0.5B, 512 tokens", _qwen, _tokens(151936, 512), (1, 4)),
    "tiny": ("an embedding and a linear layer, 8 tokens", Tiny, _tokens(1000, 8), (2, 2)),
}


def workload(name: str, device: str, batch_size: int | None) -> Workload:
    """Build a model and its batch on a device; there, unless it is the CPU, it computes in bfloat16."""
    _, build, batch_of, sizes = MODELS[name]
    torch.manual_seed(0)
    model = build().train().to(device)
    batch = batch_of(batch_size or sizes[device != "cpu"])
    batch = {key: value.to(device) for key, value in batch.items()}

    def forward(wrapped: nn.Module) -> Tensor:
        autocast: Any = contextlib.nullcontext()
        if device != "cpu":
            autocast = torch.autocast(torch.device(device).type, torch.bfloat16)
        with autocast:
            loss: Tensor = wrapped(**batch)
        return loss

    return Workload(model, batch, forward)
