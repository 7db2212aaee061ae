"""Several texts in one row of a batch, none of which sees another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from saft.errors import UserError
from saft.tasks.examples import IGNORED, Batch
from saft.tasks.language_model import LanguageModel, padded

__all__ = ["check_separation", "pack", "packed_batch"]


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the numbers of the texts in each row, in their order; a row has at most `size` tokens.

    Example:
        >>> pack([3, 4, 2, 8], size=8)
        [[0, 1], [2], [3]]
    """
    rows: list[list[int]] = []
    room = 0
    for text, length in enumerate(lengths):
        if length > room:
            rows.append([])
            room = size
        rows[-1].append(text)
        room -= length
    return rows


def packed_batch(rows: Sequence[Sequence[tuple[list[int], list[int]]]], pad: int) -> Batch:
    """Return a batch of rows of (token ids, labels).

    Positions begin at 0 in every text; by that, and for lack of a mask, transformers knows where one ends and
    shows it none of the others. Padding is a text of its own, which `is_text` tells from the others.
    """
    joined, labels, positions = [], [], []
    for row in rows:
        joined.append([token for tokens, _ in row for token in tokens])
        labels.append([label for _, own in row for label in own])
        positions.append([at for tokens, _ in row for at in range(len(tokens))])
    longest = max(map(len, joined))
    positions = [[*own, *range(longest - len(own))] for own in positions]
    inputs = {
        "input_ids": padded(joined, pad),
        "position_ids": torch.tensor(positions),
        "is_text": padded([[1] * len(row) for row in joined], 0),
    }
    return Batch(inputs, padded(labels, IGNORED))


@torch.inference_mode()
def check_separation(model: LanguageModel, where: str) -> None:
    """Try whether a text is read alike behind others and by itself.

    Raises:
        UserError: it is not, so texts in one row would see each other.
    """
    was_training = model.training
    model.eval()
    device = next(model.trunk.parameters()).device
    text, others = [5, 6, 3], ([3, 1, 2, 4, 1], [2, 4, 3, 1, 6])
    behind = packed_batch([[(other, other), (text, text)] for other in others], pad=0).to(device)
    single = packed_batch([[(text, text)]], pad=0).to(device)
    try:
        if "position_ids" not in model.taken:
            apart = False
        else:
            expected = model(single.inputs)[0].float()
            one, other = model(behind.inputs)[:, -len(text) :].float()
            apart = bool((one - expected).abs().max() <= 1e-2 * expected.std())
            apart &= bool((one - other).abs().max() <= 1e-5 * expected.std())  # a convolution shows little
    finally:
        model.train(was_training)
    if not apart:
        name = type(model.trunk).__name__
        raise UserError(
            f"{where}.packing: in {name} the texts of a row would see each other; set it to false"
        )
