"""The models that are merged in the benchmark: a base with random weights, and others that differ from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saft.files.checkpoint import staged
from saft.files.weights_writer import WeightsWriter

__all__ = ["MODELS", "make"]

_SPREAD, _MOVE = 0.02, 0.0005  # of the base's weights, and of the task vectors


# transformers takes seconds to import: only where a model of it is made.


def _llama(vocabulary: int, width: int, layers: int, intermediate: int, heads: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM, LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        num_attention_heads=heads,
    )


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel, BertConfig()


MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    "llama-120m": ("LLaMA, 12 layers of width 768", lambda: _llama(24000, 768, 12, 2048, 12)),
    "llama-1b": ("LLaMA, 16 layers of width 2048", lambda: _llama(32000, 2048, 16, 8192, 32)),
    "bert-110m": ("BERT, 12 layers of width 768", _bert),
    "tiny": ("LLaMA, 2 layers of width 32", lambda: _llama(96, 32, 2, 64, 2)),
}


def make(
    name: str, models: int, dtype: torch.dtype, folder: Path, shard_size: int | None = None
) -> list[Path]:
    """Return the folders of the base and of `models` others, which are made where they are not there yet.

    The weights lie in one file, or in shards of at most so many bytes.

    What is added to the base is Student's t with 3 degrees of freedom: of a size for all tensors, with heavy
    tails. It has the size of fine-tuning, not its structure.
    """
    folders = [folder / f"model{seed}" if seed else folder / "base" for seed in range(models + 1)]
    missing = [seed for seed, path in enumerate(folders) if not path.exists()]
    if not missing:
        return folders
    kind, config = MODELS[name][1]()
    config.architectures, config.dtype = [kind.__name__], dtype
    with torch.device("meta"):
        tensors = kind(config).state_dict()
    layout = {tensor: (dtype, tuple(empty.shape)) for tensor, empty in tensors.items()}
    for seed in missing:
        with staged(folders[seed]) as unfinished:
            config.save_pretrained(unfinished)
            with WeightsWriter(unfinished, layout, shard_size) as writer:
                for place, tensor in enumerate(writer.names):
                    writer.append(tensor, _weights(layout[tensor][1], seed, place).to(dtype))
    return folders


def _weights(shape: tuple[int, ...], seed: int, place: int) -> Tensor:
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(place)) * _SPREAD
    if not seed:
        return weights
    generator = torch.Generator().manual_seed(1_000_000 * seed + place)
    normal, *others = (torch.randn(shape, generator=generator) for _ in range(4))
    spread = torch.stack([other.square_() for other in others]).mean(dim=0).sqrt_()
    return weights.add_(normal.div_(spread), alpha=_MOVE)
