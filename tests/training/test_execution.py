"""Compiled trunks, and activations that are computed again: the same trainings."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from saft import config
from saft.errors import UserError
from saft.train import TrainConfig, train
from saft.training.execution import executed
from saft.training.options import TrainingOptions

SAM = {"name": "sam", "rho": 0.05}


SETTINGS = {"training": {"steps": 4, "learning_rate": 1e-3}, "validation_examples": 8}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Compile as torch does, but for the C++, which takes a minute; returns what was called."""
    torch.compiler.reset()  # else what an earlier test has compiled is taken
    ran: list[nn.Module] = []
    real = torch.compile

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        ran.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(real, backend=counted))
    return ran


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def trained(settings: TrainConfig, out: str, **training: Any) -> dict[str, Tensor]:
    options = dataclasses.replace(settings.training, **training)
    place = Path(settings.out).parent / out
    folder = train(dataclasses.replace(settings, out=str(place), training=options)).folder
    (file,) = folder.glob("*model.safetensors")  # an adapter's has another name
    return load_file(file)


def assert_close(ours: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            ours[name], tensor, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("perturbation", [None, SAM])
def test_activations_that_are_computed_again_give_the_same_bits(
    settings: TrainConfig, perturbation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(settings, "plain", perturbation=perturbation)
    again: list[int] = []
    recompute = torch.utils.checkpoint.checkpoint

    def counted(*args: Any, **keywords: Any) -> Any:
        again.append(1)
        return recompute(*args, **keywords)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", counted)
    assert_close(
        trained(settings, "again", perturbation=perturbation, gradient_checkpointing=True),
        plain,
        rtol=0,
        atol=0,
    )
    assert again


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"perturbation": SAM},
        {"perturbation": {"name": "momentum_sam", "rho": 0.05}},
        {"penalty": {"name": "drift"}},
        {"penalty": {"name": "tau_jp"}},
        {"penalty": {"name": "kfac_drift", "every": 1}},
        {"averaging": {"name": "tail"}},
        {"parametrization": {"name": "lora", "rank": 2}, "perturbation": SAM},
    ],
)
def test_a_compiled_trunk_learns_the_same(
    settings: TrainConfig, options: dict[str, Any], compiled: list[nn.Module]
) -> None:
    plain = trained(settings, "plain", **options)
    assert not compiled
    assert_close(trained(settings, "compiled", **options, compile=True), plain, rtol=1e-4, atol=1e-5)
    assert compiled


@pytest.mark.slow
def test_both_together_train(settings: TrainConfig, compiled: list[nn.Module]) -> None:
    ours = trained(settings, "both", compile=True, gradient_checkpointing=True)
    assert compiled
    assert all(tensor.isfinite().all() for tensor in ours.values())


def test_afterwards_the_trunk_runs_as_before(compiled: list[nn.Module]) -> None:
    trunk = Doubling()
    with executed(trunk, TrainingOptions(compile=True)):
        trunk(torch.ones(1, 2))
    assert len(compiled) == 1
    trunk(torch.ones(3, 2))
    assert len(compiled) == 1


def test_what_torch_cannot_compile_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    trunk = Doubling()
    with (
        pytest.raises(
            UserError, match=r"training\.compile: torch cannot compile .* no working C\+\+ compiler"
        ),
        executed(trunk, TrainingOptions(compile=True)),
    ):
        trunk(torch.ones(1, 2))


@pytest.mark.parametrize("key", ["compile", "gradient_checkpointing"])
def test_the_tangent_of_a_model_goes_with_neither(key: str) -> None:
    options = {key: True, "parametrization": {"name": "linearized"}}
    with pytest.raises(UserError, match=f"{key}: does not go with parametrization: linearized"):
        config.parse(TrainingOptions, options, "test")
