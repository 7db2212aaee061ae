from __future__ import annotations

import dataclasses
import json

import pytest
import safetensors.torch
import torch

from saft.errors import UserError
from saft.merging.inputs.tensor_names import depth_in_stack
from saft.merging.merge_check import check
from saft.merging.merge_config import Lines, MergeConfig
from saft.merging.outputs.record import write_merge
from saft.merging.stream import engine
from saft.merging.stream.engine import stream
from tests.merging.conftest import SHAPES

INNER = [
    ("task_arithmetic", {}),
    ("average", {}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": 0.3, "granularity": "tensor"}),
    ("pcb", {"density": 0.3, "granularity": "tensor"}),
    ("dare", {}),
    ("breadcrumbs", {"density": 0.5}),  # takes whole tensors
    ("della", {}),
]


def depth(name):
    """By hand, for the shapes of conftest.py: a stack of two layers, and three tensors outside of it."""
    return 1.0 if name.startswith("layer.1.") else 0.0


@pytest.mark.parametrize(("method", "parameters"), INNER)
def test_every_method_is_scaled_by_layer_with_the_factor_from_the_norms(
    checkpoints, base_tensors, task_tensors, method, parameters
):
    base, models = checkpoints
    config = MergeConfig(method, base, models, parameters)
    plain = dict(stream(check(config)))
    seen = []
    plan = check(dataclasses.replace(config, lines=Lines(beta=0.5)))
    found = dict(stream(plan, lambda done, whole: seen.append((done, whole))))
    of_sum = sum(
        sum((tensors[name] - base_tensors[name]).double() for tensors in task_tensors.values()).abs().sum()
        for name in SHAPES
    )
    of_merged = sum(merged.double().abs().sum() for merged in plain.values())
    alpha = float(of_sum / of_merged) / 3
    for name, merged in plain.items():
        torch.testing.assert_close(found[name], merged * (alpha + 0.5 * depth(name)), rtol=1e-5, atol=1e-9)
    assert seen[-1] == (plan.bytes_per_pass * plan.passes,) * 2


def test_of_the_sum_alpha_is_one_over_the_number_of_tasks(checkpoints):
    base, models = checkpoints
    config = MergeConfig("task_arithmetic", base, models)
    plain = dict(stream(check(config)))
    plan = check(dataclasses.replace(config, lines=Lines(beta=0.0)))
    assert plan.scaling == 1.0
    for name, found in stream(plan):
        torch.testing.assert_close(found, plain[name] / 3)
    assert check(dataclasses.replace(config, lines=Lines(), scaling=0.7)).scaling == 0.7


def test_an_alpha_that_is_given_needs_no_pass(checkpoints):
    base, models = checkpoints
    config = MergeConfig("task_arithmetic", base, models)
    plain = dict(stream(check(config)))
    plan = check(dataclasses.replace(config, lines=Lines(alpha=0.2, beta=0.8)))
    assert plan.passes == 1
    assert check(dataclasses.replace(config, lines=Lines())).passes == 2
    for name, found in stream(plan):
        assert found.equal(plain[name] * (1.0 if depth(name) else 0.2))


def test_models_that_did_not_move_stay(checkpoints):
    base, _ = checkpoints
    plan = check(MergeConfig("ties", base, [base, base], lines=Lines()))
    assert all(found.count_nonzero() == 0 for _, found in stream(plan))


def test_it_is_written_and_told(checkpoints, tmp_path, base_tensors):
    base, models = checkpoints
    plan = check(MergeConfig("ties", base, models, lines=Lines(alpha=0.25, beta=0.5)))
    write_merge(plan, tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    for name, found in stream(plan):
        assert written[name].equal(engine.apply(base_tensors[name], found, 1.0))
    manifest = json.loads((tmp_path / "out" / "saft.json").read_text())
    assert manifest["lines"]["beta"] == 0.5
    assert "layer l of L times α + 0.5 l/(L − 1), with α = 0.25" in manifest["formula"]
    assert "LiNeS" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["vit.encoder.layer.0.w", "vit.encoder.layer.3.mlp.0.w", "vit.embed.w"], [0.0, 1.0, None]),
        (["h.0.ln.weight", "h.5.mlp.w", "h.10.w", "wte.weight"], [0.0, 0.5, 1.0, None]),
        (["encoder.block.1.layer.0.w", "encoder.block.2.layer.1.w"], [0.5, 1.0]),
        (
            ["encoder.block.1.w", "encoder.block.2.w", "decoder.block.0.w", "decoder.block.1.w"],
            [0.5, 1, 0, 1],
        ),
        (["model.layers.0.w"], [0.0]),
        (["players.3.w", "layers.x.1.w", "classifier.0.weight"], [None, None, None]),
    ],
)
def test_the_number_of_a_layer_is_that_of_the_outermost_stack(names, expected):
    found = depth_in_stack(names, Lines().layers)
    assert [found.get(name) for name in names] == expected


def test_layers_of_another_name(save, checkpoints):
    assert depth_in_stack(["part0_w", "part2_w", "part4_w"], r"^part(\d+)_") == {
        "part0_w": 0.0,
        "part2_w": 0.5,
        "part4_w": 1.0,
    }
    base = save("flat", {"weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"lines.layers: .* in no tensor's name, such as 'weight'"):
        check(MergeConfig("average", base, [base], lines=Lines()))


def test_what_cannot_be_scaled_is_refused(checkpoints):
    base, models = checkpoints
    with pytest.raises(UserError, match="lines: 'emr' gives a shared part"):
        check(MergeConfig("emr", base, models, lines=Lines()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": float("nan")}, "beta: must be a finite number"),
        ({"alpha": float("inf")}, "alpha: must be a finite number"),
        ({"layers": "(("}, "is not a regular expression"),
        ({"layers": "layer"}, "must have one group"),
    ],
)
def test_wrong_values(wrong, message):
    with pytest.raises(UserError, match=message):
        Lines(**wrong)
