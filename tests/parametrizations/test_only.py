"""Only some tensors: patterns that match nothing are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from torch import nn

from saft import config
from saft.errors import UserError
from saft.parametrizations import parametrization
from saft.parametrizations.only import Only
from saft.train import TrainConfig, train


def test_every_pattern_must_match_a_tensor() -> None:
    with pytest.raises(
        UserError, match=r"parametrization: tensors: 'wieght' matches no tensor of Linear; did"
    ):
        Only(tensors=["bias", "wieght"]).wrap(nn.Linear(1, 1), lambda count: iter(()))


def test_a_tied_tensor_goes_by_any_of_its_names() -> None:
    trunk = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "head": nn.Linear(2, 3)})
    trunk["head"].weight = trunk["embedding"].weight
    Only(tensors=["head.weight"]).wrap(trunk, lambda count: iter(()))
    assert [name for name, p in trunk.named_parameters() if p.requires_grad] == ["embedding.weight"]


def test_a_tensor_goes_by_its_name_in_files_too() -> None:
    sizes = {"hidden_size": 4, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 4}
    trunk = transformers.ViTModel(transformers.ViTConfig(image_size=4, patch_size=2, **sizes))
    Only(tensors=["encoder.layer.1.*.query.weight"]).wrap(trunk, lambda count: iter(()))
    trained = [name for name, p in trunk.named_parameters() if p.requires_grad]
    assert trained == ["layers.1.attention.q_proj.weight"]


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(UserError, match="tensors: must not be empty"):
        parametrization("only", tensors=[])


@pytest.mark.parametrize("head", ["zero_shot", "linear"])
def test_tensors_that_the_loss_does_not_depend_on_are_told(
    head: str, tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Features are means over tokens, for which BERT's pooler is not asked."""
    settings = {
        "model": {"path": str(tiny_model)},
        "task": tiny_tasks["colour"] | {"head": head},
        "out": str(tmp_path / "out"),
        "training": {"steps": 2, "parametrization": {"name": "only", "tensors": ["pooler.*"]}},
        "trainer": {"accelerator": "cpu"},
    }
    with pytest.raises(UserError, match=r"^parametrization: the loss of task depends on no tensor that is t"):
        train(config.parse(TrainConfig, settings, "test"))
    assert not (tmp_path / "out" / "model.safetensors").exists()
