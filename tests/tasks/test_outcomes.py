"""What each example adds to a metric, and what two models on the same examples say of each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_matthews_corrcoef

from saft.tasks.estimate import pearson, ratio, share, spearman
from saft.tasks.metric import Score
from saft.tasks.outcomes import Outcomes


def f1(predicted: Tensor, right: Tensor) -> Score:
    return Score(float(multiclass_f1_score(predicted, right, 3, average="macro")), None, len(right))


def matthews(predicted: Tensor, right: Tensor) -> Score:
    return Score(float(multiclass_matthews_corrcoef(predicted, right, 3)), None, len(right))


def test_of_a_mean_an_example_adds_its_own_value() -> None:
    right = torch.tensor([True, False, True, True])
    assert Outcomes((right,), share).by_example().tolist() == pytest.approx([1.0, 0.0, 1.0, 1.0])
    nats, counts = torch.tensor([3.0, 5.0, 1.0]), torch.tensor([2, 2, 2])
    assert Outcomes((nats, counts), ratio).by_example().tolist() == pytest.approx([1.5, 2.5, 0.5])


def test_a_single_example_has_no_value_of_its_own() -> None:
    assert Outcomes((torch.tensor([True]),), share).by_example().isnan().all()


@pytest.mark.parametrize(
    ("estimate", "kind"),
    [(f1, "labels"), (matthews, "labels"), (pearson, "numbers"), (spearman, "numbers"), (ratio, "counts")],
    ids=["F1", "Matthews", "Pearson", "Spearman", "tokens"],
)
def test_paired_errors_are_the_spread_of_repeated_draws(estimate, kind) -> None:  # type: ignore[no-untyped-def]
    """Of 100 draws of 30 examples that two models see: their difference scatters as each draw says."""
    draw = torch.Generator().manual_seed(0)
    differences, errors = [], []
    for _ in range(100):
        rows = []
        y = torch.randint(0, 3, (30,), generator=draw)
        x, hard = torch.randn(30, generator=draw), torch.rand(30, generator=draw)
        for strength in (0.2, 0.4):  # what is hard for one model is hard for the other
            if kind == "labels":
                wrong = (y + 1 + (hard > 0.9)) % 3
                rows.append((torch.where(hard * (1 - strength) > 0.4, wrong, y), y))
            elif kind == "numbers":
                noise = hard - 0.5 + strength * torch.randn(30, generator=draw)
                rows.append((x + 2 * noise, x))
            else:
                rows.append(((y + 1) * (hard + strength * torch.rand(30, generator=draw)), y + 1))
        one, other = (Outcomes(row, estimate) for row in rows)
        differences.append(one.score().value - other.score().value)
        apart = one.by_example() - other.by_example()
        errors.append(float(apart.std()) / 30**0.5)
    spread = float(torch.tensor(differences).double().std())
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.2)
