"""Forward derivatives: of whatever a model computes, and without warnings of torch's own affairs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch
import transformers

from saft.forward_derivatives import load_forward_derivatives, with_forward_derivative

PROGRAM = """
import torch
from saft.forward_derivatives import load_forward_derivatives
load_forward_derivatives()
_, tangent = torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))
print(tangent.item())
"""


def test_neither_the_first_nor_the_next_one_warns() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("1.0", 0), done.stderr


def test_a_mixture_of_experts_has_a_forward_derivative() -> None:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    torch.manual_seed(0)
    trunk = transformers.MixtralModel(transformers.MixtralConfig(**sizes, **heads)).eval()
    before = trunk.config._experts_implementation
    base = {name: p.detach() for name, p in trunk.named_parameters()}
    change = {name: 1e-3 * torch.randn_like(p) for name, p in base.items()}

    def outputs(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        given = torch.func.functional_call(trunk, parameters, kwargs={"input_ids": torch.tensor([[1, 2, 3]])})
        states: torch.Tensor = given.last_hidden_state
        return states

    load_forward_derivatives()
    with with_forward_derivative(trunk):
        both: Any = torch.func.jvp(outputs, (base,), (change,))
    moved = both[1]
    assert trunk.config._experts_implementation == before
    ends = [outputs({name: p + sign * change[name] for name, p in base.items()}) for sign in (1, -1)]
    torch.testing.assert_close(moved, (ends[0] - ends[1]) / 2, rtol=1e-2, atol=1e-3)
