"""Every file in configs/ fits the program as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from saft import config, tasks
from saft.dry_run.tiny_model import write_model
from saft.experiment.resolve import resolve
from saft.merging.methods import METHODS
from saft.merging.per_task import PerTaskMethod
from saft.model_config import ModelConfig
from saft.run import RunConfig
from saft.train import TrainConfig

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_the_config_is_valid(file: Path) -> None:
    if "task" in config.read(file):
        settings = config.parse(TrainConfig, config.read(file), str(file))
        tasks.build(settings.name, settings.task, "task")
    else:
        run = config.parse(RunConfig, config.read(file), str(file))
        resolved = resolve(run)
        assert {trial.arm for trial in resolved.trials.values()} == set(run.arms)
        assert all(merge.scaling for merge in resolved.merges.values())
        for figure in run.expected.values():
            assert figure.of in {"base", "experts", *run.merges}
            assert figure.arm is None or figure.arm in run.arms
        for name, mapping in run.tasks.items():
            tasks.build(name, mapping, "tasks")


def test_a_task_is_the_same_in_every_experiment() -> None:
    known: dict[str, dict[str, Any]] = {}
    files = [file for file in CONFIGS if file.name.startswith(("quickstart", "minilm", "text-base"))]
    assert len(files) == 5
    for file in files:
        for name, mapping in config.read(file)["tasks"].items():
            del mapping["max_length"]  # the quickstart's are shorter
            assert known.setdefault(name, mapping) == mapping
    assert len(known) == 8


def test_every_method_that_a_run_can_have_is_tried_on_the_same_experts() -> None:
    tried = config.read(CONFIGS[0].parent / "minilm-methods.yaml")["merges"]
    own = {name for name in METHODS.names() if not name.startswith("mergekit")}
    pairs, adapters = {"slerp", "nuslerp"}, {"robust_merge"}
    keeping = {name for name in own if issubclass(METHODS.get(name), PerTaskMethod)}
    assert set(tried) == own - pairs - adapters - keeping


GLUE = {  # the hub's columns and the names of its labels
    "cola": (("sentence",), ["unacceptable", "acceptable"]),
    "sst2": (("sentence",), ["negative", "positive"]),
    "mrpc": (("sentence1", "sentence2"), ["not_equivalent", "equivalent"]),
    "qqp": (("question1", "question2"), ["not_duplicate", "duplicate"]),
    "mnli": (("premise", "hypothesis"), ["entailment", "neutral", "contradiction"]),
    "qnli": (("question", "sentence"), ["entailment", "not_entailment"]),
    "rte": (("sentence1", "sentence2"), ["entailment", "not_entailment"]),
    "stsb": (("sentence1", "sentence2"), None),
}


def write_glue(folder: Path, name: str) -> dict[str, str]:
    """Write data of the hub's form; return split -> file."""
    columns, names = GLUE[name]
    kinds: dict[str, Any] = {column: datasets.Value("string") for column in columns}
    kinds["label"] = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    rows: dict[str, list[Any]] = {column: [f"rose {at % 3}" for at in range(24)] for column in columns}
    rows["label"] = [at % len(names) if names else at / 5 for at in range(24)]
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    files = {}
    for split in ("train", "validation_matched" if name == "mnli" else "validation"):
        files[split] = str(folder / f"{name}-{split}.parquet")
        table.to_parquet(files[split])
    return files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config_name", "model"),
    [("glue-roberta", "tiny_model"), ("glue-gpt2", "tiny_gpt2"), ("glue-flan-t5", "t5")],
)
def test_glue_on_data_of_the_hubs_form(
    config_name: str, model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    content = config.read(CONFIGS[0].parent / f"{config_name}.yaml")
    folder = write_model(tmp_path / "t5", "t5") if model == "t5" else request.getfixturevalue(model)
    base = ModelConfig(str(folder), content["model"].get("pooling"))
    for name, mapping in content["tasks"].items():
        here = mapping["data"] | {"path": "parquet", "files": write_glue(tmp_path, name), "options": {}}
        declared = mapping | {"data": here, "max_length": 16}
        task = tasks.build(name, declared, "tasks").bind(name, base, f"tasks.{name}")
        splits = task.examples(tasks.Limits(8, 4, 8))
        bound_model = task.model(task.load_trunk())
        assert torch.isfinite(task.loss(bound_model, splits.train.collate([0, 1, 2])))
        assert task.score(bound_model, splits.test).examples == 8
