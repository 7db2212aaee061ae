"""What a method meets on a GPU, without one: all that it is given and makes lies on the device of its block.

A tensor of the "meta" device stands for one on a GPU here: it wraps a tensor with numbers, and refuses to meet
one of the CPU, as CUDA does.
"""

from __future__ import annotations

import dataclasses

import pytest
import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from saft.merging.inputs.factors import Factors
from saft.merging.merge_check import check
from saft.merging.merge_config import Lines, MergeConfig
from saft.merging.method import Elementwise
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.merging.plan import Plan
from saft.merging.stream import engine
from saft.merging.stream.block import Block
from saft.merging.stream.gathering import on_device, prepare, run_steps
from tests.contracts.test_calibrated_methods import KINDS, statistic
from tests.contracts.test_merge_methods import EVERYTHING

DEVICE = torch.device("meta")
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Elsewhere(torch.Tensor):
    """A tensor on the device, over one with its numbers."""

    @staticmethod
    def __new__(cls, numbers):
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        made = cls._make_wrapper_subclass(cls, numbers.size(), dtype=numbers.dtype, device=DEVICE, **layout)
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _dispatch(function, args, kwargs or {})


class _Values(TorchFunctionMode):
    """What goes past dispatch: numbers of Python, and a shape that matmul changes in place."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].cpu().tolist()
        if function is torch.Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(args[1], dtype=args[0].dtype, device="cpu").to(DEVICE)
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__) and len(args[0].shape) == 1:
            return (args[0].unsqueeze(0) @ args[1]).squeeze(0)
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return function(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _dispatch(function, args, kwargs or {})


def _dispatch(function, args, kwargs):
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = [value for value in given if isinstance(value, Elsewhere)]
    # CUDA takes a single number of the CPU.
    if there and function not in MOVES and any(len(v.shape) for v in given if not isinstance(v, Elsewhere)):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device")
    wrapped = {id(value.numbers): value for value in there}
    device = kwargs.get("device")
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    args, kwargs = tree_map(lambda v: v.numbers if isinstance(v, Elsewhere) else v, (args, kwargs))
    result = function(*args, **kwargs)
    if function is torch.ops.aten._to_copy.default and device is None:
        device = DEVICE if there else None
    elif function is torch.ops.aten.copy_.default:
        return given[0]
    goes = bool(there) if device is None else torch.device(device) == DEVICE

    def wrap(value):
        if not isinstance(value, torch.Tensor) or not goes:
            return value
        return wrapped.get(id(value)) if id(value) in wrapped else Elsewhere(value)

    return tree_map(wrap, result)


@pytest.fixture
def gpu():
    """Let the "meta" device have numbers."""
    with _Dispatch(), _Values():
        yield


def blocks_of(method, shapes):
    """Blocks of two tensors on the CPU, with all that a method may want beside the task vectors."""
    tasks = int(min(max(3, method.min_models), method.max_models))
    for place, shape in enumerate(shapes):
        generator = torch.manual_seed(place)
        vectors, base = (torch.randn(n, *shape, generator=generator) for n in (tasks, 1))
        kinds = KINDS.get(method.calibration, [])
        found = {kind: made for kind in kinds if (made := statistic(kind, vectors)) is not None}
        factors = ()
        if method.needs_adapters:
            pairs = [[torch.randn(2, shape[1]), torch.randn(shape[0], 2)] for _ in range(tasks)]
            factors = tuple(Factors(*pair) for pair in pairs)
            vectors = torch.stack([one.change(shape) for one in factors])
        yield Block(vectors, base[0], f"layer.{place}.weight", 0, 1, found, base[0].numel(), factors)


def there(block):
    """The same block on the device."""
    statistics = {name: tensor.to(DEVICE) for name, tensor in block.statistics.items()}
    base = block.base.to(DEVICE)
    factors = tuple(one.to(base) for one in block.factors)
    moved = {"task_vectors": block.task_vectors.to(DEVICE), "base": base}
    return dataclasses.replace(block, **moved, statistics=statistics, factors=factors)


def results(method, blocks, device):
    def over(function):
        for block in blocks:
            with on_device(device):
                result = function(block)
            yield result

    tasks, count = blocks[0].tasks, sum(block.base.numel() for block in blocks)
    if isinstance(method, PerTaskMethod):
        return list(over(run_steps(method.split(tasks, count), over, device)))
    return list(over(prepare(method, tasks, count, over, device)))


def shortened(method):
    """The same method with a few iterations, if it has any."""
    return dataclasses.replace(method, iterations=3) if hasattr(method, "iterations") else method


def tensors_in(result):
    values = vars(result).values() if dataclasses.is_dataclass(result) else [result]
    return [value for value in tree_flatten(list(values))[0] if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("method", [shortened(method) for method in EVERYTHING], ids=repr)
def test_a_method_computes_where_its_block_is(gpu, method):
    shapes = [(60,), (35,)] if isinstance(method, Elementwise) else [(6, 10), (7, 5)]
    blocks = list(blocks_of(method, shapes))
    expected = results(method, blocks, torch.device("cpu"))
    found = results(method, [there(block) for block in blocks], DEVICE)
    for one, other in zip(found, expected, strict=True):
        for tensor, same in zip(tensors_in(one), tensors_in(other), strict=True):
            assert tensor.device == DEVICE
            assert tensor.cpu().equal(same)


@pytest.mark.parametrize("lines", [None, Lines()])
@pytest.mark.parametrize("method", ["ties", "pcb", "mergekit_dare", "tsv_m"])
def test_the_stream_of_a_plan_computes_on_its_device(gpu, monkeypatch, tmp_path, method, lines):
    folders = {}
    for seed, name in enumerate(("base", "a", "b")):
        weight = torch.randn(30, 20, generator=torch.manual_seed(seed))
        (tmp_path / name).mkdir()
        safetensors.torch.save_file({"layer.0.weight": weight}, tmp_path / name / "model.safetensors")
        folders[name] = str(tmp_path / name)
    config = MergeConfig(method, folders.pop("base"), folders, block_size="1MiB", lines=lines)
    monkeypatch.setattr(Plan, "threads", 1)  # a mode holds in one thread
    plan = check(config)
    expected = dict(engine.weights(plan))
    on_meta = dataclasses.replace(config, device=DEVICE.type)
    found = dict(engine.weights(dataclasses.replace(plan, config=on_meta)))
    assert all(found[name].equal(weight) for name, weight in expected.items())


@pytest.mark.parametrize("method", ["ties", "tsv_m"])
def test_task_vectors_in_memory_are_merged_where_they_are(gpu, method):
    shape = (2, 40) if method == "ties" else (2, 8, 5)
    vectors = torch.randn(shape, generator=torch.manual_seed(0))
    merged = engine.merge_task_vectors(METHODS.get(method)(), vectors.to(DEVICE))
    assert merged.device == DEVICE
    assert merged.cpu().equal(engine.merge_task_vectors(METHODS.get(method)(), vectors))
