from __future__ import annotations

import numpy
import pytest
import torch

from saft.errors import UserError
from saft.merging.method import last_dropped, total
from saft.merging.methods.average import Average
from saft.merging.methods.fisher import Fisher
from saft.merging.methods.linear import Linear
from saft.merging.methods.multi_slerp import MultiSlerp
from saft.merging.methods.regmean import RegMean
from saft.merging.methods.ties import Ties
from saft.merging.methods.wudi import Wudi
from saft.merging.stream.engine import merge_task_vectors


def test_percent_is_taken_for_the_mistake_that_it_is():
    with pytest.raises(UserError, match=r"density: must be in \(0, 1\], but is 20; .* write 0\.2"):
        Ties(density=20)


@pytest.mark.parametrize("density", [0, -0.1, 1.0001, float("inf"), float("nan"), True, "0.2"])
def test_a_density_out_of_range(density):
    with pytest.raises(UserError, match=r"density: must be .*\(0, 1\]"):
        Ties(density=density)


@pytest.mark.parametrize(
    ("method", "parameters", "problem"),
    [
        (Wudi, {"learning_rate": float("inf")}, "learning_rate: must be a finite number above 0, but is inf"),
        (Wudi, {"iterations": 2.5}, "iterations: must be a whole number of at least 0, but is 2.5"),
        (Wudi, {"iterations": True}, "iterations: must be a whole number of at least 0, but is True"),
        (Ties, {"density": True}, "density: must be a number in (0, 1], but is True"),
        (Linear, {"weights": [1, float("-inf")]}, "weights: must be a finite number, but is -inf"),
        (Fisher, {"floor": 1e-50}, "floor: must be at least 1e-30, but is 1e-50"),  # gave the base
        (RegMean, {"ridge": 1e-20}, "ridge: must be in [1e-12, 1], but is 1e-20"),  # was a singular matrix
        (Linear, {"normalize": 1}, "normalize: must be true | false, but is 1"),
    ],
)
def test_a_value_of_another_kind_or_without_end(method, parameters, problem):
    with pytest.raises(UserError) as caught:
        method.build(parameters)
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize("method", [Fisher, Linear, MultiSlerp])
def test_an_empty_list_of_weights_is_one_mistake(method):
    (problem,) = method(weights=()).problems(2)
    assert problem.startswith("weights: has 0 numbers, but there are 2 models")


def test_an_integer_is_a_number():
    assert Ties(density=1).density == 1


def test_a_whole_number_that_is_written_as_a_float_is_one():
    method = Wudi.build({"iterations": 1e1})
    assert repr(method.iterations) == "10"
    assert merge_task_vectors(method, torch.ones(2, 3, 3)).equal(
        merge_task_vectors(Wudi(iterations=10), torch.ones(2, 3, 3))
    )


def test_a_number_of_numpy_is_one_of_python():
    method = Ties.build({"density": numpy.float32(0.5), "weights": [numpy.int64(1), numpy.float64(0.5)]})
    assert repr((method.density, method.weights)) == "(0.5, (1, 0.5))"


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as caught:
        Ties.build({"desnity": 0.2, "elect": "mas", "combine": "median"})
    assert caught.value.problems == (
        "unknown parameter 'desnity'; did you mean 'density'?",
        "elect: unknown value 'mas'; did you mean 'mass'?",
        "combine: unknown value 'median'; did you mean 'mean'?",
    )


def test_a_method_without_parameters_names_none():
    with pytest.raises(UserError, match=r"unknown parameter 'density'$"):
        Average.build({"density": 0.2})


def test_sums_run_from_the_first_task_to_the_last():
    a, b, c = torch.tensor([-0.2, -0.4, 0.6])
    assert total(torch.stack([a, b, c]).unsqueeze(1)) == (a + b) + c
    assert total(torch.stack([b, c, a]).unsqueeze(1)) == (b + c) + a != (a + b) + c


@pytest.mark.parametrize(
    ("count", "density", "rank"), [(1000, 0.2, 799), (100, 0.29, 71), (10, 0.01, 9), (10, 1, 0)]
)
def test_the_rank_that_a_trim_cuts_at_is_counted_as_the_authors_do(count, density, rank):
    assert last_dropped(count, density) == rank


def test_weights_that_are_all_zero_are_refused():
    assert Ties(weights=(0.0, 0.0)).problems(2) == [
        "weights: are all zero; give at least one model a weight that is not"
    ]
    assert Ties(weights=(0.0, -1.0)).problems(2) == []
