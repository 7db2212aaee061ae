"""Penalties by LoRA: those of the full change, in value and gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saft.models import Conv1D
from saft.parametrizations.lora import LoRA
from saft.penalties import PENALTIES, penalty
from saft.penalties.kronecker import summarize
from tests.contracts.test_penalties import model_of, setting

SCALE = 1.5


def of_two_forms() -> nn.Module:
    """Return a model whose hidden layer has its matrix as GPT-2 has, and whose next has a plain one."""
    model = model_of()
    torch.manual_seed(2)
    model.trunk.hidden = Conv1D(8, 6)
    nn.init.normal_(model.trunk.hidden.bias)
    return model


def with_adapters(model: nn.Module) -> nn.Module:
    LoRA(rank=2, alpha=2 * SCALE).wrap(model.trunk, lambda count: iter(()))  # type: ignore[arg-type]
    return model


def moved_both(adapted: Any, dense: Any) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Move the factors, and the dense model by their products; return layer -> A, B and the dense matrix."""
    layers = {}
    with torch.no_grad():
        for name in ("hidden", "out"):
            layer = adapted.trunk.get_submodule(name)
            down, up = (getattr(layer, key).default.weight for key in ("lora_A", "lora_B"))
            down.add_(torch.randn_like(down), alpha=0.3)
            up.add_(torch.randn_like(up), alpha=0.3)
            weight = dense.trunk.get_submodule(name).weight
            change = SCALE * up @ down
            weight.add_(change.T if name == "hidden" else change)
            layers[name] = (down, up, weight)
    return layers


@pytest.mark.parametrize("name", PENALTIES.names())
def test_by_lora_it_is_that_of_the_full_change_and_its_gradient_by_the_chain_rule(name: str) -> None:
    dense, adapted = of_two_forms(), with_adapters(of_two_forms())
    bound, expected = (penalty(name).bind(model.trunk, setting()) for model in (adapted, dense))
    assert bound.loss(adapted.trunk, 0).item() == 0
    layers = moved_both(adapted, dense)
    loss, theirs = bound.loss(adapted.trunk, 0), expected.loss(dense.trunk, 0)
    torch.testing.assert_close(loss, theirs)
    loss.backward()
    theirs.backward()
    for layer, (down, up, weight) in layers.items():
        slope = weight.grad.T if layer == "hidden" else weight.grad
        torch.testing.assert_close(down.grad, SCALE * up.T @ slope, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(up.grad, SCALE * slope @ down.T, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert bound.loss(adapted.trunk, 0).item() == pytest.approx(loss.item(), rel=0.02)


def test_kfac_by_lora_takes_the_summaries_of_the_plain_base(tmp_path: Path) -> None:
    around, files = setting(), []
    for name, source in around.reference.items():
        files.append(str(tmp_path / f"{name}.safetensors"))
        summarize(of_two_forms().trunk, source, 10).write(Path(files[-1]))
    adapted, dense = with_adapters(of_two_forms()), of_two_forms()
    bound = penalty("kfac_drift", summaries=files).bind(adapted.trunk, setting(tasks=0))
    direct = penalty("kfac_drift", examples=10).bind(adapted.trunk, around)
    moved_both(adapted, dense)
    torch.testing.assert_close(bound.loss(adapted.trunk, 0), direct.loss(adapted.trunk, 0))
