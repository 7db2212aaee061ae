"""Parameters that differ from tensor to tensor."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from saft.errors import UserError
from saft.merging.inputs.tensor_names import depth_in_stack
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.merged_tensors import merged_tensors
from saft.merging.methods.della import Della
from saft.merging.methods.karcher import Karcher
from saft.merging.outputs.record import write_merge
from saft.merging.varying import LAYER, methods_by_tensor, setting_problem, value_at


def test_gradients_are_interpolated_over_the_layers_of_each_prefix():
    names = ["a.layers.0.w", "a.layers.3.w", "a.layers.6.w", "b.block.0.layer.1.w", "b.block.1.w"]
    names += ["c.only.0.w", "d"]
    depth = dict.fromkeys(names, 0.0) | depth_in_stack(names, LAYER, of_single=1.0)
    assert [depth[name] for name in names] == [0, 0.5, 1, 0, 1, 1, 0]
    assert [value_at([0.0, 1.0, 0.0], name, depth[name]) for name in names] == [0, 1, 0, 0, 0, 0, 0]
    assert value_at([2.0], "d", 0.7) == 2.0
    assert value_at([0, 1], "d", 0.25) == 0.25


def test_the_first_filter_that_fits_holds():
    setting = [{"filter": "mlp", "value": [0, 1]}, {"filter": "*", "value": 3}, {"value": 4}]
    assert value_at(setting, "layers.0.mlp.w", 0.5) == 0.5
    assert value_at(setting, "layers.0.attn.w", 0.5) == 3
    assert value_at(setting[:1], "layers.0.attn.w", 0.5) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([], "is an empty list"),
        (None, "must be a value"),
        ([1, "a"], "must be a list of numbers, or of filter and value"),
        ([{"value": [{"value": 1}]}], "must be a list of numbers"),
        ([{"filter": 3, "value": 1}], "filter must be a part of a tensor's name"),
    ],
)
def test_what_is_no_setting(setting, message):
    assert message in setting_problem(setting)


def test_a_whole_number_can_be_spread_over_the_layers():
    names = ["layers.0.w", "layers.1.w", "layers.2.w"]
    varied = methods_by_tensor(Karcher(), {"iterations": [2, 4]}, names)
    assert repr([varied[name].iterations for name in names]) == "[2, 3, 4]"


def test_della_varies_where_no_sign_is_elected():
    varied = methods_by_tensor(Della(merger="sum"), {"density": [0.2, 0.5]}, ["layers.0.w", "layers.1.w"])
    assert [method.density for method in varied.values()] == [0.2, 0.5]


def test_a_merge_of_saft_varies_too(checkpoints, base_tensors, task_tensors, tmp_path):
    base, models = checkpoints
    weights = [[{"filter": "layer.0", "value": 2.0}, {"value": 0.5}], [1.0, 3.0], 0.0]
    config = MergeConfig("task_arithmetic", base, models, scaling=1.0, varying={"weights": weights})
    write_merge(check(config), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, first, second in (
        ("layer.0.weight", 2.0, 1.0),
        ("layer.1.weight", 0.5, 3.0),
        ("embeddings.weight", 0.5, 1.0),
    ):
        moves = [task_tensors[task][name] - base_tensors[name] for task in "ab"]
        expected = base_tensors[name] + first * moves[0] + second * moves[1]
        torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-6)


def test_a_tensor_of_which_no_model_has_a_weight_stays_the_base_s(checkpoints, base_tensors, task_tensors):
    base, models = checkpoints
    first_layer_only = [{"filter": "layer.0", "value": 1.0}, {"value": 0.0}]
    config = MergeConfig(
        "task_arithmetic", base, {"a": models["a"]}, scaling=1.0, varying={"weights": [first_layer_only]}
    )
    merged = merged_tensors(check(config))
    assert merged["layer.1.weight"].equal(base_tensors["layer.1.weight"])
    torch.testing.assert_close(merged["layer.0.weight"], task_tensors["a"]["layer.0.weight"])


@pytest.mark.parametrize(
    ("method", "varying", "message"),
    [
        ("ties", {"density": [0.1, 0.5]}, "depends on the whole model's statistics; set granularity: tensor"),
        (
            "breadcrumbs",
            {"merger": [{"filter": "layer", "value": "ties"}, {"value": "sum"}]},
            r"varying, at 'layer\.\d.*': what this method does .* statistics; leave `varying` out \(and 2 more",
        ),
        (
            "task_arithmetic",
            {"wieghts": [1]},
            "varying: unknown parameter 'wieghts'; did you mean 'weights'?",
        ),
        ("task_arithmetic", {"weights": 1.0}, "must be a list with a setting for each model"),
        ("task_arithmetic", {"weights": [1.0, 2.0]}, "has 2 numbers, but there are 3 models"),
        ("slerp", {"t": [0.5, 3.0]}, "t: must be in"),
        ("task_arithmetic", {"weights": [[0.0, 0.0], 0.0, 0.0]}, "^weights: are all zero"),
        (
            "linear",
            {"weights": [[{"filter": "layer", "value": 0.0}, {"value": 1.0}], 0.0, 0.0]},
            r"varying, at 'layer\.\d.*': weights: they add up to zero; .*normalize: false \(and 2 more tensors",
        ),
        ("emr", {"x": 1}, "emr keeps a part per task; its parameters cannot vary"),
    ],
)
def test_what_cannot_vary_is_refused(checkpoints, method, varying, message):
    base, models = checkpoints
    chosen = dict(list(models.items())[:2]) if method == "slerp" else models
    with pytest.raises(UserError, match=message):
        check(MergeConfig(method, base, chosen, varying=varying))


def test_what_is_wrong_at_many_tensors_is_said_once(checkpoints):
    base, models = checkpoints
    varying = {"density": [{"filter": "layer", "value": 20}, {"value": 0.5}]}
    with pytest.raises(UserError) as caught:
        check(MergeConfig("ties", base, models, {"granularity": "tensor"}, varying))
    (found,) = caught.value.problems
    assert found.startswith("varying, at 'layer.")
    assert found.endswith("write 0.2 (and 2 more tensors)")
