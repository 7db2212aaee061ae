"""What every registered measure must do, whoever wrote it."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saft.errors import UserError
from saft.interference import MEASURES, InterferenceAccumulator, Quantity
from saft.interference.quantity import Figure
from saft.interference.task_space import TaskSpace
from tests.oracles import interference as oracles
from tests.oracles.toy_space import toy_space

SETTINGS = settings(derandomize=True, deadline=None, max_examples=30)
OF_WEIGHTS = [
    name for name, measure in MEASURES.items() if measure.needs == "weights" and measure.takes == "parts"
]
OF_LOSS = [name for name, measure in MEASURES.items() if measure.needs == "loss"]
OF_MODELS = [name for name, measure in MEASURES.items() if measure.needs in ("functions", "merge")]
ONLY_OF_ADAPTERS = {"adapter_gap"}
every_measure = pytest.mark.parametrize("name", OF_WEIGHTS)


def measured(name, blocks, **options):
    tasks = [f"task{i}" for i in range(blocks[0].shape[0])]
    accumulator = InterferenceAccumulator(tasks, measures=[name], **options)
    for block in blocks:
        accumulator.update(block)
    measured = accumulator.compute().measured
    return {
        quantity: measured[quantity] for quantity in MEASURES.get(name)().quantities if quantity in measured
    }


def numbers(value):
    """Every number of a measure's value, whatever its nesting."""
    if isinstance(value, dict):
        return [number for key in value for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value]


def random_block(seed, n_tasks, n, zeros=0.3):
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn(n_tasks, n, generator=generator)
    return block * (torch.rand(n_tasks, n, generator=generator) >= zeros)


def test_what_exists_is_registered():
    assert {"norm", "cosine", "sign_conflict"} <= set(OF_WEIGHTS)
    assert {"sharpness", "hessian_eigenvalue", "hessian_trace"} <= set(OF_LOSS)
    assert {"transfer", "feature_drift", "leave_one_out", "pairwise", "disentanglement"} <= set(OF_MODELS)


def test_no_two_measures_give_a_quantity_of_the_same_name():
    names = [quantity for _, measure in MEASURES.items() for quantity in measure().quantities]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", MEASURES.names())
def test_tells_what_it_needs_and_what_its_numbers_are(name):
    measure = MEASURES.get(name)()
    assert measure.needs in ("weights", "loss", "functions", "merge")
    assert measure.quantities
    for quantity in measure.quantities.values():
        assert isinstance(quantity, Quantity)
        assert quantity.meaning
        assert "\n" not in quantity.meaning
        assert quantity.definition
        assert measure.cost(2).forwards <= measure.cost(3).forwards


@pytest.mark.parametrize("name", OF_LOSS)
def test_a_measure_of_the_loss_gives_its_quantities_and_leaves_the_model_as_it_was(name):
    model = torch.nn.Linear(3, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    measure = MEASURES.get(name)()
    values = measure.values(model, lambda batch: model(batch).square().mean(), [inputs])
    assert list(values) == list(measure.quantities)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    for quantity, what in measure.quantities.items():
        assert what.axes[0] == "task"
        Figure.of(quantity, what, {"a": values[quantity]})
    moved = measure.values(model, lambda batch: model(batch).square().mean(), [inputs], [model.bias])
    assert list(moved) == list(values)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("broken", [float("nan"), 1e30], ids=["NaN", "overflow"])
@pytest.mark.parametrize("name", OF_LOSS)
def test_a_measure_of_the_loss_of_a_model_that_diverged_is_nan_and_stops_nothing(name, broken):
    model = torch.nn.Linear(3, 2)
    given = MEASURES.get(name)().values(
        model, lambda batch: (model(batch) * broken).square().mean(), [torch.ones(4, 3)]
    )
    assert given
    assert not any(math.isfinite(number) for number in numbers(given))


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_measure_of_models_is_shaped_as_it_says_and_takes_no_more_than_it_says(name):
    space, merges = toy_space(), 0
    merge = space._merge

    def counted(tasks):
        nonlocal merges
        merges += 1
        return merge(tasks)

    space = TaskSpace(space.trunk, space.base, space.experts, space.probes, counted, space.scaling)
    measure = MEASURES.get(name)()
    values = measure.values(space)
    assert set(values) == (set() if name in ONLY_OF_ADAPTERS else set(measure.quantities))
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    for quantity, value in values.items():
        figure = Figure.of(quantity, measure.quantities[quantity], value)
        assert [task for task in space.tasks if task in figure.axes[0].ticks] == list(figure.axes[0].ticks)
    cost = measure.cost(len(space.tasks))
    assert sum(probe.forwards for probe in space.probes.values()) <= cost.forward
    assert merges <= cost.merges
    assert measure.values(toy_space()) == values


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_measure_of_models_is_at_home_with_one_task(name):
    whole = toy_space()
    one = TaskSpace(
        whole.trunk, whole.base, {"a": whole.experts["a"]}, {"a": whole.probes["a"]}, whole._merge
    )
    measure = MEASURES.get(name)()
    for quantity, value in measure.values(one).items():
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        assert quantity in measure.quantities


@every_measure
@SETTINGS
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 40), st.integers(0, 40))
def test_the_cut_into_blocks_does_not_matter(name, seed, n_tasks, n, cut):
    block = random_block(seed, n_tasks, n)
    cut = min(cut, n)
    whole = numbers(measured(name, [block]))
    pieces = numbers(measured(name, [block[:, :cut], block[:, cut:]]))
    assert pieces == pytest.approx(whole, rel=1e-12, abs=1e-12)


@every_measure
@SETTINGS
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 40), st.floats(0, 1))
def test_agrees_with_the_definition(name, seed, n_tasks, n, zeros):
    oracle = getattr(oracles, name, None)
    if oracle is None:
        pytest.skip(f"tests/oracles/interference.py has no '{name}'")
    block = random_block(seed, n_tasks, n, zeros)
    assert numbers(measured(name, [block])) == pytest.approx(
        numbers(oracle(block.tolist())), rel=1e-12, abs=1e-12
    )


@every_measure
def test_of_one_model_only_what_needs_no_other_is_told(name):
    block = random_block(0, 2, 24)
    of_each = {q for q, quantity in MEASURES.get(name)().quantities.items() if quantity.per == "task"}
    accumulator = InterferenceAccumulator(["a"], thresholds=[0.1], measures=[name])
    accumulator.update(block[:1], "layers.0.weight")
    accumulator.update(block[1:], "layers.1.weight")
    result = accumulator.compute()
    told = {quantity.removesuffix("_trimmed").removesuffix("_by_layer") for quantity in result.measured}
    assert told - {"kept"} == of_each
    assert ("kept" in told) == bool(of_each)
    assert result.quantities.keys() == result.measured.keys()


@every_measure
def test_tensors_of_any_shape_are_taken_as_coordinates(name):
    block = random_block(0, 3, 24)
    assert measured(name, [block.reshape(3, 2, 3, 4)]) == measured(name, [block])


@every_measure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_widened_not_rounded(name, dtype):
    block = random_block(1, 3, 50).to(dtype)
    assert measured(name, [block]) == measured(name, [block.double()])


@every_measure
@pytest.mark.parametrize(
    "block",
    [torch.zeros(3, 5), torch.zeros(1, 1), torch.tensor([[1.0], [0.0], [-1.0]]), torch.full((2, 4), 1e-40)],
    ids=["all zero", "one task", "one coordinate", "subnormal"],
)
def test_degenerate_vectors_give_finite_plain_json(name, block):
    value = measured(name, [block])
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@every_measure
def test_an_empty_tensor_among_others_adds_nothing(name):
    block = random_block(2, 2, 9)
    assert measured(name, [torch.zeros(2, 0), block]) == measured(name, [block])


@every_measure
def test_the_block_is_not_modified(name):
    block = random_block(3, 3, 20)
    before = block.clone()
    measured(name, [block], thresholds=[0.5, 0.5, 0.5])
    assert torch.equal(block, before)


@every_measure
def test_the_shape_is_what_the_quantity_says(name):
    measured_values = measured(name, [random_block(0, 3, 20)])
    for quantity, what in MEASURES.get(name)().quantities.items():
        value = measured_values[quantity]
        counts = {"set": 1, "task": 3, "pair": 9}
        assert len(numbers(value)) == counts[what.per]


@every_measure
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_task_is_named(name, bad):
    block = random_block(4, 3, 20)
    block[1, 7] = bad
    with pytest.raises(UserError, match=r"'task1'.*NaN or infinity"):
        measured(name, [block])
