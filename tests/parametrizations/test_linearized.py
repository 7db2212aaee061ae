"""Linearized: the outputs are those of the first-order expansion, and their gradient is the base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from saft.errors import UserError
from saft.evaluate import EvaluateConfig, evaluate
from saft.model_config import ModelConfig
from saft.parametrizations.linearized import Linearized
from saft.tasks.generation import generate
from saft.tasks.language_model import LanguageModel
from saft.train import TrainConfig, train
from saft.training.options import TrainingOptions


def test_outputs_and_gradients_are_those_of_the_expansion_at_the_base() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    at_base = trunk(x).sum()
    slope = torch.autograd.grad(at_base, list(trunk.parameters()))
    Linearized().wrap(trunk, lambda count: iter(()))
    steps = [torch.randn_like(p) for p in trunk.parameters()]
    with torch.no_grad():
        for parameter, step in zip(trunk.parameters(), steps, strict=True):
            parameter.add_(step)
    found = trunk(x).sum()
    expected = at_base + sum((g * step).sum() for g, step in zip(slope, steps, strict=True))
    torch.testing.assert_close(found, expected)
    for own, theirs in zip(torch.autograd.grad(found, list(trunk.parameters())), slope, strict=True):
        torch.testing.assert_close(own, theirs)
    with torch.inference_mode():
        torch.testing.assert_close(trunk(x.clone()).sum(), expected.detach())


def test_batch_norms_have_no_tangent() -> None:
    trunk = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(UserError, match="parametrization: linearized: Sequential has batch norms"):
        Linearized().wrap(trunk, lambda count: iter(()))


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_t5"])
def test_what_is_generated_and_what_is_read_of_a_part_are_of_the_tangent(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """The encoder, or what is below a language head, is asked by itself; a cache would hold the base's."""
    folder, answers = request.getfixturevalue(kind), kind == "tiny_t5"
    of_kind = transformers.AutoModelForSeq2SeqLM if answers else transformers.AutoModelForCausalLM
    trunk = of_kind.from_pretrained(folder).eval()
    Linearized().wrap(trunk, lambda count: iter(()))
    given = torch.tensor([[3, 4, 5, 9]])
    part = trunk.get_encoder() if answers else trunk.base_model
    torch.manual_seed(0)
    steps, states = [torch.randn_like(p) * p.std() for p in trunk.parameters()], []
    for _ in range(3):
        states.append(part(input_ids=given).last_hidden_state.detach())
        with torch.no_grad():
            for parameter, step in zip(trunk.parameters(), steps, strict=True):
                parameter.add_(step)
    torch.testing.assert_close(states[2] - states[0], 2 * (states[1] - states[0]), rtol=1e-3, atol=1e-3)

    made = torch.full((1, 1), trunk.config.decoder_start_token_id) if answers else given
    for _ in range(6):
        inputs = {"input_ids": given, "decoder_input_ids": made} if answers else {"input_ids": made}
        made = torch.cat([made, trunk(**inputs).logits[:, -1:].argmax(-1)], 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    both = {"input_ids": given, "attention_mask": torch.ones_like(given)}
    [generated] = generate(LanguageModel(trunk), both, 6, tokenizer)
    assert generated
    assert generated == made[0, 1 if answers else 4 :][: len(generated)].tolist()


def test_an_expert_read_as_an_ordinary_model_is_told(
    tiny_model: Path,
    tiny_tasks: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = TrainConfig(
        model=ModelConfig(str(tiny_model)),
        task=tiny_tasks["colour"],
        out=str(tmp_path / "out"),
        name="colour",
        training=TrainingOptions(steps=1, parametrization={"name": "linearized"}),
        train_examples=12,
        validation_examples=6,
        trainer={"accelerator": "cpu"},
    )
    folder = train(settings).folder
    assert "tangent of the model at its base" in (folder / "README.md").read_text()
    evaluate(EvaluateConfig([str(folder)], split="validation", examples=6))
    assert "was trained linearized; it is evaluated here as the ordinary model" in capsys.readouterr().err


class _Doubled(torch.autograd.Function):
    """Has a backward, and no forward derivative."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Tensor:
        return slope * 2


class _Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = _Doubled.apply(super().forward(x))
        return doubled


def test_a_trunk_without_forward_derivatives_is_refused_before_the_first_step() -> None:
    trunk = _Doubling(1, 1)
    with pytest.raises(
        UserError, match=r"^parametrization: linearized: _Doubling has no tangent.*\Z"
    ) as caught:
        Linearized().wrap(trunk, lambda count: iter([trunk(torch.ones(1, 1)).sum()] * count))
    assert "\n" not in str(caught.value)
