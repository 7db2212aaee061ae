"""TRL's trainers under the mixin: the weights of SAM, on the same batch, and each metric once, as at w."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from saft.errors import UserError
from saft.integrations.transformers import SharpnessAwareMixin
from saft.optim import is_replay

trl = pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "n",
    "o",
    "p",
]


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate keeps its state in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def tokenizer_of() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special)


def model_of(folder: Path, reward: bool = False) -> Any:
    """Return a model that lies in a folder, from which DPO loads its reference."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=len(WORDS), num_key_value_heads=2, **size, **ids)
    if reward:
        config.num_labels = 1
    kind = LlamaForSequenceClassification if reward else LlamaForCausalLM
    kind(config).save_pretrained(folder)
    return kind.from_pretrained(folder)


def data_of(name: str) -> Dataset:
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choice(WORDS[3:]) for _ in range(8))

    columns = {
        "SFT": ("text",),
        "DPO": ("prompt", "chosen", "rejected"),
        "Reward": ("chosen", "rejected"),
        "KTO": ("prompt", "completion"),
        "GRPO": ("prompt",),
        "RLOO": ("prompt",),
    }
    rows: list[dict[str, Any]] = [{column: text() for column in columns[name]} for _ in range(16)]
    if name == "KTO":
        rows = [row | {"label": i % 2 == 0} for i, row in enumerate(rows)]
    return Dataset.from_list(rows)


def trainer_of(name: str, folder: Path, rho: float | None, kind: type | None = None, **settings: Any) -> Any:
    """Return a trainer of TRL, made sharpness-aware if there is a rho."""
    base = getattr(trl, f"{name}Trainer")
    kind = kind or (base if rho is None else type(f"My{name}", (SharpnessAwareMixin, base), {}))
    arguments = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    more: dict[str, Any] = {} if rho is None else {"sharpness_aware": {"rho": rho}}
    if name in ("GRPO", "RLOO"):
        more["reward_funcs"] = lambda completions, **_: [float(c.count("a")) for c in completions]
        arguments |= {"num_generations": 4, "max_completion_length": 8}
    config = getattr(trl, f"{name}Config")(output_dir=str(folder), **(arguments | settings))
    model = model_of(folder / "model", name == "Reward")
    torch.manual_seed(0)
    return kind(model, args=config, train_dataset=data_of(name), processing_class=tokenizer_of(), **more)


def weights_of(trainer: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize(("name", "parts"), [("SFT", 1), ("SFT", 2), ("DPO", 2), ("Reward", 2), ("KTO", 2)])
def test_metrics_of_the_first_step_are_those_of_a_plain_trainer(
    name: str, parts: int, tmp_path: Path
) -> None:
    logs = []
    for rho in (None, 0.5):
        trainer = trainer_of(name, tmp_path, rho, max_steps=1, gradient_accumulation_steps=parts)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    plain, sharpness_aware = logs
    assert plain.keys() == sharpness_aware.keys()
    assert len(plain) > 6
    for key in plain.keys() - {"grad_norm"}:
        assert sharpness_aware[key] == pytest.approx(plain[key], abs=1e-5), key
    assert sharpness_aware["grad_norm"] != pytest.approx(plain["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(("name", "parts"), [("GRPO", 1), ("GRPO", 2), ("RLOO", 2)])
def test_completions_are_generated_once_and_both_passes_see_them(
    name: str, parts: int, tmp_path: Path
) -> None:
    base = getattr(trl, f"{name}Trainer")
    seen: list[tuple[bool, torch.Tensor]] = []
    generations: list[bool] = []

    class Noting(base):  # type: ignore[misc, valid-type]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((is_replay(), inputs["completion_ids"].clone()))
            return super().compute_loss(model, inputs, *args, **kwargs)

        def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
            generations.append(is_replay())
            return super()._generate_and_score_completions(*args, **kwargs)

    class Mine(SharpnessAwareMixin, Noting):
        pass

    trainer = trainer_of(name, tmp_path, 0.5, Mine, gradient_accumulation_steps=parts)
    trainer.train()
    first = [ids for replay, ids in seen if not replay]
    again = [ids for replay, ids in seen if replay]
    assert len(first) == len(again) == 2 * parts
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert generations == [False, False]
    assert trainer._step == 2 * parts


@pytest.mark.parametrize("name", ["SFT", "GRPO"])
def test_a_radius_that_vanishes_is_a_plain_trainer_and_a_large_one_is_not(name: str, tmp_path: Path) -> None:
    """Also with dropout, whose masks follow the random numbers that generation has drawn."""
    found = {}
    for rho in (None, 1e-6, 0.5):
        trainer = trainer_of(name, tmp_path, rho, optim="sgd", learning_rate=0.1)
        trainer.model.config.attention_dropout = 0.5
        for module in trainer.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5
        trainer.train()
        found[rho] = weights_of(trainer)
    for plain, near in zip(found[None], found[1e-6], strict=True):
        torch.testing.assert_close(near, plain, rtol=1e-3, atol=1e-6)
    assert any(not torch.allclose(a, b, atol=1e-5) for a, b in zip(found[None], found[0.5], strict=True))


def test_trainers_that_generate_within_the_step_are_refused_by_name(tmp_path: Path) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")

    class Mine(SharpnessAwareMixin, gkd.GKDTrainer):  # type: ignore[misc, name-defined]
        pass

    with pytest.raises(UserError, match=r"GKDTrainer\.training_step generates text.*same batch"):
        Mine(model_of(tmp_path), sharpness_aware={"rho": 0.05})
