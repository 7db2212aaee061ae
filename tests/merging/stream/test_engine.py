from __future__ import annotations

import dataclasses
import json
from collections import deque
from contextlib import nullcontext
from unittest import mock

import pytest
import safetensors.torch
import torch

from saft.errors import UserError
from saft.files.checkpoint import tensor_headers
from saft.files.tensorfile import view
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS
from saft.merging.outputs.record import write_merge
from saft.merging.outputs.whole_model import Weights
from saft.merging.per_task import PerTaskMethod
from saft.merging.stream import engine, order_statistics
from saft.merging.stream.engine import merge_task_vectors
from tests.merging.conftest import SHAPES, draw

EVERY_METHOD = [
    ("average", {}),
    ("task_arithmetic", {}),
    ("linear", {}),
    ("magmax", {}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.3, "granularity": "tensor", "elect": "normmass"}),
    ("pcb", {"density": 0.3}),
    ("pcb", {"density": 0.3, "variant": "es", "granularity": "tensor"}),
    ("pcb", {"density": 0.3, "variant": "paper"}),
]


def counting():
    """A context in which order statistics of small streams, too, are counted and not sorted."""
    return mock.patch.object(order_statistics, "_SMALL", 0)


def flat(tensors, names):
    return torch.cat([tensors[name].reshape(-1).float() for name in names])


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("method", "parameters"), EVERY_METHOD)
def test_the_stream_equals_the_merge_in_memory_to_the_bit(
    checkpoints, base_tensors, task_tensors, method, parameters, counted
):
    base, models = checkpoints
    plan = check(MergeConfig(method, base, models, parameters, block_size=1))  # the smallest blocks
    with counting() if counted else nullcontext():
        found = dict(engine.stream(plan))
    assert set(found) == set(SHAPES)
    names = sorted(SHAPES)
    scopes = [[name] for name in names] if parameters.get("granularity") == "tensor" else [names]
    for scope in scopes:
        if not flat(base_tensors, scope).numel():
            continue
        vectors = torch.stack([flat(t, scope) - flat(base_tensors, scope) for t in task_tensors.values()])
        expected = merge_task_vectors(METHODS.get(method).build(parameters), vectors)
        assert flat(found, scope).equal(expected)
    for name, shape in SHAPES.items():
        assert found[name].shape == shape
        assert found[name].dtype == torch.float32


def test_the_size_of_the_blocks_does_not_change_a_bit(checkpoints):
    base, models = checkpoints
    found = []
    for size in (1, "128KiB", "4MiB", None):
        plan = check(MergeConfig("pcb", base, models, {"variant": "paper"}, block_size=size))
        found.append(dict(engine.stream(plan)))
    for other in found[1:]:
        assert all(other[name].equal(tensor) for name, tensor in found[0].items())


@pytest.mark.parametrize("method", ["ties", "pcb"])
def test_threads_do_not_change_a_bit_and_are_given_back(checkpoints, method):
    base, models = checkpoints
    plan = check(MergeConfig(method, base, models, block_size=1))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append({})
            for name, merged in engine.stream(plan):
                assert torch.get_num_threads() == threads, "a consumer keeps its threads"
                found[-1][name] = merged
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(found[1][name].equal(tensor) for name, tensor in found[0].items())


@pytest.mark.parametrize(("method", "parameters"), EVERY_METHOD)
@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_written_is_what_the_stream_gives_whatever_the_threads_and_the_shards(
    checkpoints, tmp_path, method, parameters, threads
):
    base, models = checkpoints
    plan = check(MergeConfig(method, base, models, parameters, block_size=1, shard_size=1000))
    expected = dict(engine.stream(plan))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        write_merge(plan, tmp_path / "out")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    headers = tensor_headers(tmp_path / "out")
    assert len({header.file for header in headers.values()}) > 2
    for name, merged in expected.items():
        found = view(headers[name])
        assert found.equal(engine.apply(plan.base.tensor(name), merged, plan.scaling))


@pytest.mark.parametrize(("method", "parameters"), EVERY_METHOD)
def test_float64_on_request_equals_the_merge_in_memory_to_the_bit(save, tmp_path, method, parameters):
    shapes = {"w": (130, 70), "b": (7,)}
    base, first, second = (draw(shapes, seed, 1.0, torch.float64) for seed in range(3))
    config = MergeConfig(
        method, save("base", base), [save("a", first), save("b", second)], parameters,
        arithmetic="float64", block_size=1,
    )  # fmt: skip
    plan = check(config)
    assert plan.passes >= check(dataclasses.replace(config, arithmetic="float32")).passes
    scopes = [["w"], ["b"]] if parameters.get("granularity") == "tensor" else [["b", "w"]]
    found = dict(engine.stream(plan))
    write_merge(plan, tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    # Here all is one tensor, there sums are taken of one after the other: the last bits of a softmax.
    off = {"rtol": 1e-12 if parameters.get("variant") == "paper" else 0.0, "atol": 0.0}
    for names in scopes:
        whole = [torch.cat([tensors[name].view(-1) for name in names]) for tensors in (base, first, second)]
        vectors = torch.stack([model - whole[0] for model in whole[1:]])
        expected = merge_task_vectors(plan.method, vectors, arithmetic=torch.float64)
        assert expected.dtype == torch.float64
        torch.testing.assert_close(torch.cat([found[name].view(-1) for name in names]), expected, **off)
        merged = torch.cat([written[name].view(-1) for name in names])
        torch.testing.assert_close(merged, expected * plan.scaling + whole[0], **off)
        rough = merge_task_vectors(plan.method, vectors)
        torch.testing.assert_close(rough.double(), expected, rtol=1e-3, atol=1e-5)
        assert not rough.double().equal(expected)


def test_progress_counts_the_passes_of_float64(checkpoints):
    base, models = checkpoints
    plan = check(MergeConfig("ties", base, models, arithmetic="float64"))
    seen = []
    with counting():
        dict(engine.stream(plan, lambda done, whole: seen.append((done, whole))))
        assert plan.passes == 6
    assert seen[-1] == (plan.bytes_per_pass * 6, plan.bytes_per_pass * 6)


@pytest.mark.parametrize(
    ("device", "told"),
    [("gpu", "unknown 'gpu'; use cpu or cuda"), ("meta", "use cpu or cuda"), ("cuda:99", "use device: cpu")],
)
def test_a_device_that_is_not_there_is_refused(checkpoints, device, told):
    base, models = checkpoints
    with pytest.raises(UserError, match=f"device: .*{told}"):
        check(MergeConfig("ties", base, models, device=device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize(("method", "parameters"), EVERY_METHOD)
def test_a_gpu_gives_the_same_numbers(checkpoints, method, parameters, arithmetic, sampled, monkeypatch):
    base, models = checkpoints
    monkeypatch.setattr("saft.merging.plan._SAMPLED_FROM", 1 if sampled else 2**60)
    config = MergeConfig(method, base, models, parameters, arithmetic=arithmetic, block_size="64KiB")
    expected = dict(engine.stream(check(config)))
    for name, found in engine.stream(check(dataclasses.replace(config, device="cuda"))):
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)


def test_shards_and_their_order_do_not_change_a_bit(save, checkpoints, task_tensors, tmp_path):
    base, models = checkpoints
    expected = dict(engine.stream(check(MergeConfig("ties", base, models))))
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = sorted(task_tensors["a"], reverse=True)
    weight_map = {}
    for index, part in enumerate((names[:3], names[3:])):
        file = f"model-{index}.safetensors"
        safetensors.torch.save_file({name: task_tensors["a"][name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = dict(engine.stream(check(MergeConfig("ties", base, models | {"a": str(folder)}))))
    assert all(found[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_task_vectors_are_taken_in_float32_whatever_the_inputs(save, dtype):
    base, model = draw(SHAPES, 0, 1.0, dtype), draw(SHAPES, 1, 1.0)
    config = MergeConfig("task_arithmetic", save("base", base), [save("a", model)])
    for name, found in engine.stream(check(config)):
        assert found.equal(model[name].float() - base[name].float())


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_base_plus_scaled_vector_with_one_cast(save, tmp_path, dtype, base_dtype):
    base, model = draw(SHAPES, 0, 1.0, base_dtype), draw(SHAPES, 1, 1.0)
    config = MergeConfig("task_arithmetic", save("base", base), [save("a", model)], scaling=0.3, dtype=dtype)
    plan = check(config)
    write_merge(plan, tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    wanted = base_dtype if dtype is None else getattr(torch, dtype)
    for name, tensor in base.items():
        exact = tensor.float() + torch.tensor(0.3) * (model[name] - tensor.float())
        assert written[name].dtype == wanted
        assert written[name].equal(exact.to(wanted))
        assert written[name].equal(engine.apply(tensor, model[name] - tensor.float(), 0.3, wanted))
    assert set(written) == set(base)


def test_integers_and_excluded_tensors_are_the_bases(checkpoints, base_tensors, tmp_path):
    base, models = checkpoints
    plan = check(MergeConfig("average", base, models, exclude=["layer.1.*", "scale"]))
    assert set(plan.copied) == {"layer.1.weight", "scale", "position_ids", "mask"}
    write_merge(plan, tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    for name in plan.copied:
        assert written[name].dtype == base_tensors[name].dtype
        assert written[name].equal(base_tensors[name])
    assert not written["layer.0.weight"].equal(base_tensors["layer.0.weight"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["base", "b"])
def test_an_input_that_is_not_finite_is_named_and_nothing_is_left(
    save, tmp_path, base_tensors, task_tensors, bad, where
):
    everything = {"base": base_tensors, **task_tensors}
    everything[where] = everything[where] | {"layer.0.weight": everything[where]["layer.0.weight"].clone()}
    everything[where]["layer.0.weight"][299, 69] = bad
    folders = {name: save(name, tensors) for name, tensors in everything.items()}
    config = MergeConfig("ties", folders.pop("base"), folders)
    with pytest.raises(UserError) as caught:
        write_merge(check(config), tmp_path / "out")
    (problem,) = caught.value.problems
    assert str(tmp_path / where / "model.safetensors") in problem
    assert ("download it again" in problem) == (where == "base")
    assert "'layer.0.weight' holds NaN or infinity (1 of 21000 numbers)" in problem
    assert not [entry for entry in tmp_path.iterdir() if "out" in entry.name]


def test_an_infinity_of_all_alike_is_a_masks(save):
    """As GPT-J's masked_bias of -1e9 is in float16."""
    tensors = {"w": torch.ones(2), "masked_bias": torch.tensor(-1e9).half()}
    folders = [save(name, tensors | {"w": torch.rand(2)}) for name in ("base", "a", "b")]
    config = MergeConfig("average", folders[0], folders[1:])
    with pytest.raises(UserError, match=r"in all models alike.* keep it out .* exclude: \[.masked_bias.\]"):
        list(engine.stream(check(config)))


def test_large_finite_numbers_are_no_infinity(save):
    huge = {"w": torch.full((100,), 3e37)}
    config = MergeConfig("average", save("base", {"w": torch.zeros(100)}), [save("a", huge)])
    assert dict(engine.stream(check(config)))["w"].equal(huge["w"])


def test_a_difference_beyond_float32_is_told(save):
    config = MergeConfig(
        "average", save("base", {"w": torch.full((2,), -3e38)}), [save("a", {"w": torch.full((2,), 3e38)})]
    )
    with pytest.raises(UserError, match=r"'w': .* more than float32 can hold"):
        dict(engine.stream(check(config)))


def test_a_result_that_does_not_fit_its_dtype_is_told(save, tmp_path):
    config = MergeConfig(
        "task_arithmetic",
        save("base", {"w": torch.zeros(2)}),
        [save("a", {"w": torch.full((2,), 1e5)})],
        scaling=1.0,
        dtype="float16",
    )
    with pytest.raises(UserError, match=r"'w': .* do not fit float16"):
        write_merge(check(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_copied_and_does_not_fit_the_dtype_is_told(save, tmp_path):
    base = {"w": torch.zeros(2), "mask": torch.tensor([-torch.inf, 0.0]), "head": torch.tensor([1e5])}
    model = save("a", base | {"w": torch.ones(2)})
    config = MergeConfig("average", save("base", base), [model], dtype="float16", exclude=["mask", "head"])
    with pytest.raises(UserError, match=r"'head': the base's weights do not fit float16; write with dtype: "):
        write_merge(check(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_merge(check(dataclasses.replace(config, dtype="bfloat16")), tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert written["mask"].tolist() == [-torch.inf, 0.0]  # as in the base
    assert written["head"].item() == pytest.approx(1e5, rel=0.01)


def test_a_result_that_eight_bits_would_cut_is_told(save, tmp_path):
    eight = torch.float8_e4m3fn  # has no infinity: torch makes 448 of what is larger
    config = MergeConfig(
        "task_arithmetic",
        save("base", {"w": torch.full((4,), 400.0).to(eight)}),
        [save("a", {"w": torch.full((4,), 448.0).to(eight)})],
        scaling=2.0,
    )
    with pytest.raises(UserError, match=r"'w': .* do not fit float8_e4m3fn at scaling 2"):
        write_merge(check(config), tmp_path / "out")
    write_merge(check(dataclasses.replace(config, scaling=1.0)), tmp_path / "out")


def test_a_tensor_of_eight_bits_without_elements_is_merged(save, tmp_path):
    tensors = {"w": torch.ones(2, 2), "nothing": torch.zeros(0, 4)}
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    folders = [save(name, tensors) for name in ("base", "a", "b")]
    write_merge(check(MergeConfig("tsv_m", folders[0], folders[1:])), tmp_path / "out")
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("base_names", "model_names"),
    [
        (lambda n: f"bert.{n}", lambda n: n),
        (lambda n: n, lambda n: f"bert.{n}"),
    ],
)
def test_a_prefix_that_one_side_has_is_seen_through(
    save, base_tensors, task_tensors, base_names, model_names
):
    base = save("base", {base_names(name): tensor for name, tensor in base_tensors.items()})
    model = save("a", {model_names(name): tensor for name, tensor in task_tensors["a"].items()})
    plan = check(MergeConfig("average", base, [model]))
    assert set(plan.merged) == {base_names(name) for name in SHAPES}
    for name, found in engine.stream(plan):
        original = name.removeprefix("bert.")
        assert found.equal(task_tensors["a"][original] - base_tensors[original])


def test_progress_ends_at_the_whole(checkpoints):
    base, models = checkpoints
    plan = check(MergeConfig("pcb", base, models))
    seen = []
    with counting():
        dict(engine.stream(plan, lambda done, whole: seen.append((done, whole))))
        assert plan.passes == 5
    assert seen[-1] == (plan.bytes_per_pass * 5, plan.bytes_per_pass * 5)
    assert seen == sorted(seen)


def test_a_merge_is_an_input_of_the_next(checkpoints, tmp_path):
    base, models = checkpoints
    write_merge(check(MergeConfig("ties", base, models)), tmp_path / "first")
    write_merge(check(MergeConfig("average", base, [str(tmp_path / "first")])), tmp_path / "second")
    first = safetensors.torch.load_file(tmp_path / "first" / "model.safetensors")
    second = safetensors.torch.load_file(tmp_path / "second" / "model.safetensors")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-8)


def test_task_vectors_are_read_and_thresholds_are_those_of_ties(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    plan = check(MergeConfig("average", base, models))
    names = [name for name, _ in engine.task_vectors(plan)]
    whole = torch.cat([block for _, block in engine.task_vectors(plan)], dim=1)
    expected = torch.stack(
        [
            flat(t, dict.fromkeys(names)) - flat(base_tensors, dict.fromkeys(names))
            for t in task_tensors.values()
        ]
    )
    assert whole.equal(expected)
    kept = int(expected.shape[1] * 0.2) + 1
    assert (expected.abs() >= engine.thresholds(plan, density=0.2)).sum(dim=1).tolist() == [kept] * 3


def test_vectors_that_a_caller_holds_are_written_as_a_new_merge_would_be(checkpoints, tmp_path):
    base, models = checkpoints
    plan = check(MergeConfig("ties", base, models))
    held = dict(engine.stream(plan))
    chosen = dataclasses.replace(plan, scaling=0.7)
    write_merge(chosen, tmp_path / "held", output=Weights(held.items()))
    write_merge(check(MergeConfig("ties", base, models, scaling=0.7)), tmp_path / "new")
    for name in ("model.safetensors", "saft.json", "README.md"):
        assert (tmp_path / "held" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
    with pytest.raises(ValueError, match=r"out of order"):
        write_merge(chosen, tmp_path / "other", output=Weights(reversed(held.items())))
    assert not (tmp_path / "other").exists()


def test_the_header_says_what_is_in_the_file(checkpoints, tmp_path):
    base, models = checkpoints
    plan = check(MergeConfig("average", base, models))
    write_merge(plan, tmp_path / "out")
    found = tensor_headers(tmp_path / "out")
    assert {name: (header.dtype, header.shape) for name, header in found.items()} == plan.layout
    assert sum(header.nbytes for header in found.values()) == plan.bytes_out


STREAMED = [
    name
    for name, kind in METHODS.items()
    if not kind.calibration
    and not kind.needs_adapters
    and not issubclass(kind, PerTaskMethod)
    and kind.max_models > 2
]


@pytest.mark.parametrize("small", [0, 1000, 1 << 16])  # the second counts one tensor and sorts the others
@pytest.mark.parametrize("name", STREAMED)
def test_as_many_bytes_are_read_as_the_check_promises(name, small, checkpoints, monkeypatch):
    monkeypatch.setattr(order_statistics, "_SMALL", small)
    base, models = checkpoints
    plan = check(MergeConfig(name, base, models))
    told = []
    deque(engine.stream(plan, lambda done, whole: told.append((done, whole))), maxlen=0)
    assert {whole for _, whole in told} == {plan.bytes_to_read}
    if plan.method.statistics_over != "tensor":
        assert plan.bytes_to_read == plan.passes * plan.bytes_per_pass
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize(
    "name", [name for name in STREAMED if METHODS.get(name)().statistics_over == "model"]
)
def test_what_varies_for_no_tensor_would_change_a_statistic_of_the_whole_model_and_is_refused(
    name, checkpoints
):
    base, models = checkpoints
    parameter = next(iter(METHODS.get(name)().parameters()))
    value = METHODS.get(name)().parameters()[parameter]
    with pytest.raises(UserError, match=r"varying: what this method does .* whole model"):
        check(MergeConfig(name, base, models, varying={parameter: [value, value]}))


@pytest.mark.parametrize(
    ("method", "parameters", "passes"),
    [
        ("ties", {"density": 0.3}, 3),
        ("ties", {"density": 0.3, "elect": "normmass"}, 4),
        ("pcb", {"density": 0.3}, 3),
        ("pcb", {"density": 0.3, "variant": "paper"}, 6),
        ("average", {}, 1),
        ("dare", {}, 1),
    ],
)
@pytest.mark.parametrize("misleads", [False, True])
def test_a_sample_saves_passes_and_changes_no_bit(save, monkeypatch, method, parameters, passes, misleads):
    shapes = {"large": (500, 600), "vector": (700,), "small": (3, 5)}
    base = draw(shapes, 0, 0.1)
    tasks = [{name: base[name] + move for name, move in draw(shapes, seed, 0.01).items()} for seed in (1, 2)]
    folders = [save(name, tensors) for name, tensors in zip("bxy", (base, *tasks), strict=True)]
    config = MergeConfig(method, folders[0], folders[1:], parameters, block_size="256KiB")

    def merged():
        read = []
        plan = check(config)
        found = dict(engine.stream(plan, lambda done, whole: read.append((done, whole))))
        assert read[-1][0] == read[-1][1]
        return found, read[-1][0] / plan.bytes_per_pass, plan.passes

    expected, *usual = merged()
    monkeypatch.setattr("saft.merging.plan._SAMPLED_FROM", 1)
    monkeypatch.setattr("saft.merging.stream.reader._LEAST_LEFT_OUT", 3)  # of a model so small: enough
    if misleads:
        monkeypatch.setattr("saft.merging.stream.reader._stretches", lambda flat, one_in: flat[:0])
    found, *now = merged()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert usual[0] == usual[1] >= passes
    assert now == [usual[0] if misleads else passes, passes]
