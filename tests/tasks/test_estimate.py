from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import spearmanr

from saft.tasks.estimate import pearson, ratio, share, spearman
from saft.tasks.metric import Score


def test_standard_errors_are_the_spread_of_repeated_draws() -> None:
    """Of 2000 draws of 100 examples: the values scatter by what each draw says of its own error."""
    generator = torch.Generator().manual_seed(0)
    draws: dict[str, list[tuple[float, float]]] = {"share": [], "ratio": [], "pearson": [], "spearman": []}
    for _ in range(2000):
        right = torch.rand(100, generator=generator) < 0.7
        counts = torch.randint(1, 20, (100,), generator=generator)
        parts = counts * (1 + 0.3 * torch.randn(100, generator=generator))
        x = torch.randn(100, generator=generator)
        y = 0.6 * x + 0.8 * torch.randn(100, generator=generator)
        scores = {
            "share": share(right),
            "ratio": ratio(parts, counts),
            "pearson": pearson(x, y),
            "spearman": spearman(x, y),
        }
        for name, score in scores.items():
            assert score.standard_error is not None
            draws[name].append((score.value, score.standard_error))
    for name, found in draws.items():
        values, errors = torch.tensor(found).double().T
        assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.08), name


def test_equal_values_share_their_rank() -> None:
    x, y = torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0]), torch.tensor([2.0, 1.0, 1.0, 5.0, 4.0])
    assert spearman(x, y).value == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(torch.ones(5), y).value == 0.0


def test_ranks_are_exact() -> None:
    x, y = torch.randn(9000, generator=torch.manual_seed(0)), torch.randn(9000)
    y += x
    assert spearman(x, y).value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_what_is_no_number_has_no_correlation(correlation: Callable[..., Score]) -> None:
    assert math.isnan(correlation(torch.tensor([math.nan, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])).value)


def test_one_example_has_no_known_error() -> None:
    assert ratio(torch.tensor([2.0]), torch.tensor([4])).standard_error is None


@pytest.mark.parametrize("right", [True, False])
def test_examples_that_are_all_alike_leave_an_error_that_more_of_them_make_smaller(right: bool) -> None:
    few, many = (share(torch.full((n,), right)).standard_error for n in (9, 99))
    assert few == pytest.approx(share(torch.tensor([not right] + [right] * 9)).standard_error)
    assert many is not None
    assert 0 < many == pytest.approx(few / 10, rel=0.06)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_too_few_examples_or_a_perfect_correlation_do_not_say_their_error(
    correlation: Callable[[torch.Tensor, torch.Tensor], Score],
) -> None:
    x = torch.tensor([1.0, 2.0, 4.0, 5.0, 7.0])
    y = torch.tensor([2.0, 1.0, 3.0, 5.0, 4.0])
    assert correlation(x[:2], y[:2]) == Score(-1.0, None, 2)
    assert correlation(x[:3], y[:3]).standard_error is None
    assert correlation(x[:4], y[:4]).standard_error is not None
    assert correlation(x, x).standard_error is None
    assert correlation(x, -x).standard_error is None


def test_errors_of_correlations_are_those_of_their_formulas() -> None:
    x, y = torch.arange(5.0), torch.tensor([0.0, 1.0, 2.0, 4.0, 3.0])
    r = 0.9  # of ranks and of values alike
    assert pearson(x, y).value == pytest.approx(r)
    assert pearson(x, y).standard_error == pytest.approx((1 - r**2) / 2)
    assert spearman(x, y).standard_error == pytest.approx((1 - r**2) * ((1 + r**2 / 2) / 2) ** 0.5)
