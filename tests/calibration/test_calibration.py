"""Merges that read data, through `saft merge`; every method that collects goes through the same tests."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from saft import config
from saft.calibration.data import load_calibration_data, tensor_names
from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate
from saft.files.checkpoint import read_manifest, write_manifest, write_tensors
from saft.merge import MergeConfig, merge
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig
from saft.merging.methods import METHODS
from saft.model_config import ModelConfig
from saft.models import load_trunk

pytestmark = pytest.mark.slow  # trained experts, merged and evaluated

COLLECTING = [name for name, kind in METHODS.items() if kind.calibration]
QUICK = {"adamerging": {"iterations": 2}}
every_method = pytest.mark.parametrize("method", COLLECTING)


def settings(tiny_model, experts, method="fisher", **data):
    data = DataConfig(**({"examples": 4, "batch_size": 2} | data))
    return MergeConfig(method, str(tiny_model), experts, QUICK.get(method, {}), data=data)


@every_method
def test_a_merge_reads_data_and_says_which(
    tiny_model, experts, tmp_path, tmp_path_factory, method, monkeypatch
):
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    told = []
    chosen = settings(tiny_model, experts, method)
    merge(chosen, tmp_path / "out", progress=lambda done, whole: told.append((done, whole)))
    assert not list(temporary.iterdir()), "what was collected is removed"
    assert told
    assert all(0 <= done <= whole for done, whole in told)
    assert read_manifest(tmp_path / "out")["data"] == {
        "split": "validation",
        "examples": {"colour": 4, "size": 4},
        "batch_size": 2,
    }
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "Examples of the validation split were read, without their labels: 4 of colour, 4 of size." in card
    merged = transformers.AutoModel.from_pretrained(tmp_path / "out").state_dict()
    average = merge(MergeConfig("average", str(tiny_model), experts), tmp_path / "average").folder
    plain = transformers.AutoModel.from_pretrained(average).state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.allclose(merged[name], plain[name], atol=1e-6), "the data count"
    figures = evaluate(EvaluateConfig([str(tmp_path / "out")], examples=8)).figures
    assert set(figures[str(tmp_path / "out")]) == {"colour", "size"}


@every_method
def test_the_same_merge_writes_the_same_weights_and_leaves_the_random_state(
    tiny_model, experts, tmp_path, method
):
    chosen, before = settings(tiny_model, experts, method), torch.get_rng_state()
    for name in ("first", "second"):
        merge(chosen, tmp_path / name)
    assert torch.get_rng_state().equal(before)
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@every_method
def test_the_labels_are_not_looked_at(tiny_model, tiny_tasks, experts, tmp_path, method):
    def shuffled(task):
        mapping = json.loads(json.dumps(tiny_tasks[task]))
        file = Path(mapping["data"]["files"]["train"])
        head, *rows = file.read_text().splitlines()
        labels = [row.rsplit(",", 1)[1] for row in rows]
        rows = [f"{row.rsplit(',', 1)[0]},{label}" for row, label in zip(rows, reversed(labels), strict=True)]
        (tmp_path / f"{task}.csv").write_text("\n".join([head, *rows]) + "\n")
        mapping["data"]["files"]["train"] = str(tmp_path / f"{task}.csv")
        return mapping

    merge(settings(tiny_model, experts, method), tmp_path / "true")
    merge(
        settings(tiny_model, experts, method, tasks={task: shuffled(task) for task in tiny_tasks}),
        tmp_path / "shuffled",
    )
    one, other = (tmp_path / name / "model.safetensors" for name in ("true", "shuffled"))
    assert one.read_bytes() == other.read_bytes()


def test_a_check_finds_what_is_wrong_with_the_data_without_loading_a_model(
    tiny_model, tiny_tasks, experts, monkeypatch
):
    monkeypatch.setattr("saft.tasks.bound_to_model.load_trunk", None)
    monkeypatch.setattr("saft.tasks.text_reader.load_tokenizer", None)
    assert "nothing is wrong" in str(merge(settings(tiny_model, experts), None, check_only=True))

    def wrong(task="size", **changes):
        mapping = tiny_tasks["size"] | changes
        with pytest.raises(UserError) as caught:
            merge(settings(tiny_model, experts, tasks={task: mapping}), None, check_only=True)
        return str(caught.value)

    assert "data.tasks.sice: there is no model of this name; did you mean 'size'?" in wrong("sice")
    assert "data.tasks.size.kind: unknown task kind" in wrong(kind="text_clasification")
    broken = {"data": tiny_tasks["size"]["data"] | {"text": "txt"}}
    assert "there is no column 'txt' in the train split; did you mean 'text'" in wrong(**broken)
    broken = {"data": tiny_tasks["size"]["data"] | {"train": "trian"}}
    assert "there is no split 'trian'; did you mean 'train'" in wrong(**broken)
    both = {
        task: mapping | {"data": mapping["data"] | {"text": "txt"}} for task, mapping in tiny_tasks.items()
    }
    with pytest.raises(UserError) as caught:
        merge(settings(tiny_model, experts, tasks=both), None, check_only=True)
    assert len(caught.value.problems) == 2, "what is wrong with each task is told at once"


def test_a_model_without_a_task_is_told_with_the_cure(tiny_model, tiny_tasks, experts, tmp_path):
    (Path(experts["size"]) / "saft.json").unlink()
    write_manifest(Path(experts["colour"]), {"tasks": {"x": {}, "y": {}}})
    with pytest.raises(UserError) as caught:
        merge(settings(tiny_model, experts), None, check_only=True)
    first, second = caught.value.problems
    assert "saft.json says 2 tasks, none of them called 'colour'; give it: data: {tasks: {colour:" in first
    assert "saft.json says no task; give it: data: {tasks: {size: {kind: ...}}}" in second
    merge(settings(tiny_model, experts, tasks=tiny_tasks), tmp_path / "out")
    assert read_manifest(tmp_path / "out")["data"]["examples"] == {"colour": 4, "size": 4}


def test_the_test_split_cannot_be_named_and_numbers_are_checked(tiny_model, experts):
    mapping = {"method": "fisher", "base": str(tiny_model), "models": experts}
    for data, message in (
        ({"split": "test"}, "data.split: unknown value 'test'; choose from: train, validation"),
        ({"examples": 0}, "data.examples: must be at least 1, but is 0"),
        ({"batch_size": 0}, "data.batch_size: must be at least 1, but is 0"),
        ({"exmples": 1}, "data.exmples: unknown key; did you mean 'examples'?"),
    ):
        with pytest.raises(UserError) as caught:
            config.parse(MergeConfig, mapping | {"data": data}, "merge.yaml")
        assert str(caught.value) == f"merge.yaml: {message}"


def test_examples_come_from_the_split_that_was_asked_for(planned):
    found = load_calibration_data(planned("fisher", split="validation", examples=1000)).examples
    assert {task: len(examples) for task, examples in found.items()} == {"colour": 12, "size": 12}
    found = load_calibration_data(planned("fisher", split="train", examples=1000)).examples
    assert {task: len(examples) for task, examples in found.items()} == {"colour": 108, "size": 108}


def test_each_task_pools_as_it_was_trained(planned, tiny_tasks, experts):
    write_manifest(Path(experts["size"]), {"tasks": {"size": tiny_tasks["size"] | {"pooling": "cls"}}})
    data = load_calibration_data(planned("fisher"))
    assert {name: model.pooling for name, model, _ in data.each_expert()} == {"colour": "mean", "size": "cls"}


def test_a_model_is_set_to_the_weights_of_an_expert(planned, experts):
    material = load_calibration_data(planned("fisher"))
    for model, classifier, _ in material.each_expert():
        expected = load_trunk(ModelConfig(experts[model])).state_dict()
        assert all(tensor.equal(expected[name]) for name, tensor in classifier.trunk.state_dict().items())
        assert not classifier.training


def test_what_cannot_be_merged_is_taken_from_the_base(planned, experts):
    """An excluded tensor of another shape, or that a model does not have."""
    material = load_calibration_data(planned("fisher"))
    source = material.plan.models["size"]
    headers = dict(source.headers)
    del headers["pooler.dense.bias"]
    bias = "encoder.layer.0.output.dense.bias"
    headers[bias] = dataclasses.replace(headers[bias], shape=(3,))
    material.set_to(source)
    material.set_to(dataclasses.replace(source, headers=headers))
    state = material.trunk.state_dict()
    for name in ("pooler.dense.bias", bias):
        assert state[name].equal(material.plan.base.tensor(name))
    other = "encoder.layer.1.output.dense.bias"
    assert state[other].equal(source.tensor(other))


@every_method
def test_a_check_says_what_the_models_take(tiny_model, experts, method):
    result = merge(settings(tiny_model, experts, method), None, check_only=True)
    weights = sum(p.numel() for p in transformers.AutoModel.from_pretrained(tiny_model).parameters()) * 4
    assert result.examples_memory > weights
    assert "reads examples through the models, which take about" in str(result)


def test_tasks_that_were_given_are_known_to_the_merged_folder(tiny_model, tiny_tasks, experts, tmp_path):
    for folder in experts.values():
        (Path(folder) / "saft.json").unlink()
    merge(settings(tiny_model, experts, tasks=tiny_tasks), tmp_path / "out")
    assert read_manifest(tmp_path / "out")["tasks"] == tiny_tasks
    out = str(tmp_path / "out")
    assert set(evaluate(EvaluateConfig([out], examples=4)).figures[out]) == set(tiny_tasks)


def test_names_of_a_checkpoint_with_a_head(tiny_model, tmp_path):
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(transformers.AutoConfig.from_pretrained(tiny_model))
    shutil.copytree(tiny_model, tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    plan = check(MergeConfig("average", str(tmp_path / "base"), [str(tmp_path / "base")]))
    trunk = load_trunk(ModelConfig(str(tmp_path / "base")))
    names = tensor_names(trunk, plan.base)
    assert names["encoder.layer.0.output.dense.bias"] == "bert.encoder.layer.0.output.dense.bias"
    state = trunk.state_dict()
    assert all(plan.base.tensor(name).equal(state[own]) for own, name in names.items())
    trunk.register_parameter("strange", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match=r"transformers loads 'strange' from a tensor of another name"):
        tensor_names(trunk, plan.base)


def test_statistics_that_are_not_finite_are_refused(tiny_model, experts, tmp_path):
    loaded = transformers.AutoModel.from_pretrained(experts["size"]).state_dict()
    model = {name: tensor.clone() for name, tensor in loaded.items()}  # not as views of the file
    model["encoder.layer.1.intermediate.dense.weight"] *= 1e38  # finite, but the activations overflow
    write_tensors(Path(experts["size"]) / "model.safetensors", model)
    with pytest.raises(UserError, match=r"models.size: .*what was collected for '.*' holds NaN or infinity"):
        merge(settings(tiny_model, experts), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["fisher", "adamerging"])
def test_methods_of_label_probabilities_refuse_a_language_model(
    tiny_llama: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path, method: str
) -> None:
    data = {key: tiny_tasks["colour"]["data"][key] for key in ("path", "files")}
    task = {"kind": "language_modeling", "data": data, "text": "{text}"}
    config = MergeConfig(
        method=method,
        base=str(tiny_llama),
        models={"a": str(tiny_llama), "b": str(tiny_llama)},
        data=DataConfig(tasks={"a": task, "b": task}, examples=4),
    )
    for check_only in (True, False):
        with pytest.raises(UserError) as caught:
            merge(config, tmp_path / "out", check_only=check_only)
        for name, problem in zip("ab", caught.value.problems, strict=True):
            expected = f"models.{name}: this method reads the probabilities of labels, which task '{name}'"
            assert problem.startswith(expected)
