"""Inputs made up from a task's own; those of texts are also in test_drift and test_draws."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.penalties.draws import PenaltyOnInputs
from saft.penalties.drift import Drift
from saft.penalties.made_up import shuffled, with_random_tokens
from saft.penalties.tau_jp import TauJp
from saft.tasks.image_classification import BoundImageClassification


def trunk_of(patch_size: object) -> nn.Module:
    trunk = nn.Identity()
    trunk.config = SimpleNamespace(patch_size=patch_size)  # type: ignore[assignment]
    return trunk


def squares(image: Tensor, side: int) -> list[list[float]]:
    """Return what the squares of one image hold, row by row, by slices."""
    rows, columns = image.shape[1] // side, image.shape[2] // side
    return [
        image[:, i * side : (i + 1) * side, j * side : (j + 1) * side].flatten().tolist()
        for i in range(rows)
        for j in range(columns)
    ]


@pytest.mark.parametrize(
    ("patch_size", "height", "width", "side"),
    [(4, 12, 20, 4), (4, 14, 21, 4), (None, 15, 23, 2), ((2, 4), 14, 14, 2), (None, 5, 5, 1), (16, 8, 9, 8)],
)
def test_an_image_keeps_its_patches_and_what_they_do_not_cover(
    patch_size: object, height: int, width: int, side: int
) -> None:
    pixels = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1))
    before, generator = pixels.clone(), torch.Generator().manual_seed(2)
    mixed = shuffled({"pixel_values": pixels}, trunk_of(patch_size), generator)["pixel_values"]
    assert torch.equal(pixels, before)
    rows, columns = height // side * side, width // side * side
    assert torch.equal(mixed[..., rows:, :], pixels[..., rows:, :])
    assert torch.equal(mixed[..., columns:], pixels[..., columns:])
    orders = []
    for image, own in zip(mixed, pixels, strict=True):
        were, are = squares(own, side), squares(image, side)
        assert sorted(were) == sorted(are)
        orders.append([were.index(square) for square in are])
    if len(orders[0]) > 8:
        assert all(order != sorted(order) for order in orders)
        assert orders[0] != orders[1]


def test_images_have_no_tokens_which_is_told_before_anything_is_trained() -> None:
    images = object.__new__(BoundImageClassification)
    for penalty in (Drift(inputs="random_tokens"), TauJp(inputs="random_tokens")):
        with pytest.raises(UserError, match=r"arms\.a\.penalty: inputs: random_tokens: task 'digits' is of"):
            penalty.check_tasks({"reviews": object(), "digits": images}, "arms.a.penalty")  # type: ignore[dict-item]
    fine: PenaltyOnInputs = Drift(inputs="own_shuffled")
    fine.check_tasks({"digits": images}, "arms.a.penalty")
    with pytest.raises(UserError, match="random_tokens: needs texts"):
        with_random_tokens({"pixel_values": torch.ones(1, 3, 4, 4)}, nn.Identity(), torch.Generator())
    texts = {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": torch.ones(1, 4)}
    with pytest.raises(UserError, match="random_tokens: needs a model of texts"):
        with_random_tokens(texts, nn.Identity(), torch.Generator())


def test_rows_of_several_texts_are_told_before_anything_is_trained() -> None:
    tasks = {"stories": SimpleNamespace(task=SimpleNamespace(packing=True))}
    for penalty in (Drift(inputs="own_shuffled"), TauJp(inputs="random_tokens")):
        with pytest.raises(
            UserError, match=r"^a\.penalty: inputs: \w+: is made of one text a row, but task 'sto"
        ):
            penalty.check_tasks(tasks, "a.penalty")  # type: ignore[arg-type]
    fine: PenaltyOnInputs = Drift(inputs="others")
    fine.check_tasks(tasks, "a.penalty")  # type: ignore[arg-type]
