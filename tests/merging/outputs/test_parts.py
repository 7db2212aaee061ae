"""Folders that keep a part per task: what is written, and each task's weights out of it again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from saft.errors import UserError
from saft.files.checkpoint import read_manifest, write_tensors
from saft.measure import weight_interference
from saft.merge import MergeConfig, merge
from saft.merging.inputs import task_parts
from saft.merging.method import Elementwise
from saft.merging.methods import METHODS
from saft.merging.stream.block import Block
from saft.merging.stream.engine import apply
from saft.merging.stream.gathering import prepare
from tests.merging.conftest import SHAPES, draw
from tests.test_merge import KILLED_AT_ANY_CALL, files, kill_at_every_call

EVERY_METHOD = [
    ("emr", {}),
    ("emr", {"variant": "paper"}),
    ("tall_masks", {}),
    ("tall_masks", {"thresholds": [0.2, 0.4, 0.6]}),
    ("smile", {"rank": 2}),
]
every_method = pytest.mark.parametrize(("method", "parameters"), EVERY_METHOD)


def in_memory(method, base, tasks, scaling, dtype=None):
    """Each task's weights by the method's function of whole tensors in float32, without any file."""
    shapes = {name: tuple(tensor.shape) for name, tensor in base.items() if tensor.is_floating_point()}
    names = [name for name in sorted(method.wanted(shapes)) if base[name].numel()]
    blocks = []
    for name in names:
        vectors = torch.stack([task[name].float() - base[name].float() for task in tasks.values()])
        if isinstance(method, Elementwise):
            vectors = vectors.view(len(tasks), -1)
        blocks.append(Block(vectors, base[name].float().view(vectors.shape[1:]), name))
    count = sum(block.base.numel() for block in blocks)
    function = prepare(method, len(tasks), count, lambda function: map(function, blocks))
    found = {task: dict(base) for task in tasks}
    for name, block in zip(names, blocks, strict=True):
        for task, vector in zip(tasks, function(block), strict=True):
            found[task][name] = apply(base[name], vector.view(base[name].shape), scaling, dtype)
    return found


@every_method
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_each_task_has_the_weights_of_the_formula_to_the_bit(
    checkpoints, base_tensors, task_tensors, tmp_path, method, parameters, scaling
):
    base, models = checkpoints
    merge(MergeConfig(method, base, models, parameters, scaling=scaling), tmp_path / "out")
    folder = task_parts.read(tmp_path / "out")
    assert folder.tasks == ["a", "b", "c"]
    expected = in_memory(METHODS.get(method).build(parameters), base_tensors, task_tensors, scaling or 1.0)
    for task in "abc":
        found = dict(folder.task_tensors(task))
        assert found.keys() == base_tensors.keys()
        for name, tensor in expected[task].items():
            assert found[name].dtype == tensor.dtype
            assert found[name].equal(tensor)
        assert not found["layer.0.weight"].equal(base_tensors["layer.0.weight"])


@every_method
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_dtype_that_was_asked_for_is_cast_to_once(
    checkpoints, base_tensors, task_tensors, tmp_path, method, parameters, dtype
):
    base, models = checkpoints
    merge(MergeConfig(method, base, models, parameters, dtype=dtype), tmp_path / "out")
    wanted = getattr(torch, dtype)
    built = METHODS.get(method).build(parameters)
    expected = in_memory(built, base_tensors, task_tensors, 1.0, wanted)
    for name, tensor in task_parts.read(tmp_path / "out").task_tensors("b"):
        if tensor.is_floating_point():
            assert tensor.equal(expected["b"][name].to(wanted))
        else:
            assert tensor.dtype == base_tensors[name].dtype


@pytest.mark.parametrize("method", ["emr", "tall_masks"])
def test_in_float64_nothing_of_the_base_is_lost(save, tmp_path, method):
    torch.manual_seed(0)
    base = torch.randn(100, dtype=torch.float64)
    moved = torch.randn(100, dtype=torch.float64) * (torch.arange(100) < 50)
    folders = save("base", {"w": base}), [save("a", {"w": base + moved})]
    merge(MergeConfig(method, *folders, arithmetic="float64"), tmp_path / "out")
    ((_, found),) = task_parts.read(tmp_path / "out").task_tensors("a")
    assert found[50:].equal(base[50:])
    torch.testing.assert_close(found[:50], base[:50] + moved[:50], rtol=0, atol=1e-6)


@every_method
def test_small_blocks_do_not_change_a_bit(checkpoints, tmp_path, method, parameters):
    base, models = checkpoints
    found = []
    for size in (None, 1):
        out = tmp_path / f"out{size}"
        merge(MergeConfig(method, base, models, parameters, block_size=size), out)
        found.append({str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.safetensors")})
    assert found[0] == found[1]


@every_method
def test_what_is_excluded_stays_the_bases(checkpoints, base_tensors, tmp_path, method, parameters):
    base, models = checkpoints
    merge(MergeConfig(method, base, models, parameters, exclude=["layer.0.*"]), tmp_path / "out")
    found = dict(task_parts.read(tmp_path / "out").task_tensors("a"))
    assert found["layer.0.weight"].equal(base_tensors["layer.0.weight"])
    assert found["layer.0.bias"].equal(base_tensors["layer.0.bias"])
    assert not found["layer.1.weight"].equal(base_tensors["layer.1.weight"])


def test_smile_leaves_alone_what_is_no_linear_layer(checkpoints, base_tensors, task_tensors, tmp_path):
    base, models = checkpoints
    result = merge(MergeConfig("smile", base, models), tmp_path / "out")
    assert set(result.plan.merged) == {"layer.0.weight", "layer.0.bias", "layer.1.weight"}
    found = dict(task_parts.read(tmp_path / "out").task_tensors("a"))
    assert found["embeddings.weight"].equal(base_tensors["embeddings.weight"])
    assert found["layer.0.bias"].equal(task_tensors["a"]["layer.0.bias"])
    torch.testing.assert_close(found["layer.0.weight"], task_tensors["a"]["layer.0.weight"])


@every_method
def test_the_plan_says_how_much_is_written(checkpoints, tmp_path, method, parameters):
    base, models = checkpoints
    result = merge(MergeConfig(method, base, models, parameters), tmp_path / "out")
    files = list((tmp_path / "out").rglob("*.safetensors"))
    headers = sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files)
    assert sum(file.stat().st_size for file in files) - headers == result.plan.bytes_out
    assert merge(result.plan.config, None, check_only=True).plan.bytes_out == result.plan.bytes_out


@every_method
def test_threads_do_not_change_a_bit(checkpoints, tmp_path, method, parameters):
    base, models = checkpoints
    before, written = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            out = tmp_path / f"out{threads}"
            merge(MergeConfig(method, base, models, parameters), out)
            written.append({str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()})
    finally:
        torch.set_num_threads(before)
    assert written[0] == written[1]


@pytest.mark.parametrize(("method", "passes"), [("emr", 2), ("tall_masks", 1), ("smile", 1)])
def test_progress_ends_at_the_whole(checkpoints, tmp_path, method, passes):
    base, models = checkpoints
    seen = []
    result = merge(
        MergeConfig(method, base, models), tmp_path / "out", progress=lambda *now: seen.append(now)
    )
    assert result.plan.passes == passes
    assert seen[-1] == (result.plan.bytes_per_pass * passes,) * 2


def test_masks_are_small_and_rescalers_are_in_the_manifest(checkpoints, tmp_path):
    base, models = checkpoints
    result = merge(MergeConfig("emr", base, models), tmp_path / "out")
    count = sum(result.plan.base.headers[name].count for name in SHAPES)
    assert (tmp_path / "out" / "parts" / "a.safetensors").stat().st_size < count / 8 + 1000
    manifest = read_manifest(tmp_path / "out")
    assert manifest["kind"] == "parts"
    assert manifest["rescalers"].keys() == {"a", "b", "c"}
    assert all(0 < factor < 2 for factor in manifest["rescalers"].values())
    assert 'saft.load_task("this/folder", "a")' in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("method", ["emr", "tall_masks", "smile"])
def test_an_input_that_is_not_finite_leaves_nothing(save, tmp_path, base_tensors, task_tensors, method):
    task_tensors["b"]["layer.1.weight"][3, 1] = float("nan")
    folders = {name: save(name, tensors) for name, tensors in task_tensors.items()}
    with pytest.raises(UserError, match=r"'layer.1.weight' holds NaN or infinity"):
        merge(MergeConfig(method, save("base", base_tensors), folders), tmp_path / "out")
    assert not [entry for entry in tmp_path.iterdir() if "out" in entry.name]


def test_a_sum_that_float32_cannot_hold_is_told(save, tmp_path):
    huge = {"w": torch.full((9,), 3e38)}
    config = MergeConfig(
        "tall_masks", save("base", {"w": torch.zeros(9)}), [save("a", huge), save("b", huge)]
    )
    with pytest.raises(UserError, match=r"'w': the merged task vector exceeds what float32 can hold"):
        merge(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_their_dtype_are_told(save, tmp_path):
    base, model = save("base", {"w": torch.zeros(9)}), save("a", {"w": torch.full((9,), 1e5)})
    merge(MergeConfig("emr", base, [model], dtype="float16"), tmp_path / "out")
    with pytest.raises(UserError, match=r"'w' of task 'a' does not fit torch.float16"):
        dict(task_parts.read(tmp_path / "out").task_tensors("a"))


def test_what_is_the_bases_and_does_not_fit_the_dtype_is_told(save, tmp_path):
    base, model = ({"w": torch.full((9,), one), "head": torch.full((2,), 1e5)} for one in (0.0, 1.0))
    config = MergeConfig("emr", save("base", base), [save("a", model)], dtype="float16", exclude=["head"])
    merge(config, tmp_path / "out")
    with pytest.raises(UserError, match=r"'head': the base's weights do not fit float16"):
        dict(task_parts.read(tmp_path / "out").task_tensors("a"))


def test_what_no_file_can_be_called_and_shards_are_refused_at_once(checkpoints, tmp_path):
    base, models = checkpoints
    (tmp_path / "a model").symlink_to(models["a"])
    config = MergeConfig("emr", base, [str(tmp_path / "a model"), models["b"]], shard_size="1MB")
    with pytest.raises(UserError) as caught:
        merge(config, tmp_path / "out")
    assert len(caught.value.problems) == 2
    assert "'a model' cannot be a name" in str(caught.value)
    assert "shard_size" in str(caught.value)


def test_parameters_that_differ_from_tensor_to_tensor_are_refused(checkpoints, tmp_path):
    base, models = checkpoints
    config = MergeConfig("tall_masks", base, models, varying={"thresholds": [[0.2, 0.4]]})
    with pytest.raises(UserError, match="varying: tall_masks"):
        merge(config, tmp_path / "out")


def test_a_disk_without_room_for_the_parts_is_told_at_once(monkeypatch, checkpoints, tmp_path):
    base, models = checkpoints
    one_model = sum(file.stat().st_size for file in Path(base).glob("*.safetensors"))
    free = shutil._ntuple_diskusage(10**9, 0, one_model)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    merge(MergeConfig("average", base, models), tmp_path / "average")
    with pytest.raises(UserError, match=r"the result takes .* [MK]iB, but .* are left on the disk"):
        merge(MergeConfig("emr", base, models), tmp_path / "out")


def test_smile_without_a_linear_layer_is_refused(save, tmp_path):
    config = MergeConfig("smile", save("base", {"w": torch.zeros(9)}), [save("a", {"w": torch.ones(9)})])
    with pytest.raises(UserError, match="no tensor is left that smile merges"):
        merge(config, tmp_path / "out")


@every_method
def test_no_weights_lie_where_a_reader_would_take_them_for_a_model(checkpoints, tmp_path, method, parameters):
    base, models = checkpoints
    merge(MergeConfig(method, base, models, parameters), tmp_path / "out")
    assert {file.suffix for file in (tmp_path / "out").glob("*.*")} == {".json", ".md"}
    assert {file.name for file in (tmp_path / "out").iterdir() if file.is_dir()} == {"shared", "parts"}


def test_such_a_folder_is_no_input_and_says_what_would_be(checkpoints, tmp_path):
    base, models = checkpoints
    out = str(tmp_path / "out")
    merge(MergeConfig("emr", base, models), out)
    told = r"holds a part per task, and no single model; make one with saft.load_task\("
    for config in (
        MergeConfig("average", base, {"a": models["a"], "merged": out}),
        MergeConfig("average", out, models),
        MergeConfig("emr", base, {"merged": out}),
    ):
        with pytest.raises(UserError, match=told):
            merge(config, tmp_path / "again")
    with pytest.raises(UserError, match=told):
        weight_interference(base, {"merged": out}, 0.2)


def test_a_task_that_has_no_part_is_told(checkpoints, tmp_path):
    base, models = checkpoints
    merge(MergeConfig("emr", base, {"colours": models["a"], "sizes": models["b"]}), tmp_path / "out")
    with pytest.raises(UserError, match=r"has no part for 'colour'; did you mean 'colours'\?"):
        dict(task_parts.read(tmp_path / "out").task_tensors("colour"))


def test_a_damaged_folder_is_told(checkpoints, tmp_path):
    base, models = checkpoints
    out = tmp_path / "out"
    merge(MergeConfig("emr", base, models), out)
    merge(MergeConfig("average", base, models), tmp_path / "merged")
    with pytest.raises(UserError, match="holds one model and no part per task"):
        task_parts.read(tmp_path / "merged")
    write_tensors(out / "parts" / "b.safetensors", {"layer.0.weight.mask": torch.zeros(3, dtype=torch.uint8)})
    with pytest.raises(UserError, match=r"b.safetensors: 'layer.0.weight' does not fit"):
        dict(task_parts.read(out).task_tensors("b"))
    (out / "parts" / "a.safetensors").unlink()
    with pytest.raises(UserError, match=r"a.safetensors: is missing; the folder is damaged"):
        dict(task_parts.read(out).task_tensors("a"))
    (out / "shared" / "vector.safetensors").unlink()
    with pytest.raises(UserError, match=r"vector.safetensors: is missing"):
        task_parts.read(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": "subprocess:getoutput"},
            "its method is 'subprocess:getoutput', which is not one of saft's",
        ),
        ({"method": "ties"}, "'ties' is not a method that keeps parts"),
        (
            {"models": [{"task": "../../secret"}], "rescalers": {"../../secret": 1.0}},
            "leads out of its folder",
        ),
        ({"scaling": None}, "scaling and rescalers must be finite numbers"),
        ({"rescalers": {}}, "models and rescalers do not name the same tasks"),
        ({"parameters": {"variant": "x"}}, "variant: unknown value 'x'"),
    ],
)
def test_a_manifest_is_not_trusted(checkpoints, tmp_path, change, message):
    base, models = checkpoints
    out = tmp_path / "out"
    merge(MergeConfig("emr", base, models), out)
    (tmp_path / "secret.safetensors").write_bytes((out / "parts" / "a.safetensors").read_bytes())
    manifest = json.loads((out / "saft.json").read_text())
    (out / "saft.json").write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=message):
        list(task_parts.read(out).task_tensors("../../secret"))


def test_names_whose_pieces_interleave_in_the_file_are_kept_apart(save, tmp_path):
    shapes = {"x.weight": (5, 4), "x.weight.a.weight": (3, 4), "x-y.weight": (2, 2), "x.bias": (5,)}
    base, model = draw(shapes, 0, 1.0), draw(shapes, 1, 1.0)
    for method in ("smile", "emr"):
        out = tmp_path / method
        config = MergeConfig(method, save(f"base-{method}", base), [save(f"a-{method}", model)])
        merge(config, out)
        for name, tensor in task_parts.read(out).task_tensors(f"a-{method}"):
            torch.testing.assert_close(tensor, model[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["emr", "tall_masks", "smile"])
@settings(deadline=None, derandomize=True, max_examples=10)
@given(
    shapes=st.dictionaries(
        st.sampled_from(["a.weight", "a.bias", "b", "c.weight", "embed.weight"]),
        st.lists(st.integers(0, 6), max_size=3).map(tuple),
        min_size=1,
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    tasks=st.integers(1, 4),
)
def test_any_model_comes_back(tmp_path_factory, method, shapes, dtype, tasks):
    folder = tmp_path_factory.mktemp("any")
    tensors = {str(seed): draw(shapes | {"w.weight": (3, 2)}, seed, 1.0, dtype) for seed in range(tasks + 1)}
    for name, found in tensors.items():
        (folder / name).mkdir()
        write_tensors(folder / name / "model.safetensors", found)
    base = tensors.pop("0")
    config = MergeConfig(method, str(folder / "0"), {task: str(folder / task) for task in tensors})
    merge(config, folder / "out")
    read = task_parts.read(folder / "out")
    expected = in_memory(METHODS.get(method)(), base, tensors, 1.0)
    for task in tensors:
        for name, tensor in read.task_tensors(task):
            assert tensor.isfinite().all()
            assert tensor.equal(expected[task][name])
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("method", ["emr", "smile"])
def test_a_merge_killed_at_any_call_of_the_file_system_leaves_nothing_or_a_whole(
    checkpoints, tmp_path, method
):
    base, models = checkpoints
    folders = list(models.values())[:2]
    merge(MergeConfig(method, base, folders), tmp_path / "expected")
    expected, out = files(tmp_path / "expected"), tmp_path / "out"
    script = KILLED_AT_ANY_CALL.replace('"average"', f'"{method}"')
    kill_at_every_call([sys.executable, "-c", script, str(tmp_path), base, *folders, ""], out, expected)
