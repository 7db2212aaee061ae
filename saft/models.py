"""Load a backbone by name or path; what is trunk (trained, merged) and what is head (never merged)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saft import interventions
from saft.errors import UserError
from saft.files.checkpoint import holds_parts, tensor_headers
from saft.files.locations import folder as local_folder
from saft.files.tensorfile import view
from saft.merging.inputs import task_parts

__all__ = [
    "Conv1D",
    "ModelConfig",
    "Classifier",
    "load_task",
    "load_trunk",
    "load_tokenizer",
    "model_of",
    "pool",
]

M = TypeVar("M")

Pooling = Literal["mean", "cls", "last"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class ModelConfig:
    """The pretrained model that every task starts from."""

    path: str
    """A local folder, a hub id, or package://DISTRIBUTION/path/inside."""
    pooling: Pooling = "mean"
    """How token features become one vector per text: mean over the tokens, the first token, or the last."""


def load_trunk(config: ModelConfig, task: str | None = None) -> nn.Module:
    """Load the backbone in float32, without any head.

    Args:
        config: where the model is; see `ModelConfig`.
        task: whose model to take from a folder that holds a part per task; of no matter to others.

    Returns:
        The `transformers.AutoModel`, in evaluation mode.

    Raises:
        UserError: the folder is absent or incomplete, weights are missing, or a weight is not finite.
    """
    location = local_folder(config.path, "model.path")
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    trunk, missing = _without_absent_pooler(
        lambda more: _from_pretrained(config.path, location, options | more, task)
    )
    if missing:
        raise UserError(
            f"model {config.path}: the weights of {_some(missing)} are missing from the folder;"
            " it is not a complete checkpoint of this architecture"
        )
    for name, parameter in trunk.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"model {config.path}: tensor {name} holds NaN or infinite values")
    if task is not None and interventions.are_in(location):
        interventions.attach_from(location, trunk, task)
    trunk.eval()
    return trunk


def load_task(folder: str | Path, task: str, kind: Any = None) -> Any:
    r"""Load the model of one task from a folder that holds a part per task.

    .. math:: \theta_t = \theta_0 + \lambda r_t\, m_t \odot \tau \quad \text{(EMR, TALL masks)}, \qquad
       \theta_t = \theta_0 + \lambda U_t S_t V_t^\top \quad \text{(SMILE)}

    Where the merge has trained interventions, it is the merged model with those of the task attached.

    Args:
        folder: as `saft merge` has written it with a method that keeps a part per task, or with
            interventions; or a hub id.
        task: its name in the recipe of the merge.
        kind: class of transformers to load it as, such as `AutoModel`; default: the one in config.json.

    Returns:
        A plain transformers model, in evaluation mode and in the dtype of its config; its `save_pretrained`
        writes a folder that every reader takes; with interventions it refuses, since readers lose them.

    Raises:
        UserError: the folder holds one model or is damaged, or there is no such task.

    Example:
        >>> load_task("./no-folder", "colours")
        Traceback (most recent call last):
        saft.errors.UserError: folder: there is no './no-folder' ...
    """
    location = local_folder(folder, "folder")
    if interventions.are_in(location):
        weights = ((name, view(header)) for name, header in tensor_headers(location).items())
        model = model_of(location, weights, kind)
        interventions.attach_from(location, model, task)
        return model
    return model_of(location, task_parts.read(location).task_tensors(task), kind)


def model_of(location: Path, weights: Iterable[tuple[str, Tensor]], kind: Any = None) -> Any:
    """Return the model that the config in a folder describes, with weights that are not in the folder.

    Args:
        location: with config.json.
        weights: name -> tensor.
        kind: class of transformers; default: the one that the config names.

    Raises:
        UserError: there is no such class, or it has weights that are not among these.
    """
    settings = _settings(location)
    names = getattr(settings, "architectures", None) or ["AutoModel"]
    kind = kind or getattr(transformers, names[0], None)
    if kind is None:
        raise UserError(
            f"{location / 'config.json'}: transformers has no architecture '{names[0]}'; give kind"
        )
    concrete, state = _concrete(kind, settings), dict(weights)

    def load(more: dict[str, Any]) -> tuple[Any, list[str]]:
        options = {"config": settings, "state_dict": state, "dtype": "auto", "output_loading_info": True}
        with _without_bars():
            model, info = concrete.from_pretrained(None, **options, **more)
        return model, sorted(info["missing_keys"])

    model, missing = _without_absent_pooler(load)
    if missing:
        raise UserError(
            f"{location}: lacks the weights of {_some(missing)}, which {type(model).__name__} has; "
            "give kind: a class of transformers that the weights are for, such as AutoModel"
        )
    if (location / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = transformers.GenerationConfig.from_pretrained(location)
    return model.eval()


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


def _from_pretrained(
    name: str, location: Path, options: dict[str, Any], task: str | None
) -> tuple[nn.Module, list[str]]:
    try:
        with _without_bars():
            if holds_parts(location):
                model, info = _task_trunk(location, options, task)
            else:
                model, info = transformers.AutoModel.from_pretrained(location, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {name}: cannot be loaded: {_first_line(error)}") from None
    if info.get("mismatched_keys"):
        raise UserError(
            f"model {name}: shapes in the file and in config.json differ: {info['mismatched_keys']}"
        )
    return model, sorted(info["missing_keys"])


def _without_absent_pooler(load: Callable[[dict[str, Any]], tuple[M, list[str]]]) -> tuple[M, list[str]]:
    """Load, and once more without the pooler where it alone is missing.

    Encoders are often published without the pooler, which no pooling here uses: leave it out rather than
    carry random weights into every checkpoint.
    """
    model, missing = load({})
    if missing and all(name.startswith("pooler.") for name in missing):
        return load({"add_pooling_layer": False})
    return model, missing


def _task_trunk(location: Path, options: dict[str, Any], task: str | None) -> Any:
    if task is None:
        raise UserError(
            f"{location}: holds a part per task, and no single model; "
            f'load a task\'s model with saft.load_task("{location}", TASK)'
        )
    weights, settings = dict(task_parts.read(location).task_tensors(task)), _settings(location)
    kind = _concrete(transformers.AutoModel, settings)
    return kind.from_pretrained(None, config=settings, state_dict=weights, **options)


def _settings(location: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(location)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{location}: its config.json cannot be read: {_first_line(error)}") from None


def _concrete(kind: Any, settings: Any) -> Any:
    """Return the class that an `Auto` class stands for; another class is returned as it is."""
    if not kind.__name__.startswith("Auto"):
        return kind
    with torch.device("meta"):  # no memory is taken and no weight is drawn
        return type(kind.from_config(settings))


@contextmanager
def _without_bars() -> Iterator[None]:
    """Let transformers show no progress bars: reading a local file takes no time worth one."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
