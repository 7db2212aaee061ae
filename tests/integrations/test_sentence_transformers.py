"""sentence-transformers' trainer under the mixin: the weights of SAM, and the parts of the loss counted once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from torch import nn

from saft.integrations.transformers import SharpnessAwareMixin
from saft.optim import is_replay

st = pytest.importorskip("sentence_transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate keeps its state in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Parts(nn.Module):
    """A loss of two parts, which the trainer logs one by one; notes which pass asks for them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.calls: list[bool] = []

    def forward(self, features: Any, labels: Any) -> dict[str, torch.Tensor]:
        self.calls.append(is_replay())
        left, right = (self.model(feature)["sentence_embedding"] for feature in features)
        return {"near": (left - right).square().mean(), "small": left.abs().mean()}


@pytest.mark.parametrize("parts", [1, 2])
def test_parts_of_the_loss_are_those_at_w(parts: int, tiny_model: Path, tmp_path: Path) -> None:
    class Mine(SharpnessAwareMixin, st.SentenceTransformerTrainer):  # type: ignore[misc, name-defined]
        pass

    data = Dataset.from_dict({"a": ["the cat", "a dog"] * 8, "b": ["a bird", "the fish"] * 8})
    logs, calls = [], []
    for kind, more in ((st.SentenceTransformerTrainer, {}), (Mine, {"sharpness_aware": {"rho": 1.0}})):
        torch.manual_seed(0)
        model = st.SentenceTransformer(str(tiny_model), device="cpu")  # with mean pooling
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        arguments = st.SentenceTransformerTrainingArguments(
            str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=parts,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=True,
        )
        loss = Parts(model)
        trainer = kind(model=model, args=arguments, train_dataset=data, loss=loss, **more)
        trainer.train()
        logs.append(trainer.state.log_history)
        calls.append(loss.calls)
    assert calls[1] == 2 * ([False] * parts + [True] * parts)
    plain, sharpness_aware = logs
    assert {"near", "small", "loss"} <= plain[0].keys()
    for key in ("near", "small", "loss"):
        assert sharpness_aware[0][key] == pytest.approx(plain[0][key], rel=1e-4)
        assert sharpness_aware[1][key] != pytest.approx(plain[1][key], rel=1e-6)
