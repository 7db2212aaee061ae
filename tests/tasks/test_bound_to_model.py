"""What every kind gets of the base: a kind of five lines draws its examples and loads its trunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from saft.model_config import ModelConfig
from saft.tasks import Batch, Examples, Limits, Task, TaskModel
from saft.tasks.bound_to_model import BoundToModel
from saft.tasks.table_source import TableSource


@dataclass(frozen=True)
class Numbers(Task):
    data: TableSource

    def bind(self, *args: Any) -> Any:
        raise NotImplementedError

    def rows(self, where: str) -> dict[str, list[Any]]:
        return {"train": list(range(10)), "validation": list(range(20, 25)), "test": list(range(30, 36))}


@dataclass(frozen=True)
class BoundNumbers(BoundToModel[Numbers]):
    trunk_kind = "numbers"

    def outcomes(self, *args: Any) -> Any:
        raise NotImplementedError

    def _examples(self, rows: list[Any], training: bool) -> Examples:
        labels = torch.tensor([-number if training else number for number in rows])
        return Examples([1] * len(rows), lambda indices: Batch({}, labels[indices]))


def bound(model: Path) -> BoundNumbers:
    task, base = Numbers(TableSource("csv")), ModelConfig(str(model))
    return BoundNumbers(task, "numbers", base, "tasks.numbers", torch.device("cpu"))


def labels(examples: Examples) -> list[int]:
    return examples.collate(list(range(len(examples)))).labels.tolist()


def test_the_limits_draw_the_examples_and_a_kind_knows_those_that_are_learned(tiny_model: Path) -> None:
    splits = bound(tiny_model).examples(Limits(train=4, validation=2, test=3, seed=1))
    assert len(labels(splits.train)) == 4
    assert set(labels(splits.train)) <= set(range(-9, 1))
    assert labels(splits.validation) == [20, 21]
    assert len(labels(splits.test)) == 3
    assert set(labels(splits.test)) <= set(range(30, 36))
    everything = bound(tiny_model).examples(Limits())
    assert sorted(labels(everything.train)) == list(range(-9, 1))


def test_the_trunk_is_the_models_or_a_folders_and_no_head_is_written(
    tiny_model: Path, tmp_path: Path
) -> None:
    task = bound(tiny_model)
    trunk = task.load_trunk()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(1.0)
    trunk.save_pretrained(tmp_path / "other")  # type: ignore[operator]
    name, own = next(iter(task.load_trunk().named_parameters()))
    torch.testing.assert_close(dict(task.load_trunk(tmp_path / "other").named_parameters())[name], own + 1.0)

    class Model(TaskModel):
        def features(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            raise NotImplementedError

    task.save_head(Model(trunk, torch.nn.Linear(1, 1)), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_the_folder_says_what_class_gives_its_backbone_where_a_kind_does_not(
    tiny_model: Path, tmp_path: Path
) -> None:
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**sizes)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    assert isinstance(bound(tiny_model).load_trunk(tmp_path), transformers.T5EncoderModel)


def test_a_kind_must_say_what_its_examples_are() -> None:
    with pytest.raises(TypeError, match="_examples"):
        BoundToModel(None, "t", ModelConfig("m"), "t", torch.device("cpu"))  # type: ignore[abstract,type-var]
