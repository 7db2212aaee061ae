"""What a merge carries along: tasks and heads of several models, by names that tell them apart."""

from __future__ import annotations

import json
import shutil

import pytest

from saft.errors import UserError
from saft.merge import merge
from saft.merging.carried import carried
from saft.merging.inputs.peft_adapter import read_input
from saft.merging.merge_config import MergeConfig


@pytest.fixture
def expert(save, task_tensors):
    """Return a function that writes an expert with tasks, each with a text for its head, and reads it."""

    def make(name, **tasks):
        heads = {f"heads/{task}.safetensors": text for task, text in tasks.items()}
        declared = {
            task: {"kind": "text_classification", "max_length": len(text)} for task, text in tasks.items()
        }
        return save(name, task_tensors[name], **heads, **{"saft.json": json.dumps({"tasks": declared})})

    return make


def along(**models):
    return carried({name: read_input(path, name, None) for name, path in models.items()})


def test_a_task_that_several_models_call_alike_is_called_by_its_model(expert, save, base_tensors, tmp_path):
    one, two = expert("a", task="1"), expert("b", task="22")
    base, third = save("base", base_tensors), expert("c", other="3")
    merge(MergeConfig("average", base, [one, two, third]), tmp_path / "out")
    heads = {file.stem: file.read_text() for file in (tmp_path / "out" / "heads").iterdir()}
    assert heads == {"a": "1", "b": "22", "other": "3"}
    tasks = json.loads((tmp_path / "out" / "saft.json").read_text())["tasks"]
    assert {task: keys["max_length"] for task, keys in tasks.items()} == {"a": 1, "b": 2, "other": 1}


def test_one_task_of_several_models_is_one(expert):
    both = along(x=expert("a", t="1"), y=expert("b", t="1"))
    assert list(both.tasks) == list(both.heads) == ["t"]


def test_heads_that_no_name_of_a_model_tells_apart_are_refused(expert):
    one, two = expert("a", t="1", u="1"), expert("b", t="2", v="2")
    with pytest.raises(UserError, match=r"models\.y: .*differ but have one name; models of one task each"):
        along(x=one, y=two)
    shutil.copy(f"{one}/heads/t.safetensors", f"{two}/heads/t.safetensors")
    assert set(along(x=one, y=two).heads) == {"t", "u", "v"}
    with pytest.raises(UserError, match="differ but have one name"):
        along(u=expert("c", t="3"), x=one)
