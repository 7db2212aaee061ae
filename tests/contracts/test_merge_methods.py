"""What every registered merge method keeps to, whatever it computes."""

from __future__ import annotations

import contextlib
import dataclasses

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from saft.errors import UserError
from saft.merging.mergekit.generalized_arithmetic import Mergekit
from saft.merging.mergekit.ram import RamPlus
from saft.merging.method import Elementwise, Method, Tensorwise
from saft.merging.methods import METHODS, describe, methods
from saft.merging.per_task import PerTaskMethod
from saft.merging.stream.block import Block
from saft.merging.stream.engine import merge_task_vectors
from saft.merging.stream.gathering import SUM_GRAIN, passes_needed, prepare


def variants(name):
    """The method with its default words, with each other word of a parameter alone, and with all the last."""
    kind = METHODS.get(name)
    words = {
        field.name: field.metadata["choices"]
        for field in dataclasses.fields(kind)
        if field.metadata["choices"]
    }
    words.pop("granularity", None)
    alone = [{name: word} for name, choices in words.items() for word in choices]
    all_last = {name: choices[-1] for name, choices in words.items()}
    return list(dict.fromkeys(kind(**chosen) for chosen in [{}, *alone, all_last]))


def each(methods):
    """A test for each method; the first tier has those with their default words alone."""
    marked = [
        method if method == type(method)() else pytest.param(method, marks=pytest.mark.slow)
        for method in methods
    ]
    return pytest.mark.parametrize("method", marked, ids=repr)


EVERYTHING = [method for name in METHODS.names() for method in variants(name)]
every_registered = each(EVERYTHING)
# Those that give one model; test_per_task_methods.py has the others.
METHODS_TO_TEST = [method for method in EVERYTHING if not isinstance(method, PerTaskMethod)]
every_method = each(METHODS_TO_TEST)
every_unordered = each(method for method in METHODS_TO_TEST if not method.random and not method.ordered)
every_elementwise = each(method for method in METHODS_TO_TEST if isinstance(method, Elementwise))
# Elementwise, and nothing is scaled up to make up for what is dropped.
selections = [method for method in METHODS_TO_TEST if isinstance(method, Elementwise) and not method.random]
every_selection = each(selections)
every_tensorwise = each(method for method in METHODS_TO_TEST if isinstance(method, Tensorwise))

VALUES = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, -0.0, 1e-3, -1e-3, 1e-30, 1e-42])


@st.composite
def task_vectors(draw):
    tasks, count = draw(st.integers(1, 5)), draw(st.integers(1, 30))
    rows = st.lists(VALUES, min_size=count, max_size=count)
    return torch.tensor(draw(st.lists(rows, min_size=tasks, max_size=tasks)))


def as_many(method, vectors):
    """As many of the task vectors as the method takes; the last one again where there are too few."""
    tasks = int(min(max(len(vectors), method.min_models), method.max_models))
    return vectors[[min(task, len(vectors) - 1) for task in range(tasks)]]


def with_density(method, density):
    return dataclasses.replace(method, density=density) if hasattr(method, "density") else method


@every_method
@settings(deadline=None, derandomize=True, max_examples=20)
@given(
    vectors=task_vectors(),
    density=st.sampled_from([0.01, 0.2, 0.5, 1.0]),
    dtype=st.sampled_from(["32", "16", "b16"]),
)
def test_any_input_gives_a_finite_float32_vector_and_is_left_alone(method, vectors, density, dtype):
    vectors = as_many(
        method, vectors.to({"32": torch.float32, "16": torch.float16, "b16": torch.bfloat16}[dtype])
    )
    before = vectors.clone()
    merged = merge_task_vectors(with_density(method, density), vectors)
    assert vectors.equal(before)
    assert merged.dtype == torch.float32
    assert merged.shape == vectors.shape[1:]
    assert merged.isfinite().all()


@every_registered
def test_a_method_that_asks_for_statistics_says_what_they_are_over(method):
    asks = passes_needed(method, int(min(max(2, method.min_models), method.max_models))) > 1
    assert not asks or method.statistics_over != "none"


def test_only_methods_that_ask_for_statistics_say_what_they_are_over():
    asking = {type(m) for m in EVERYTHING if passes_needed(m, 2) > 1}
    saying = {type(m) for m in EVERYTHING if m.statistics_over != "none"}
    assert {kind.__name__ for kind in saying - asking} <= {
        "Consensus"
    }  # whose granularity is for a threshold


@every_selection
@settings(deadline=None, derandomize=True, max_examples=20)
@given(vectors=task_vectors())
def test_no_merged_entry_exceeds_the_sum_of_the_magnitudes(method, vectors):
    merged = merge_task_vectors(method, vectors).abs()
    bound = vectors.abs().sum(dim=0)
    if hasattr(method, "variant") and method.variant != "paper":  # it clips the small magnitudes upwards
        bound = vectors.abs().amax(dim=1).sum().expand_as(merged) * (bound > 0)
    if isinstance(method, RamPlus):  # it strengthens what only one task has changed
        bound = bound * (1 + method.r * method.alpha)
    assert (merged <= bound * (1 + 1e-5) + 1e-30).all()


@every_method
def test_float64_is_computed_in_float64(method):
    drawn = torch.randn(3, 12, generator=torch.manual_seed(0), dtype=torch.float64)
    vectors = as_many(method, drawn)
    merged = merge_task_vectors(method, vectors, arithmetic=torch.float64)
    assert merged.dtype == torch.float64
    rough = merge_task_vectors(method, vectors)
    torch.testing.assert_close(rough.double(), merged, rtol=1e-3, atol=1e-5)


@every_method
def test_float64_is_rounded_to_float32_nowhere_on_the_way(method):
    shape = (40,) if isinstance(method, Elementwise) else (6, 7)
    given = {field.name for field in dataclasses.fields(method)}
    some = {"density": 0.5, "densities": (0.5,), "weights": (0.3,), "filter_wise": True}
    method = dataclasses.replace(method, **{name: some[name] for name in some.keys() & given})
    drawn = torch.randn(2, 3, *shape, generator=torch.manual_seed(0), dtype=torch.float64)
    vectors, change = (as_many(method, rows) for rows in drawn)

    def merged(step):
        return merge_task_vectors(method, vectors + step * change, seed=1, arithmetic=torch.float64)

    # What changes evenly gives what changes evenly; a factor that is rounded jumps by 1e-8 and more.
    bends = torch.stack([merged(step * 1e-6) for step in range(6)]).diff(n=2, dim=0)
    assert bends.abs().max() < 1e-8


def test_numbers_of_parameters_keep_their_digits_in_float64():
    vectors = torch.tensor([[1.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    pairs = [(Mergekit(weights=(0.1, 0.7)), [0.1, 0.1 * 2 + 0.7 * 4]), (RamPlus(), [1 + 0.1 * 0.2, 3.0])]
    for method, expected in pairs:
        merged = merge_task_vectors(method, vectors, arithmetic=torch.float64)
        assert merged.tolist() == pytest.approx(expected, rel=1e-15)


@every_method
def test_zeros_give_zeros(method):
    assert merge_task_vectors(method, as_many(method, torch.zeros(3, 10))).equal(torch.zeros(10))


@every_method
@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_one_element_and_one_task_are_finite(method, tasks):
    assert merge_task_vectors(method, as_many(method, torch.ones(tasks, 1))).isfinite().all()
    assert merge_task_vectors(method, as_many(method, torch.randn(1, 100))).isfinite().all()


@every_tensorwise
@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 5), (6, 1), (3, 4), (5, 3), (2, 3, 2, 2)])
def test_tensors_of_any_shape_keep_it_and_are_finite(method, shape):
    drawn = as_many(method, torch.randn(3, *shape, generator=torch.manual_seed(0)) * 0.1)
    for vectors in (drawn, torch.zeros_like(drawn)):
        before = vectors.clone()
        merged = merge_task_vectors(method, vectors, base=torch.ones(shape))
        assert merged.shape == shape
        assert merged.isfinite().all()
        assert vectors.equal(before)


@every_unordered
def test_the_order_of_the_tasks_is_visible_in_the_last_bits_alone(method):
    vectors = as_many(method, torch.randn(4, 2000, generator=torch.manual_seed(0)) * 0.1)
    if isinstance(method, Tensorwise):
        vectors = vectors.view(len(vectors), 40, 50)
    merged = merge_task_vectors(method, vectors)
    for other in (vectors.flip(0), vectors.roll(1, dims=0)):
        torch.testing.assert_close(merge_task_vectors(method, other), merged, rtol=1e-4, atol=1e-6)


@every_selection
def test_the_order_of_the_coordinates_does_not_matter(method):
    vectors = torch.randn(3, 1000, generator=torch.manual_seed(0)) * 0.1
    order = torch.randperm(1000, generator=torch.manual_seed(1))
    torch.testing.assert_close(
        merge_task_vectors(method, vectors[:, order]), merge_task_vectors(method, vectors)[order]
    )


@every_elementwise
@pytest.mark.parametrize("grains", [1, 2, 3])
def test_the_size_of_the_blocks_does_not_change_a_bit(method, grains):
    vectors = torch.randn(3, 20_001, generator=torch.manual_seed(0)) * 1e-2
    expected = merge_task_vectors(method, vectors)

    length = grains * SUM_GRAIN
    parts = vectors.split(length, dim=1)
    blocks = [Block(part, torch.zeros(part.shape[1]), start=at * length) for at, part in enumerate(parts)]

    def over(function):
        return map(function, blocks)

    function = prepare(method, *vectors.shape, over)
    assert torch.cat(list(over(function))).equal(expected)


@every_method
def test_threads_do_not_change_a_bit(method):
    vectors = as_many(method, torch.randn(3, 300_000, generator=torch.manual_seed(0)) * 1e-2)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(merge_task_vectors(method, vectors))
    finally:
        torch.set_num_threads(threads)
    assert found[0].equal(found[1])


@every_selection
def test_a_copy_of_a_task_changes_the_direction_of_nothing(method):
    """Two equal tasks agree everywhere: what is merged has their sign."""
    vector = torch.randn(1, 500, generator=torch.manual_seed(0))
    merged = merge_task_vectors(method, vector.repeat(2, 1))
    assert ((merged == 0) | (merged.sign() == vector[0].sign())).all()


# Nothing that was published makes these linear in the length of the task vectors: they compare entries with
# a tanh of their product, or step by a length of their own.
NOT_HOMOGENEOUS = {("pcb", "vision"), ("pcb", "nlp"), ("pcb", "root"), ("wudi", None), ("doge", None)}
NOT_HOMOGENEOUS |= {("mergekit_nearswap", None), ("mergekit_arcee_fusion", None)}
# For these, changes below a fixed size are none.
WITH_A_LEAST_CHANGE = {"mergekit_sce", "mergekit_ram", "mergekit_ramplus_tl"}


@every_method
@pytest.mark.parametrize("power", [-10, 4])
def test_twice_the_task_vectors_give_twice_the_merge(method, power):
    """Powers of two, so that no bit may differ where each entry is merged by itself."""
    name = next(name for name, kind in METHODS.items() if kind is type(method))
    vectors = as_many(method, torch.randn(3, 6, 10, generator=torch.manual_seed(0)) * 0.1)
    if isinstance(method, Elementwise):
        vectors = vectors.flatten(1)
    expected = merge_task_vectors(method, vectors) * 2.0**power
    found = merge_task_vectors(method, vectors * 2.0**power)
    if {(name, getattr(method, "variant", None)), (name, None)} & NOT_HOMOGENEOUS:
        assert power < 0 or not torch.allclose(found, expected, rtol=1e-5, atol=0)
    elif power < 0 and name in WITH_A_LEAST_CHANGE:
        assert not found.equal(expected)
    elif isinstance(method, Elementwise):
        assert found.equal(expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * 2.0**power)


def others(field):
    """Values of a parameter that are not its default."""
    if field.metadata["choices"]:
        return [word for word in field.metadata["choices"] if word != field.default]
    if isinstance(field.default, bool):
        return [not field.default]
    if isinstance(field.default, tuple):
        return [(0.25, 0.5, 0.75), (2.0, 1.0, 0.5), (2.0, 0.5), (0.5,), (0.1,)]
    return [0.01, 0.3, 0.9, 3.0, 8.0] if isinstance(field.default, float) else [0, 1, 3]


def changed_once(method, names, tasks):
    """(Parameter, method) for each other value that one of the parameters may have."""
    for field in [field for field in dataclasses.fields(method) if field.name in names]:
        for value in others(field):
            with contextlib.suppress(UserError):  # out of the range
                found = dataclasses.replace(method, **{field.name: value})
                if not found.problems(tasks):
                    yield field.name, found


ONE_MODEL = sorted(
    name
    for name, kind in METHODS.items()
    if not (kind.calibration or kind.needs_adapters or issubclass(kind, PerTaskMethod))
    and dataclasses.fields(kind)
)


@pytest.mark.parametrize("name", ONE_MODEL)
def test_every_parameter_changes_the_result(name):
    """With some values of the others: the trim of TIES, for example, where TIES merges."""
    kind = METHODS.get(name)
    generator = torch.manual_seed(0)
    vectors, base = torch.randn(3, 12, 20, generator=generator), torch.randn(12, 20, generator=generator)
    vectors = as_many(kind(), vectors)
    if issubclass(kind, Elementwise):
        vectors, base = vectors.flatten(1), base.flatten()
    everything = {field.name for field in dataclasses.fields(kind)}
    unseen = everything - {"granularity"}  # of a single tensor
    words = variants(name)
    numbers = [found for word in words for _, found in changed_once(word, everything, len(vectors))]
    for start in dict.fromkeys([*words, *numbers]):
        if unseen:
            expected = merge_task_vectors(start, vectors, base)
            for parameter, found in changed_once(start, unseen, len(vectors)):
                if parameter in unseen and not merge_task_vectors(found, vectors, base).equal(expected):
                    unseen.remove(parameter)
    assert not unseen


@st.composite
def any_tensors(draw):
    """Task vectors of any shape and dtype, some of them zero, and a base of the same."""
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    tasks, seed = draw(st.integers(1, 4)), draw(st.integers(0, 99))
    generator = torch.manual_seed(seed)
    vectors = torch.randn(tasks, *shape, generator=generator) * 10.0 ** draw(st.integers(-4, 2))
    vectors *= (
        torch.rand(vectors.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    ).float()
    return vectors.to(dtype), torch.randn(shape, generator=generator).to(dtype)


@every_method
@settings(deadline=None, derandomize=True, max_examples=15)
@given(tensors=any_tensors(), density=st.floats(0.001, 1.0), seed=st.integers(0, 2**40))
def test_any_shape_dtype_and_density_gives_a_finite_tensor_of_that_shape(method, tensors, density, seed):
    vectors, base = tensors
    vectors, method = as_many(method, vectors), with_density(method, density)
    if isinstance(method, Elementwise):
        vectors, base = vectors.reshape(len(vectors), -1), base.reshape(-1)
    arithmetic = torch.float64 if vectors.dtype == torch.float64 else torch.float32
    before = (vectors.clone(), base.clone())
    merged = merge_task_vectors(method, vectors, base, seed, arithmetic)
    assert merged.dtype == arithmetic
    assert merged.shape == base.shape
    assert merged.isfinite().all()
    assert merged.equal(merge_task_vectors(method, vectors, base, seed, arithmetic))
    assert vectors.equal(before[0])
    assert base.equal(before[1])


@every_registered
def test_what_saft_methods_says_comes_from_the_class(method):
    name = next(name for name, kind in METHODS.items() if kind is type(method))
    (info,) = methods(name)
    assert info.summary.endswith(".")
    assert "θ" in info.formula
    assert "arXiv" in info.source or "https://" in info.source  # a method that no paper describes
    assert info.scaling_grid
    assert info.scaling == 1 or info.scaling in info.scaling_grid
    assert {parameter.name: parameter.default for parameter in info.parameters} == METHODS.get(
        name
    )().parameters()
    assert all(parameter.help and parameter.range for parameter in info.parameters)
    assert method.describe()
    assert describe(name)
    assert passes_needed(method, 2) >= 1


@every_registered
def test_every_parameter_is_checked(method):
    kind: type[Method] = type(method)
    with pytest.raises(UserError, match="unknown parameter 'nonsense'"):
        kind.build({"nonsense": 1})
    for field in dataclasses.fields(kind):
        for value in ("nonsense", None, float("nan"), -1, ["nonsense"]):
            with pytest.raises(UserError, match=field.name):
                kind.build({field.name: value})
