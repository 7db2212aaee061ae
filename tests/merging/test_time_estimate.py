from __future__ import annotations

import pytest
import torch

from saft.merging import time_estimate
from saft.merging.merge_check import check
from saft.merging.merge_config import MergeConfig
from saft.merging.methods import METHODS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [name for name, kind in METHODS.items() if not (kind.calibration or kind.needs_adapters)]
)
def test_every_method_can_be_tried(save, name):
    kind = METHODS.get(name)
    folders = [save(f"{at}", {"a.weight": torch.randn(6, 5), "a.bias": torch.randn(6)}) for at in range(3)]
    models = [*folders[1:]][: int(min(2, kind.max_models))]
    plan = check(MergeConfig(name, folders[0], models))
    threads = torch.get_num_threads()
    assert 0 < time_estimate.seconds(plan) < float("inf")
    assert torch.get_num_threads() == threads
    assert plan.memory > 0


def test_empty_tensors_take_no_time(save):
    folder = save("a", {"a": torch.zeros(0, 3), "b": torch.zeros(0)})
    assert time_estimate.seconds(check(MergeConfig("ties", folder, [folder]))) == 0


def test_more_passes_and_more_models_take_longer(save, monkeypatch):
    """What is measured is replaced by a count of what is done."""
    monkeypatch.setattr("saft.merging.stream.order_statistics._SMALL", 0)
    monkeypatch.setattr(time_estimate, "clock", lambda work: 1e-9)
    monkeypatch.setattr(
        time_estimate, "_seconds_of", lambda plan, block: plan.passes * block.task_vectors.numel() * 1e-9
    )
    folders = [save(f"{at}", {"w": torch.randn(1000)}) for at in range(4)]

    def seconds(method, models, **more):
        return time_estimate.seconds(check(MergeConfig(method, folders[0], folders[1 : 1 + models], **more)))

    assert seconds("average", 2) < seconds("average", 3) < seconds("ties", 3)
    assert seconds("ties", 3) < seconds("ties", 3, arithmetic="float64")
