"""Inputs made up from a task's own: what a penalty reads where nothing of the other tasks may be seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from saft.errors import UserError
from saft.penalties.unlabelled import Inputs

__all__ = ["shuffled", "with_random_tokens"]

_TILES = 7  # a side, of images whose model has no patches: as CLIP ViT-B/32 has them


def shuffled(inputs: Inputs, trunk: nn.Module, generator: torch.Generator) -> Inputs:
    """Return every text with its tokens, or every image with its patches, in a random order.

    The first and the last token of a text stay where they are, and so does what the patches do not cover. The
    patches of a model that has none are squares of a seventh of the image's shorter side.

    Args:
        inputs: with input_ids and attention_mask, [texts, tokens], or pixel_values,
            [images, 3, height, width].
        trunk: whose config may say how large its patches are.
        generator: of the CPU.

    Raises:
        UserError: they are neither.

    Example:
        >>> ids = torch.tensor([[1, 5, 6, 2, 0]])
        >>> texts = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        >>> mixed = shuffled(texts, nn.Identity(), torch.Generator())["input_ids"][0]
        >>> sorted(mixed[1:3].tolist()), mixed[[0, 3, 4]].tolist()
        ([5, 6], [1, 2, 0])
    """
    if "pixel_values" in inputs:
        pixels = inputs["pixel_values"]
        shorter = min(pixels.shape[-2:])
        side = min(_patch(trunk) or max(1, shorter // _TILES), shorter)
        return {**inputs, "pixel_values": _shuffled_patches(pixels, side, generator)}
    ids = _token_ids(inputs, "own_shuffled: needs texts or images").clone()
    for row, inner in zip(ids, _inner(inputs), strict=True):
        places = inner.nonzero().squeeze(1)
        order = torch.randperm(len(places), generator=generator).to(places.device)
        row[places] = row[places[order]]
    return {**inputs, "input_ids": ids}


def with_random_tokens(inputs: Inputs, trunk: nn.Module, generator: torch.Generator) -> Inputs:
    """Return the inputs with other tokens, drawn uniformly, but for the first and the last of every text.

    Args:
        inputs: with input_ids and attention_mask, [texts, tokens].
        trunk: whose tokens these are.
        generator: of the CPU.

    Raises:
        UserError: they are not texts.

    Example:
        >>> ids = torch.tensor([[1, 5, 6, 2, 0]])
        >>> trunk = nn.Module()
        >>> trunk.get_input_embeddings = lambda: nn.Embedding(9, 1)
        >>> texts = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        >>> with_random_tokens(texts, trunk, torch.Generator())["input_ids"][0, [0, 3, 4]].tolist()
        [1, 2, 0]
    """
    ids = _token_ids(inputs, "random_tokens: needs texts")
    embeddings = getattr(trunk, "get_input_embeddings", lambda: None)()
    if not isinstance(embeddings, nn.Embedding):
        raise UserError("penalty: inputs: random_tokens: needs a model of texts, with token embeddings")
    tokens = torch.randint(0, embeddings.num_embeddings, ids.shape, generator=generator).to(ids)
    return {**inputs, "input_ids": torch.where(_inner(inputs), tokens, ids)}


def _token_ids(inputs: Inputs, needs: str) -> Tensor:
    if "input_ids" not in inputs or "attention_mask" not in inputs:
        raise UserError(f"penalty: inputs: {needs}, but this task's inputs are {sorted(inputs)}")
    return inputs["input_ids"]


def _inner(inputs: Inputs) -> Tensor:
    """Return where there is a token that is neither the first nor the last of its text, [texts, tokens]."""
    present = inputs["attention_mask"].bool()
    before, after = present.cumsum(1), present.flip(1).cumsum(1).flip(1)
    return present & (before > 1) & (after > 1)


def _patch(trunk: nn.Module) -> int | None:
    """Return how many pixels a side the model's patches have; None where it has none."""
    size = getattr(getattr(trunk, "config", None), "patch_size", None)
    return size if isinstance(size, int) and size > 0 else None


def _shuffled_patches(pixels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    rows, columns = (length // side for length in pixels.shape[-2:])
    result = pixels.clone()
    covered = result[..., : rows * side, : columns * side]
    patches = functional.unfold(covered, side, stride=side)  # [images, 3 * side * side, patches]
    order = torch.stack([torch.randperm(rows * columns, generator=generator) for _ in pixels])
    mixed = patches.gather(2, order.to(pixels.device)[:, None].expand_as(patches))
    covered.copy_(functional.fold(mixed, covered.shape[-2:], side, stride=side))
    return result
