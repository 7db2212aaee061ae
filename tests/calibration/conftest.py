"""Small models with a task each, ready to be merged with data."""

from __future__ import annotations

import pytest
import torch
import transformers

from saft import calibration
from saft.calibration.data import load_calibration_data
from saft.files.checkpoint import write_manifest
from saft.merging.merge_check import check
from saft.merging.merge_config import DataConfig, MergeConfig


@pytest.fixture
def experts(tiny_model, tiny_tasks, tmp_path):
    """{task: folder} of two models near the base, each with its task in saft.json."""
    folders = {}
    for seed, (task, mapping) in enumerate(tiny_tasks.items(), start=1):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_pretrained(tiny_model)
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight) * 0.02
        folder = tmp_path / task
        model.save_pretrained(folder)
        write_manifest(folder, {"kind": "fine-tuned", "tasks": {task: mapping | {"pooling": "mean"}}})
        folders[task] = str(folder)
    return folders


@pytest.fixture
def planned(tiny_model, experts):
    """Check a merge of the experts that reads `data`."""

    def plan(method, parameters=None, **data):
        data = {"examples": 5, "batch_size": 2} | data
        settings = DataConfig(**data)
        return check(MergeConfig(method, str(tiny_model), experts, parameters or {}, data=settings))

    return plan


@pytest.fixture
def collect():
    """Collect for a plan in memory: {kind: {task: {tensor: statistic}}}."""

    def run(plan):
        collector = calibration.COLLECTORS.get(plan.method.calibration)()
        found = {}
        for task, kind, tensors in collector.collect(load_calibration_data(plan), lambda cost: None):
            found.setdefault(kind, {})[task] = tensors
        return found

    return run
