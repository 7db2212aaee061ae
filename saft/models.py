"""Load a backbone by name or path; what is trunk (trained, merged) and what is head (never merged)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn

from saft.errors import UserError
from saft.locations import folder as local_folder

__all__ = ["ModelConfig", "Classifier", "load_trunk", "load_tokenizer", "pool"]

Pooling = Literal["mean", "cls", "last"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class ModelConfig:
    """The pretrained model that every task starts from."""

    path: str
    """A local folder, a hub id, or package://DISTRIBUTION/path/inside."""
    pooling: Pooling = "mean"
    """How token features become one vector per text: mean over the tokens, the first token, or the last."""


def load_trunk(config: ModelConfig) -> nn.Module:
    """Load the backbone in float32, without any head.

    Args:
        config: where the model is; see `ModelConfig`.

    Returns:
        The `transformers.AutoModel`, in evaluation mode.

    Raises:
        UserError: the folder is absent or incomplete, weights are missing, or a weight is not finite.
    """
    location = local_folder(config.path, "model.path")
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    trunk, missing = _from_pretrained(config.path, location, options)
    if missing and all(name.startswith("pooler.") for name in missing):
        # Encoders are often published without the pooler, which no pooling here uses: leave it out
        # rather than carry random weights into every checkpoint.
        trunk, missing = _from_pretrained(config.path, location, options | {"add_pooling_layer": False})
    if missing:
        raise UserError(
            f"model {config.path}: the weights of {_some(missing)} are missing from the folder;"
            " it is not a complete checkpoint of this architecture"
        )
    for name, parameter in trunk.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"model {config.path}: tensor {name} holds NaN or infinite values")
    trunk.eval()
    return trunk


def load_tokenizer(config: ModelConfig) -> Any:
    """Load the tokenizer that belongs to the model.

    Raises:
        UserError: the folder holds no tokenizer.
    """
    location = local_folder(config.path, "model.path")
    if not any((location / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"model {config.path}: holds no tokenizer ({', '.join(TOKENIZER_FILES)}); copy the base model's"
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        raise UserError(f"model {config.path}: no tokenizer can be loaded: {_first_line(error)}") from None


def pool(features: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce token features to one vector per text.

    Args:
        features: [batch, tokens, width].
        attention_mask: [batch, tokens], 1 for a token and 0 for padding; padding may stand on either side.
        pooling: "mean" over the tokens, "cls" the first one, "last" the last one.

    Returns:
        [batch, width].

    Example:
        >>> features = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> [pool(features, torch.tensor([[1, 1, 0]]), p).item() for p in ("mean", "cls", "last")]
        [2.0, 1.0, 3.0]
    """
    if pooling == "mean":
        weight = attention_mask.unsqueeze(-1).to(features.dtype)
        return (features * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    index = (attention_mask if pooling == "cls" else attention_mask * positions).argmax(1)
    return features[torch.arange(features.shape[0], device=features.device), index]


class Classifier(nn.Module):
    """A trunk, which is trained and merged, and a head, which belongs to one task and never is.

    Args:
        trunk: a transformers model that returns `last_hidden_state`.
        head: maps [batch, width] to logits [batch, labels].
        pooling: see `pool`.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.pooling: Pooling = pooling

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the logits, [batch, labels]."""
        logits: Tensor = self.head(self.embed(inputs))
        return logits

    def embed(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector per text, [batch, width]."""
        features = self.trunk(**inputs).last_hidden_state
        return pool(features, inputs["attention_mask"], self.pooling)


def _from_pretrained(name: str, location: str | Path, options: dict[str, Any]) -> tuple[nn.Module, list[str]]:
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # reading a local file takes no time worth a bar
    try:
        model, info = transformers.AutoModel.from_pretrained(location, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {name}: cannot be loaded: {_first_line(error)}") from None
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    if info.get("mismatched_keys"):
        raise UserError(
            f"model {name}: shapes in the file and in config.json differ: {info['mismatched_keys']}"
        )
    return model, sorted(info["missing_keys"])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
