"""Load a backbone by name or path; what is trunk (trained, merged) and what is head (never merged)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import transformers
import transformers.generation.utils  # every model's file imports these: else the first to load would wait
import transformers.modeling_layers
import transformers.modeling_utils
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saft import interventions
from saft.errors import UserError, abbreviated, as_user_error
from saft.files.checkpoint import holds_parts, model_config, tensor_headers, weight_files
from saft.files.locations import folder as local_folder
from saft.files.tensorfile import view
from saft.merging.inputs import task_parts
from saft.merging.inputs.adapted_model import adapted_model
from saft.merging.inputs.source import Source
from saft.model_config import ModelConfig

__all__ = [
    "Conv1D",
    "load_task",
    "is_one_model",
    "language_kind",
    "load_trunk",
    "max_tokens",
    "model_of",
    "quietly",
    "sees_only",
    "vision_kind",
]

M = TypeVar("M")


def load_trunk(config: ModelConfig, task: str | None = None, kind: Any = None) -> nn.Module:
    """Load the backbone in float32, without any head that belongs to a task.

    Args:
        config: where the model is; see `ModelConfig`.
        task: whose model to take from a folder that holds a part per task; of no matter to others.
        kind: class of transformers to load it as; default: `AutoModel`.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: the folder is absent or incomplete, weights are missing, or a weight is not finite.

    Example:
        >>> load_trunk(ModelConfig("./no-folder"))
        Traceback (most recent call last):
        saft.errors.UserError: model.path: there is no './no-folder' ...
    """
    adapted = adapted_model(config.path, "model.path")
    location = adapted.folder if adapted else local_folder(config.path, "model.path")
    if adapted is None and not holds_parts(location):
        weight_files(location)  # finds what is missing, pickled, or leads out of the folder
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "output_loading_info": True,
        "trust_remote_code": False,
    }
    trunk, missing = _without_absent_pooler(
        lambda more: _from_pretrained(config.path, location, options | more, task, kind, adapted)
    )
    if missing:
        raise UserError(
            f"model {config.path}: the weights of {abbreviated(missing, quote='')} are missing from the "
            "folder; it is not a complete checkpoint of this architecture"
        )
    for name, parameter in trunk.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"model {config.path}: tensor {name} holds NaN or infinite values")
    if task is not None and interventions.are_in(location):
        interventions.attach_from(location, trunk, task)
    trunk.eval()
    return trunk


def is_one_model(location: Path) -> bool:
    """Return whether a folder holds one model for all tasks, instead of a part or interventions per task."""
    return not (holds_parts(location) or interventions.are_in(location))


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
        weights: name -> tensor, in the shapes of the model's parameters.
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
        with quietly():
            model, info = concrete.from_pretrained(None, **options, **more)
        return model, sorted(info["missing_keys"])

    model, missing = _without_absent_pooler(load)
    if missing:
        raise UserError(
            f"{location}: lacks the weights of {abbreviated(missing, quote='')}, which "
            f"{type(model).__name__} has; give kind: a class of transformers that the weights are for, such "
            "as AutoModel"
        )
    if (location / "generation_config.json").is_file() and model.can_generate():
        model.generation_config = transformers.GenerationConfig.from_pretrained(location)
    return model.eval()


def language_kind(location: Path) -> Literal["causal", "encoder-decoder"] | None:
    """Return whether a model continues a text, or answers one; None of one that does neither, as encoders.

    Args:
        location: the model's folder, with config.json.

    Raises:
        UserError: config.json cannot be read.
    """
    settings = _settings(location)
    if settings.is_encoder_decoder:
        answers = type(settings) in transformers.AutoModelForSeq2SeqLM._model_mapping
        return "encoder-decoder" if answers else None
    # Encoders decode if their config says so; else they see the tokens that they are to predict.
    sees_all = type(settings) in transformers.AutoModelForMaskedLM._model_mapping
    if type(settings) not in transformers.AutoModelForCausalLM._model_mapping:
        return None
    return None if sees_all and not getattr(settings, "is_decoder", False) else "causal"


def vision_kind(location: Path) -> Any:
    """Return the class of transformers that a model of images is loaded as; None for a model of no images.

    Of a model that has a tower for images and one for texts, such as CLIP, it is that of the images' tower.

    Args:
        location: the model's folder, with config.json.

    Raises:
        UserError: config.json cannot be read.
    """
    settings = _settings(location)
    settings = getattr(settings, "vision_config", None) or settings
    if type(settings) not in transformers.AutoModel._model_mapping:
        return None
    kind = _concrete(transformers.AutoModel, settings)
    return kind if kind.main_input_name == "pixel_values" else None


def sees_only(location: Path) -> bool:
    """Return whether a model takes images, and does not write texts: a ViT, or CLIP with both its towers.

    Args:
        location: the model's folder, with config.json.

    Raises:
        UserError: config.json cannot be read.
    """
    return language_kind(location) is None and vision_kind(location) is not None


def max_tokens(location: Path, wanted: int) -> int:
    """Return how many of `wanted` tokens a text of a model may have: as many as it has positions.

    Args:
        location: the model's folder, with config.json.
        wanted: at least 1.

    Raises:
        UserError: config.json cannot be read, or describes a model that transformers does not have.
    """
    settings = _settings(location)
    positions = getattr(settings, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # relative positions have no end
        return wanted
    # Models after RoBERTa count positions from behind the number of the padding token.
    if wanted + 1 + (getattr(settings, "pad_token_id", None) or 0) > positions:
        modules = _empty(transformers.AutoModel, settings).named_modules()
        padding = [
            module.padding_idx + 1
            for name, module in modules
            if name.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ]
        positions -= max(padding, default=0)
    return min(wanted, positions)


def _from_pretrained(
    name: str, location: Path, options: dict[str, Any], task: str | None, kind: Any, adapted: Source | None
) -> tuple[nn.Module, list[str]]:
    kind = kind or _kind_of(location)
    with as_user_error(f"model {name}: cannot be loaded"), quietly():
        if adapted is not None:
            settings, state = _settings(location), {part: adapted.tensor(part) for part in adapted.headers}
            model, info = _concrete(kind, settings).from_pretrained(
                None, config=settings, state_dict=state, **options
            )
        elif holds_parts(location):
            model, info = _task_trunk(location, options, task, kind)
        else:
            model, info = kind.from_pretrained(location, **options)
    if info.get("mismatched_keys"):
        raise UserError(
            f"model {name}: shapes in the file and in config.json differ: {info['mismatched_keys']}"
        )
    return model, sorted(info["missing_keys"])


def _without_absent_pooler(load: Callable[[dict[str, Any]], tuple[M, list[str]]]) -> tuple[M, list[str]]:
    """Load, and once more without the pooler where only that is missing.

    Encoders are often published without the pooler, which no pooling here uses: leave it out rather than
    carry random weights into every checkpoint.
    """
    model, missing = load({})
    if missing and all(name.startswith("pooler.") for name in missing):
        return load({"add_pooling_layer": False})
    return model, missing


def _task_trunk(location: Path, options: dict[str, Any], task: str | None, kind: Any) -> Any:
    if task is None:
        raise UserError(
            f"{location}: holds a part per task, and no single model; "
            f'load a task\'s model with saft.load_task("{location}", TASK)'
        )
    weights, settings = dict(task_parts.read(location).task_tensors(task)), _settings(location)
    return _concrete(kind, settings).from_pretrained(None, config=settings, state_dict=weights, **options)


def _kind_of(location: Path) -> Any:
    """Return the class to load a trunk as: AutoModel, but for only the encoder of an encoder-decoder."""
    names = getattr(_settings(location), "architectures", None) or [""]
    own = getattr(transformers, names[0], None) if names[0].endswith("EncoderModel") else None
    return own or transformers.AutoModel


def _settings(location: Path) -> Any:
    if (declared := model_config(location)).get("auto_map"):
        known = declared.get("model_type") in transformers.models.auto.configuration_auto.CONFIG_MAPPING
        if not known:
            raise UserError(
                f"{location}: is a model whose code lies in its folder (auto_map in config.json), which saft "
                "never runs; give a model of a type that transformers has"
            )
    with as_user_error(f"{location}: its config.json cannot be read"):
        settings = transformers.AutoConfig.from_pretrained(location, trust_remote_code=False)
        names = getattr(settings, "architectures", None) or []
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"architectures must be a list of names, but is {names!r:.100}")
        return settings


def _concrete(kind: Any, settings: Any) -> Any:
    """Return the class that an `Auto` class stands for; another class is returned as it is."""
    if not kind.__name__.startswith("Auto"):
        return kind
    return type(_empty(kind, settings))


def _empty(kind: Any, settings: Any) -> Any:
    """Return a model of a config without weights: no memory is taken and nothing is drawn.

    Raises:
        UserError: transformers can make none, as of a vocabulary of -5 tokens.
    """
    place = f"{settings.name_or_path or 'model'}: no model can be made of its config.json"
    with as_user_error(place), torch.device("meta"):
        return kind.from_config(settings, trust_remote_code=False)


@contextmanager
def quietly() -> Iterator[None]:
    """Let transformers show no progress bars, and not list what of a checkpoint a trunk has no place for.

    Reading a local file takes no time worth a bar; a head that is left out is no news, and what is missing is
    told by who loads.
    """
    talk = transformers.utils.logging
    bars, level = talk.is_progress_bar_enabled(), talk.get_verbosity()
    talk.disable_progress_bar()
    talk.set_verbosity_error()
    try:
        yield
    finally:
        talk.set_verbosity(level)
        if bars:
            talk.enable_progress_bar()
