"""The other tasks' task vectors: where the step is taken, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from saft.errors import UserError
from saft.optim import SAM, TaskVectors


def shifted(perturbation: TaskVectors, steps: int = 1) -> tuple[nn.Linear, list[dict[str, Tensor]]]:
    """Return a layer after some steps, and how far it was shifted in each of them."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), perturbation, model=model)
    shifts = []
    for _ in range(steps):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer.zero_grad()
        with optimizer.first_pass():
            shifts.append({name: value - before[name] for name, value in model.state_dict().items()})
            model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
    return model, shifts


def test_the_shift_is_along_the_task_vectors_and_no_longer_than_rho() -> None:
    vectors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -2.0])}
    _, shifts = shifted(TaskVectors(rho=0.6, vectors=vectors), steps=40)
    shares = [float(shift["bias"][0]) for shift in shifts]
    for share, shift in zip(shares, shifts, strict=True):
        torch.testing.assert_close(shift["weight"], share * vectors["weight"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(shift["bias"], share * vectors["bias"], rtol=1e-4, atol=1e-6)
    assert 0 <= min(shares) < 0.1
    assert 0.5 < max(shares) <= 0.6
    assert shares == [float(s["bias"][0]) for s in shifted(TaskVectors(rho=0.6, vectors=vectors), 40)[1]]


def test_the_gradient_is_that_of_the_shifted_weights() -> None:
    vectors = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    model, (shift,) = shifted(TaskVectors(rho=0.6, vectors=vectors))
    torch.manual_seed(0)
    there = nn.Linear(3, 2)
    start = {name: value.clone() for name, value in there.state_dict().items()}
    with torch.no_grad():
        for name, parameter in there.named_parameters():
            parameter += shift[name]
    there(torch.ones(4, 3)).square().mean().backward()
    for name, parameter in there.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(model.state_dict()[name], start[name] - 0.1 * parameter.grad)


def test_what_has_no_vector_is_not_shifted() -> None:
    _, (shift,) = shifted(TaskVectors(rho=0.6, vectors={"bias": torch.ones(2)}))
    assert not shift["weight"].any()
    assert shift["bias"].all()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (None, "vectors: are missing"),
        ({}, "of none of the trained parameters, but of nothing"),
        ({"trunk.bias": torch.ones(2)}, "of none of the trained parameters, but of trunk.bias"),
        ({"bias": torch.ones(3)}, r"bias has the shape \[3\], but the parameter's is \[2\]"),
    ],
)
def test_vectors_of_another_model_are_told(vectors: dict[str, Tensor] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        shifted(TaskVectors(vectors=vectors))


def test_vectors_are_a_mapping() -> None:
    with pytest.raises(UserError, match="vectors: must be a mapping"):
        TaskVectors(vectors=0.5)  # type: ignore[arg-type]
