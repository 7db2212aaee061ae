"""Under torch.compile nothing is compiled twice for the replay, and batch norms are still counted once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from saft.optim import SAM, Ascent, Perturbation, make_perturbation

pytestmark = pytest.mark.slow  # compilations


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


FORMS = ["closure", "method", "passes", "first_step"]


def compiled_steps(form: str, compiled: bool) -> list[Tensor]:
    """Return the weights after three steps of a form, the step itself compiled or not."""
    torch._dynamo.reset()
    model = model_of()
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.5)

    def backward() -> Tensor:
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    def closure() -> Tensor:
        optimizer.zero_grad()
        return backward()

    def passes() -> None:
        optimizer.zero_grad()
        with optimizer.first_pass():
            backward()
        with optimizer.perturbed():
            backward()
        optimizer.step()

    def first_step() -> None:
        backward()
        optimizer.first_step(zero_grad=True)
        backward()
        optimizer.second_step(zero_grad=True)

    def maybe(function: Any) -> Any:
        return torch.compile(function, backend="eager") if compiled else function

    step = maybe(optimizer.step)
    steps = {
        "closure": maybe(lambda: optimizer.step(closure)),
        "method": lambda: step(closure),
        "passes": maybe(passes),
        "first_step": maybe(first_step),
    }
    for _ in range(3):
        steps[form]()
    assert optimizer.ascent.step == 3
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("form", FORMS)
def test_a_step_that_is_compiled_whole_is_the_step(form: str) -> None:
    for found, expected in zip(compiled_steps(form, True), compiled_steps(form, False), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore")
def test_a_core_that_is_compiled_whole_puts_the_weights_back() -> None:
    torch._dynamo.reset()
    model = model_of()
    ascent = Ascent(torch.optim.SGD(model.parameters(), lr=0.1), rho_of(0.5))
    before = [p.detach().clone() for p in model.parameters()]

    def both() -> None:
        with ascent.first_pass():
            model(torch.ones(2, 4)).square().mean().backward()
        with ascent.perturbed(), ascent.replay_pass():
            model(torch.ones(2, 4)).square().mean().backward()

    torch.compile(both, backend="eager")()
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))


def rho_of(rho: float) -> Perturbation:
    return make_perturbation("sam", rho=rho)
