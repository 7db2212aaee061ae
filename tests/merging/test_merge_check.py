from __future__ import annotations

import pytest
import safetensors.torch
import torch

from saft.errors import UserError
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig


def problems(config, out=None):
    with pytest.raises(UserError) as caught:
        check(config, out)
    return list(caught.value.problems)


def test_a_correct_merge_is_planned_without_reading_a_weight(checkpoints, monkeypatch):
    monkeypatch.setattr("saft.files.tensorfile.view", lambda header: pytest.fail("a weight was read"))
    base, models = checkpoints
    plan = check(MergeConfig("ties", base, models, {"density": 0.1}))
    assert plan.method.density == 0.1
    assert plan.scaling == 1.0
    assert plan.passes == 3
    assert list(plan.models) == ["a", "b", "c"]
    assert plan.bytes_per_pass == 4 * 4 * sum(plan.base.headers[name].count for name in plan.merged)


def test_a_list_of_models_is_named_by_folders_or_by_place(checkpoints):
    base, models = checkpoints
    assert list(check(MergeConfig("average", base, list(models.values()))).models) == ["a", "b", "c"]
    twice = [models["a"], models["a"]]
    assert list(check(MergeConfig("average", base, twice)).models) == ["1", "2"]


def test_everything_wrong_is_told_at_once(checkpoints, tmp_path):
    base, models = checkpoints
    (tmp_path / "b" / "model.safetensors").unlink()
    config = MergeConfig(
        "ties",
        base,
        models | {"d": str(tmp_path / "nowhere")},
        {"desnity": 0.2, "combine": "median"},
        dtype="bfloat",
        exclude=["layre.*"],
    )
    found = problems(config)
    for part in (
        "parameters of ties: unknown parameter 'desnity'; did you mean 'density'?",
        "parameters of ties: combine: unknown value 'median'; did you mean 'mean'?",
        "dtype: unknown 'bfloat'; did you mean 'bfloat16'?",
        f"models.b: {tmp_path / 'b'}: holds no model.safetensors",
        f"models.d: there is no '{tmp_path / 'nowhere'}'",
        "exclude: 'layre.*' matches no tensor; did you mean 'layer.*'?",
    ):
        assert sum(part in problem for problem in found) == 1, part
    assert len(found) == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scaling", float("nan")),
        ("scaling", float("inf")),
        ("seed", -1),
        ("adapter_rank", 0),
        ("adapter_rank", 10**12),
        ("data", {"examples": 0}),
        ("data", {"batch_size": -1}),
        ("interventions", {"rank": 0}),
        ("interventions", {"learning_rate": 0.0}),
        ("interventions", {"iterations": -1}),
    ],
)
def test_a_number_out_of_range_is_refused_when_the_config_is_made(key, value):
    with pytest.raises(UserError, match=f"{key}.*: must be"):
        MergeConfig("ties", "base", ["a"], **{key: value})


def test_an_unknown_method_suggests_the_nearest(checkpoints):
    base, models = checkpoints
    assert problems(MergeConfig("tie", base, models)) == ["unknown merge method 'tie'; did you mean 'ties'?"]


def test_a_method_from_outside_is_taken_by_its_place(checkpoints):
    base, models = checkpoints
    plan = check(MergeConfig("saft.merging.methods.ties:Ties", base, models))
    assert plan.method.density == 0.2


def test_what_is_no_method_is_told(checkpoints):
    base, models = checkpoints
    (found,) = problems(MergeConfig("pathlib:Path", base, models))
    assert "merge method 'pathlib:Path': must be a subclass of saft.merging.method.Method" in found


def test_average_has_no_coefficient(checkpoints):
    base, models = checkpoints
    (found,) = problems(MergeConfig("average", base, models, scaling=0.3))
    assert "has no scaling coefficient" in found
    assert check(MergeConfig("average", base, models, scaling=1.0)).scaling == 1.0


def test_no_model_at_all(checkpoints):
    assert "models: is empty" in problems(MergeConfig("average", checkpoints[0], []))[0]


def test_tensors_that_the_base_lacks_are_named_with_a_glob_that_works(save, base_tensors, task_tensors):
    head = {"classifier.weight": torch.zeros(2, 3), "classifier.bias": torch.zeros(2)}
    base, model = save("base", base_tensors), save("a", task_tensors["a"] | head)
    (found,) = problems(MergeConfig("average", base, [model]))
    assert "has 'classifier.bias', 'classifier.weight', which the base" in found
    assert 'exclude: ["classifier.*"]' in found
    plan = check(MergeConfig("average", base, [model], exclude=["classifier.*"]))
    assert not any("classifier" in name for name in plan.layout)


def test_tensors_that_a_model_lacks_are_named_with_a_glob_that_works(save, base_tensors, task_tensors):
    base = save("base", base_tensors | {"layer.9.weight": torch.zeros(2, 3)})
    model = save("a", task_tensors["a"])
    (found,) = problems(MergeConfig("average", base, [model]))
    assert "lacks 'layer.9.weight', which the base" in found
    assert 'exclude: ["layer.9.*"]' in found, "a glob that spares the layers that both have"
    assert "layer.9.weight" in check(MergeConfig("average", base, [model], exclude=["layer.9.*"])).copied


def test_a_head_on_the_base_alone_is_excluded_by_the_bases_names(save, base_tensors, task_tensors):
    trunk = {f"bert.{name}": tensor for name, tensor in base_tensors.items()}
    base = save("base", trunk | {"cls.bias": torch.zeros(3)})
    model = save("a", task_tensors["a"])
    assert 'exclude: ["cls.*"]' in problems(MergeConfig("average", base, [model]))[0]
    plan = check(MergeConfig("average", base, [model], exclude=["cls.*"]))
    assert "bert.layer.0.weight" in plan.merged


def test_integer_buffers_may_be_absent(save, base_tensors, task_tensors):
    without = {name: tensor for name, tensor in task_tensors["a"].items() if tensor.is_floating_point()}
    assert check(MergeConfig("average", save("base", base_tensors), [save("a", without)])).merged
    assert check(MergeConfig("average", save("base2", without), [save("b", base_tensors)])).merged


def test_another_model_is_told_by_its_names(save, base_tensors):
    base, model = save("base", base_tensors), save("a", {"other.weight": torch.zeros(2)})
    (found,) = problems(MergeConfig("average", base, [model]))
    assert "shares no tensor with the base" in found
    assert "'other.weight'" in found


def test_other_widths_are_told_with_both_shapes(save, base_tensors):
    wider = {name: torch.zeros(*tensor.shape, 2) for name, tensor in base_tensors.items()}
    wider = {name: tensor for name, tensor in wider.items() if base_tensors[name].is_floating_point()}
    base, model = save("base", base_tensors), save("a", wider)
    (found,) = problems(MergeConfig("average", base, [model]))
    assert "'embeddings.weight' has the shape [40, 8, 2], in the base" in found
    assert "[40, 8] (and 5 more tensors differ)" in found
    assert "only models that were fine-tuned from this base can be merged" in found
    assert found.count("model.safetensors") == 2


def test_other_vocabularies_are_told_as_such(save, base_tensors, task_tensors):
    model = save("a", task_tensors["a"] | {"embeddings.weight": torch.zeros(44, 8)})
    (found,) = problems(MergeConfig("average", save("base", base_tensors), [model]))
    assert "has the shape [44, 8]" in found
    assert "the vocabularies differ: give both models 40 rows with model.resize_token_embeddings(40)" in found


def test_numbers_of_another_kind_are_told(save, base_tensors, task_tensors):
    model = save("a", task_tensors["a"] | {"layer.0.bias": torch.zeros(70, dtype=torch.int64)})
    (found,) = problems(MergeConfig("average", save("base", base_tensors), [model]))
    assert "'layer.0.bias' is int64, in the base" in found
    assert "float32" in found


def test_nothing_left_to_merge(checkpoints):
    base, models = checkpoints
    assert "no tensor is left that" in problems(MergeConfig("average", base, models, exclude=["*"]))[0]


def test_a_file_that_is_cut_off_is_told(checkpoints, tmp_path):
    base, models = checkpoints
    file = tmp_path / "b" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (found,) = problems(MergeConfig("average", base, models))
    assert found.startswith("models.b: ")
    assert "cut off" in found


def test_a_model_with_pickles_of_unknown_content_is_refused(checkpoints, tmp_path):
    base, models = checkpoints
    (tmp_path / "b" / "model.safetensors").rename(tmp_path / "b" / "model.ckpt")
    assert "only pickled weights" in problems(MergeConfig("average", base, models))[0]
    (tmp_path / "b" / "model.ckpt").rename(tmp_path / "b" / "pytorch_model.bin")
    assert "or is damaged" in problems(MergeConfig("average", base, models))[0]


def test_extra_names_in_another_order_are_no_difference(save, base_tensors, task_tensors, tmp_path):
    model = save("a", {})
    safetensors.torch.save_file(
        dict(reversed(task_tensors["a"].items())), tmp_path / "a" / "model.safetensors"
    )
    assert check(MergeConfig("average", save("base", base_tensors), [model])).merged


def test_a_link_out_of_the_base_is_told_before_the_merge(checkpoints, tmp_path):
    base, models = checkpoints
    (tmp_path / base / "chat_template.jinja").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"chat_template.jinja: leads out of its folder"):
        check(MergeConfig("average", base, models))
