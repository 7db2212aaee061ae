"""Models in memory as inputs of a merge: modules, state dicts, adapters of a peft model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saft.errors import UserError, abbreviated, did_you_mean
from saft.files.plain_tensors import not_plain
from saft.files.sentence_modules import folder_name_of
from saft.files.tensorfile import TensorHeader
from saft.merging.inputs.class_names import names_in
from saft.merging.inputs.experts import by_expert, fused_names
from saft.merging.inputs.lora_change import PREFIX, LoraAdapter, adapted, refusals, scale_of
from saft.merging.inputs.quantization import quantization_problem
from saft.merging.inputs.source import Source, ties
from saft.stored_names import experts_in_files, names_in_files

__all__ = [
    "OneAdapter",
    "adapter_in_memory",
    "has_adapters",
    "in_memory",
    "lora_factors",
    "tensors_of",
    "without_adapters",
]

# Where a module that peft has changed keeps its own weights, and where those of each adapter.
_OWN = re.compile(r"\.(base_layer|original_module)\.")
_OF_ADAPTER = re.compile(r"^(.*)\.(lora_\w+|modules_to_save)\.([^.]+)(\..*)?$")
_MATRIX = re.compile(r"\.lora_[AB]\.weight$")


@dataclass(frozen=True)
class OneAdapter:
    """One of the adapters that a peft model holds, be it active or not.

    Args:
        model: a `PeftModel`, or the model that it has changed.
        name: of the adapter.
    """

    model: nn.Module
    name: str


def in_memory(model: nn.Module | Mapping[str, Tensor], is_base: bool = False) -> Source:
    """Return a module or a state dict as an input of a merge; of a peft model, the model below its adapters.

    Nothing is copied: the tensors of the source are those of the model.

    Args:
        model: anything with a `state_dict()`, or a mapping of names to tensors.
        is_base: it is what others are compared with, so its tensors are those that its files would have:
            each expert of a mixture by itself, where the class of transformers has them fused.

    Raises:
        UserError: what it holds are not plain tensors, or they are quantized.

    Example:
        >>> in_memory(nn.Linear(2, 1)).headers["weight"].shape
        (1, 2)
    """
    place = f"<{type(model).__name__} in memory>" if isinstance(model, nn.Module) else "<state dict>"
    config = _config(model)
    headers = _headers(tensors_of(model), place)
    if problem := quantization_problem(Path(place), headers, config):
        raise UserError(problem)
    tied = ties(headers, {})  # in memory tied tensors are one; what is only equal here may differ in others
    stored = {name: header for name, header in headers.items() if name not in tied}
    source = Source(place, Path(place), stored, tied, config)
    if not is_base or not isinstance(model, nn.Module):
        return source
    below: Any = getattr(model, "get_base_model", lambda: model)()
    fused = fused_names(headers)
    in_files = names_in_files(below, [name for name in headers if name not in fused])
    source = dataclasses.replace(source, in_files=in_files)
    return by_expert(source, experts_in_files(below, fused[0])) if fused else source


def adapter_in_memory(model: nn.Module, name: str | None, base: Source) -> Source:
    """Return a base with an adapter merged in that a peft model holds in memory.

    Args:
        model: the peft model; its own weights below the adapters are those of `base`.
        name: of the adapter; None takes the one that is active.
        base: of the merge.

    Raises:
        UserError: there is no such adapter, it is more than LoRA, does not fit the base, or was trained on
            other weights.
    """
    within, configs = _adapters(model)
    if name is None:
        name = _active(model, configs)
    if name not in configs:
        raise UserError(f"there is no adapter '{name}'{did_you_mean(name, configs)}")
    place = f"<adapter '{name}' of {type(model).__name__}>"
    config = configs[name].to_dict()
    if problem := _bias_problem(place, config):
        raise UserError(problem)
    merged = [at for at, module in model.named_modules() if getattr(module, "merged_adapters", None)]
    if merged:
        raise UserError(
            f"{place}: is added to the weights of {abbreviated(merged)} already; call unmerge_adapter()"
        )
    in_folder, state = folder_name_of(model), _state(model)
    beside, below = dict[str, Tensor](), dict[str, Tensor]()
    own_tensors = _own_tensors(within, state)
    in_base = names_in(base, [in_folder(key) for key in own_tensors])
    for key, tensor in own_tensors.items():
        known = in_base.get(in_folder(key), in_folder(key))
        if key.startswith(within):
            below[known] = tensor
        elif known not in base.tied:
            beside[known] = tensor
    _refuse_other_weights(place, below, base)
    own = {in_folder(_below(within, key)): tensor for key, tensor in _of_adapter(state, name)}
    adapter = LoraAdapter(
        Path(place),
        config,
        _headers(own, place),
        weights=Path(place),
        config_place=f"config of {place}",
        beside=_headers(beside, place),
    )
    return adapted(place, adapter, base)


def lora_factors(model: nn.Module, name: str) -> dict[str, Tensor]:
    r"""Return the factors of an adapter, :math:`\sqrt{s} A` and :math:`\sqrt{s} B`, under peft's names.

    Of a negative scale the sign is in B.

    Args:
        model: the peft model.
        name: of the adapter.

    Returns:
        Name -> factor: A is [rank, inputs], B [outputs, rank].

    Raises:
        UserError: the adapter is more than LoRA of matrices.
    """
    settings = _adapters(model)[1][name].to_dict()
    place = f"<adapter '{name}' of {type(model).__name__}>"
    problems = list(refusals(f"config of {place}", settings))
    if problem := _bias_problem(place, settings):
        problems.append(problem)
    tensors = dict(_of_adapter(_state(model), name))
    others = [key for key in tensors if not _MATRIX.search(key)]
    if others:
        problems.append(
            f"{place}: changes {abbreviated(others)}, which has no factors of matrices; merge by='change'"
        )
    if problems:
        raise UserError(*problems)
    scaled = {}
    for key, tensor in tensors.items():
        down = ".lora_A." in key
        module = _MATRIX.sub("", key).removeprefix(PREFIX)
        scale = scale_of(settings, module, tensor.shape[0 if down else 1])
        root = abs(scale) ** 0.5
        scaled[key] = tensor.detach() * (root if down or scale > 0 else -root)
    return scaled


def _bias_problem(place: str, settings: Mapping[str, Any]) -> str | None:
    if settings.get("bias", "none") == "none":
        return None
    return (
        f"{place}: bias: {settings['bias']!r}: its biases are in the model, for all adapters; give the "
        "folder that save_pretrained has written"
    )


def has_adapters(model: object) -> bool:
    """Return whether a model is one that peft has put adapters into."""
    return isinstance(model, nn.Module) and bool(_adapters(model)[1])


def tensors_of(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return name -> tensor, those of the model itself; of a peft model, of the model below its adapters.

    Args:
        model: a module, or a state dict, with tensors of any shape.

    Raises:
        UserError: something else is among them, or a tensor that is not whole and dense.
    """
    if not isinstance(model, nn.Module):
        return _state(model)
    (place, configs), state = _adapters(model), _state(model)
    in_folder, own = folder_name_of(model), _own_tensors(place, state) if configs else state
    return {in_folder(name): tensor for name, tensor in own.items()}


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Have a model compute as the model below its adapters does; of one without adapters nothing changes.

    Args:
        model: in which peft may have put adapters, wherever in it.
    """
    layers = [layer for layer in _layers(model) if not layer.disable_adapters]
    trainable = [(weight, weight.requires_grad) for weight in model.parameters()] if layers else []
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for weight, was in trainable:  # peft makes all of the active adapter trainable
            weight.requires_grad_(was)


def _layers(model: nn.Module) -> list[Any]:
    """Return the layers of a model that peft has put adapters into."""
    return [x for x in model.modules() if isinstance(getattr(x, "disable_adapters", None), bool)]


def _state(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return name -> tensor, with those of adapters."""
    if not isinstance(model, (nn.Module, Mapping)):
        raise UserError(f"is {model!r:.60}, and neither a module nor a state dict, {{name: tensor}}")
    whole = isinstance(model, nn.Module)
    state: Mapping[str, Any] = model.state_dict(keep_vars=True) if isinstance(model, nn.Module) else model
    by_name: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise UserError(f"{name!r}: is not the name of a tensor; give a state dict, {{name: tensor}}")
        if isinstance(tensor, Tensor):
            by_name[name] = tensor
            if problem := not_plain(tensor):
                raise UserError(f"'{name}': {problem}")
        elif whole:  # a module's extra state
            continue
        elif isinstance(tensor, Mapping) and any(isinstance(entry, Tensor) for entry in tensor.values()):
            raise UserError(f"'{name}': is a state dict itself; give that one: checkpoint['{name}']")
        else:
            raise UserError(
                f"'{name}': is {tensor!r:.60}, and not a tensor; give a state dict, {{name: tensor}}"
            )
    if not by_name:
        raise UserError(f"{type(model).__name__} has no tensor")
    return by_name


def _headers(tensors: Mapping[str, Tensor], place: str) -> dict[str, TensorHeader]:
    """Return name -> header; those of the same memory are one tensor, which `ties` finds by their places."""
    return {
        name: TensorHeader(
            tensor.dtype,
            tuple(tensor.shape),
            Path(place),
            (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes),
            tensor.detach(),
        )
        for name, tensor in tensors.items()
    }


def _config(model: object) -> dict[str, Any]:
    """Return what config.json would say of a model of transformers'; of any other, an empty mapping."""
    to_dict: Callable[[], Any] | None = getattr(getattr(model, "config", None), "to_dict", None)
    config = to_dict() if callable(to_dict) else {}
    return config if isinstance(config, dict) else {}


def _adapters(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return where in a model peft has put adapters, and which.

    Returns:
        What the names of the tensors there begin with, "" where it is the model itself, or there are none;
        name -> config of each adapter.

    Raises:
        UserError: there are several such parts.
    """
    holders: dict[str, dict[str, Any]] = {}
    for place, module in model.named_modules():
        within = any(place.startswith(f"{above}.") for above in holders)
        if not within and isinstance(configs := getattr(module, "peft_config", None), dict) and configs:
            if not place:
                return "", configs  # the others are within it
            holders[place] = configs
    if len(holders) > 1:
        raise UserError(
            f"{type(model).__name__} has adapters in {abbreviated(holders)}; merge "
            "them into their models first: merge_and_unload()"
        )
    return next(((f"{place}.", configs) for place, configs in holders.items()), ("", {}))


def _below(place: str, name: str) -> str:
    """Return the name that a tensor has in the model below its adapters, which are at a place in it."""
    return f"{place}{name.removeprefix(place).removeprefix(PREFIX)}" if name.startswith(place) else name


def _own_tensors(place: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return name -> tensor of the model below adapters that are at a place in it."""
    return {
        _OWN.sub(".", _below(place, name)): tensor
        for name, tensor in state.items()
        if not _OF_ADAPTER.match(name)
    }


def _active(model: nn.Module, configs: Mapping[str, Any]) -> str:
    # Of the layers: models of transformers' tell it only with some versions of peft.
    names: list[Any] = next((layer.active_adapters for layer in _layers(model)), [])
    if len(names) != 1:
        raise UserError(
            f"{type(model).__name__} has the adapters {', '.join(configs)}, of which one must be "
            "active: model.set_adapter(NAME); saft.integrations.peft merges those of one model"
        )
    return str(names[0])


def _of_adapter(tensors: Mapping[str, Tensor], adapter: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an adapter, under the names that peft's files have for them."""
    for name, tensor in tensors.items():
        if (match := _OF_ADAPTER.match(name)) and match[3] == adapter:
            kind = "" if match[2] == "modules_to_save" else f".{match[2]}"
            yield f"{match[1]}{kind}{match[4] or ''}", tensor


def _refuse_other_weights(place: str, own: Mapping[str, Tensor], base: Source) -> None:
    """Refuse an adapter that was trained on other weights than those of the base."""
    for name, tensor in own.items():
        if name not in base.headers:
            continue
        theirs = base.tensor(name)
        if theirs.data_ptr() == tensor.data_ptr() and theirs.device == tensor.device:
            continue
        if theirs.shape != tensor.shape or not torch.equal(theirs.to(tensor), tensor.detach()):
            raise UserError(
                f"{place}: was added to other weights than the base's, {base.location}: '{name}' differs; "
                "give the model with its adapter merged in (merge_and_unload)"
            )
