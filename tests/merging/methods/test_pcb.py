from __future__ import annotations

import numpy as np
import pytest
import torch

from saft.merging.methods import pcb
from saft.merging.methods.pcb import Pcb, _tanh
from saft.merging.stream.engine import merge_task_vectors
from tests.oracles import merging as oracle


def drawn(tasks, count, seed=0):
    return torch.randn(tasks, count, generator=torch.manual_seed(seed)) * 0.1


@pytest.mark.parametrize("variant", ["vision", "nlp", "root", "es"])
@pytest.mark.parametrize("density", [0.05, 0.1, 0.37, 1.0])
@pytest.mark.parametrize(("tasks", "count"), [(1, 300), (2, 1), (2, 2), (3, 10), (4, 1000)])
def test_the_programs_of_the_authors_equal_their_equations(variant, density, tasks, count):
    task_vectors = drawn(tasks, count, seed=count)
    found = merge_task_vectors(Pcb(density=density, variant=variant), task_vectors)
    expected = oracle.pcb(task_vectors.numpy(), density, variant)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("variant", ["vision", "nlp", "root", "es"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_tanh_is_right_for_small_and_large_task_vectors(variant, size):
    task_vectors = drawn(3, 400) * size
    found = merge_task_vectors(Pcb(density=0.3, variant=variant), task_vectors)
    expected = oracle.pcb(task_vectors.numpy(), 0.3, variant)
    torch.testing.assert_close(found.double() / size, torch.from_numpy(expected) / size, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("density", [0.05, 0.37, 1.0])
@pytest.mark.parametrize(("tasks", "count"), [(1, 300), (2, 1), (3, 10), (4, 1000)])
def test_the_formula_of_the_paper_equals_its_equations(density, tasks, count):
    task_vectors = drawn(tasks, count, seed=count)
    found = merge_task_vectors(Pcb(density=density, variant="paper"), task_vectors)
    expected = oracle.pcb_paper(task_vectors.numpy(), density)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("variant", ["vision", "nlp", "root", "es"])
def test_one_entry_fewer_counts_than_the_density_says_as_in_the_authors_code(variant):
    found = merge_task_vectors(Pcb(density=0.1, variant=variant), drawn(1, 1000))
    assert found.count_nonzero() == 99


@pytest.mark.parametrize("variant", ["vision", "nlp", "root", "es", "paper"])
def test_at_least_one_entry_counts(variant):
    found = merge_task_vectors(Pcb(density=1e-6, variant=variant), drawn(3, 50))
    assert 1 <= found.count_nonzero() <= 3


def test_tied_best_scores_all_count():
    """The clipped entries of es have one score; the quantile is that score, and the authors' norm has no range."""
    task_vector = torch.tensor([[0.1, 5.0, 6.0, 7.0, 0.2, 0.3, 0.1, 0.4]])
    many = task_vector.repeat(1, 100)
    found = merge_task_vectors(Pcb(density=0.001, variant="es"), many)
    assert found[1::8].eq(0).all()
    assert found[3::8].eq(7).all()


@pytest.mark.parametrize("intel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-30, 1e-5, 1e-3, 0.1, 1.0, 30.0])
def test_tanh_is_within_a_place_of_the_rounding(intel, dtype, size, monkeypatch):
    monkeypatch.setattr(pcb, "_is_intel", lambda: intel)
    values = torch.linspace(-size, size, 9_999, dtype=torch.float64).to(dtype).view(3, -1).T
    exact = np.tanh(values.numpy().astype(np.longdouble))
    error = np.abs(_tanh(values.clone()).numpy() - exact)
    assert (error <= np.abs(exact) * torch.finfo(dtype).eps).all()
    halves = [_tanh(part.clone()) for part in (values[:1001], values[1001:])]  # wherever a block is cut
    assert torch.cat(halves).equal(_tanh(values.clone()))


@pytest.mark.parametrize("variant", ["vision", "nlp", "root", "es", "paper"])
@pytest.mark.parametrize("tasks", [88, 89, 150])
def test_the_exponential_of_many_tasks_stays_in_float32(variant, tasks):
    task_vectors = drawn(tasks, 200, seed=tasks)
    found = merge_task_vectors(Pcb(density=0.1, variant=variant), task_vectors)
    vectors = task_vectors.numpy().astype(np.float64)
    expected = oracle.pcb_paper(vectors, 0.1) if variant == "paper" else oracle.pcb(vectors, 0.1, variant)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=2e-3, atol=1e-5)
