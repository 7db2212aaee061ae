"""Under torch.compile nothing is compiled twice for the replay, and batch norms are still counted once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from saft.optim import SAM


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))


@pytest.mark.parametrize("fixed_storage", [False, True])
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_the_replay_uses_the_code_of_the_first_pass(fixed_storage: bool) -> None:
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = model_of()
        counter = CompileCounterWithBackend("aot_eager")
        forward = torch.compile(model, backend=counter) if compiled else model
        optimizer = SAM(
            torch.optim.AdamW(model.parameters(), lr=1e-2), rho=0.1, model=model, fixed_storage=fixed_storage
        )
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

        def closure(
            optimizer: SAM = optimizer, forward: nn.Module = forward, inputs: Tensor = inputs
        ) -> None:
            optimizer.zero_grad()
            forward(inputs).square().mean().backward()

        for _ in range(4):
            optimizer.step(closure)
        assert counter.frame_count == (1 if compiled else 0)
        results.append([p.detach().clone() for p in model.parameters()])
    for eager, compiled_ in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled_)


@pytest.mark.filterwarnings("ignore")
def test_batch_norms_in_compiled_models_are_counted_once_and_compiled_twice() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    counter = CompileCounterWithBackend("aot_eager")
    forward = torch.compile(model, backend=counter)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    for _ in range(4):
        optimizer.step(lambda: (optimizer.zero_grad(), forward(torch.randn(5, 4)).square().mean().backward()))
    assert int(model[1].num_batches_tracked) == 4
    assert counter.frame_count == 2  # once with statistics, once without
