from __future__ import annotations

import pytest
import torch
from torch import nn

from saft.optim.batch_norm import frozen_statistics


def statistics(norm: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in norm.buffers()]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_and_counter_stay_and_the_batch_normalizes(given: bool, momentum: float | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3, momentum=momentum)))
    inputs = torch.randn(8, 3)
    expected = model(inputs)
    before = statistics(model)
    with frozen_statistics([model] if given else ()):
        assert torch.equal(model(inputs), expected)
        model(torch.randn(8, 3))
    assert all(torch.equal(a, b) for a, b in zip(statistics(model), before, strict=True))
    model(torch.randn(8, 3))
    assert not torch.equal(statistics(model)[0], before[0])
    assert int(model[1][0].num_batches_tracked) == 2


def test_several_modules_called_inside_are_all_found() -> None:
    first, second = nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3))
    with frozen_statistics():
        second(first(torch.randn(4, 3)))
    assert int(first.num_batches_tracked) == int(second[0].num_batches_tracked) == 0


def test_norms_in_evaluation_and_without_statistics_are_left_as_they_are() -> None:
    evaluating = nn.BatchNorm1d(3).eval()
    stateless = nn.BatchNorm1d(3, track_running_stats=False)
    with frozen_statistics([evaluating, stateless]):
        assert evaluating.track_running_stats
        inputs = torch.randn(4, 3)
        assert torch.allclose(evaluating(inputs), inputs, atol=1e-4)  # by its statistics, not the batch's
    assert not stateless.track_running_stats


def test_nesting_and_exceptions_restore() -> None:
    norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="stop"), frozen_statistics([norm]), frozen_statistics([norm]):
        raise ValueError("stop")
    assert norm.track_running_stats
    assert not nn.modules.module._global_forward_pre_hooks


def test_the_hook_on_all_modules_is_gone_afterwards() -> None:
    with frozen_statistics():
        assert nn.modules.module._global_forward_pre_hooks
    assert not nn.modules.module._global_forward_pre_hooks
