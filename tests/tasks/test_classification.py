"""The metrics of classification against scikit-learn's, on logits that are given."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor, nn
from torch.nn import functional

from saft.tasks.classification import METRICS, outcomes
from saft.tasks.examples import Batch, Examples


class Given(nn.Module):
    """A model whose logits are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(1, 1)
        self.modes: list[bool] = []

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        self.modes.append(self.training)
        return inputs["logits"]


def examples_of(logits: Tensor, labels: Tensor) -> Examples:
    def collate(indices: list[int]) -> Batch:
        return Batch({"logits": logits[indices]}, labels[indices])

    return Examples([1] * len(labels), collate)


def drawn(several: bool) -> tuple[Tensor, Tensor]:
    generator = torch.manual_seed(0)
    logits = torch.randn(40, 3, generator=generator)
    if several:
        return logits, torch.randint(0, 2, (40, 3), generator=generator).float()
    return logits, torch.randint(0, 3, (40,), generator=generator)


ORACLES: dict[str, Any] = {
    "accuracy": accuracy_score,
    "macro_f1": lambda truth, guess: f1_score(truth, guess, average="macro"),
    "micro_f1": lambda truth, guess: f1_score(truth, guess, average="micro"),
    "matthews": matthews_corrcoef,
}


@pytest.mark.parametrize(
    ("name", "several"),
    [
        (name, several)
        for name in METRICS
        for several in (False, True)
        if (name, several) != ("matthews", True)
    ],
)
def test_a_score_is_that_of_scikit_learn(name: str, several: bool) -> None:
    logits, labels = drawn(several)
    guess = (logits > 0).numpy().astype(int) if several else logits.argmax(1).numpy()
    expected = ORACLES[name](np.asarray(labels, dtype=int), guess)
    of_each = outcomes(Given(), examples_of(logits, labels), 3, name, 7, several)  # type: ignore[arg-type]
    result = of_each.score()
    assert result.value == pytest.approx(expected, abs=1e-6)
    assert result.examples == 40
    error = math.sqrt(result.value * (1 - result.value) / 40) if name == "accuracy" else None
    assert result.standard_error == (None if error is None else pytest.approx(error))


@pytest.mark.parametrize(
    ("name", "several"), [("matthews", False), ("macro_f1", False), ("macro_f1", True), ("micro_f1", True)]
)
def test_splits_of_one_label_and_constant_predictions_score_as_in_scikit_learn(
    name: str, several: bool
) -> None:
    generator = torch.manual_seed(0)
    shape = (5, 2) if several else (5,)
    for trial in range(40):
        labels = torch.randint(0, 2, shape, generator=generator)
        guess = torch.randint(0, 2, shape, generator=generator)
        constant = (guess, labels) if trial % 3 == 0 else ((guess,), (labels,))[trial % 2]
        for some in constant:
            some[:] = trial % 4 // 2
        logits = guess.float() - 0.5 if several else functional.one_hot(guess, 2).float()
        known = labels.float() if several else labels
        of_each = outcomes(Given(), examples_of(logits, known), 2, name, 7, several)  # type: ignore[arg-type]
        with warnings.catch_warnings():  # scikit-learn's, of what does not vary
            warnings.simplefilter("ignore")
            expected = ORACLES[name](labels.numpy(), guess.numpy())
        assert of_each.score().value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", METRICS)
def test_logits_that_are_no_numbers_are_right_nowhere(name: str, several: bool) -> None:
    if (name, several) == ("matthews", True):
        return
    labels = torch.zeros((4, 2)) if several else torch.tensor([0, 0, 0, 1])
    logits = torch.full((4, 2), math.nan)
    assert outcomes(Given(), examples_of(logits, labels), 2, name, 3, several).score().value == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_evaluated_and_put_back(training: bool) -> None:
    model = Given().train(training)
    outcomes(model, examples_of(*drawn(False)), 3, "accuracy", 16)  # type: ignore[arg-type]
    assert model.training is training
    assert not any(model.modes)
