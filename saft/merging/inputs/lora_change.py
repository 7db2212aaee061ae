"""What LoRA adapters change: the base's tensors, with the change added as they are read."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saft.config import Range
from saft.errors import UserError, abbreviated
from saft.files.checkpoint import config_parts
from saft.files.tensorfile import TensorHeader, view
from saft.merging.inputs.class_names import names_in
from saft.merging.inputs.factors import Factors
from saft.merging.inputs.source import Source
from saft.merging.inputs.tensor_names import is_vocabulary

__all__ = ["PREFIX", "LoraAdapter", "adapted", "is_transposed", "refusals", "scale_of"]

PREFIX = "base_model.model."
_FACTORS = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_embedding_A": "embedding A",
    "lora_embedding_B": "embedding B",
}
# What leaves W + scale · B A as it is; anything else that is set is refused by its name.
_HARMLESS = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying"),
    *("eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights"),
    *("layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core"),
    *("modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision"),
    *("runtime_config", "target_modules", "task_type", "use_rslora"),
}
_INITS = (True, False, "gaussian", "eva", "orthogonal")  # the others move the base's weights
_LONGEST_PATTERN = 1000
_SLOW = re.compile(r"[*+}]\)+[*+{]")  # repetition of a repetition, on which matching may never end
_WITH_WORD_HEAD = re.compile(r"CausalLM|MaskedLM|LMHead|DoubleHeads|PreTraining|Generation")
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # their matrices are [in, out]


@dataclass(frozen=True)
class LoraAdapter:
    """What an adapter is made of, be it of a folder or of a model in memory.

    Args:
        folder: that holds it; of an adapter in memory, what messages call it.
        config: what its adapter_config.json says.
        headers: name, as peft writes it -> where the tensor lies.
        weights: the file of its tensors, for messages.
        config_place: where its config is, for messages.
        files: that are read, for their digests.
        beside: tensors that stand beside the adapted model, under the names that a merge has for them: those
            of sentence-transformers' modules, which are trained as a whole.
    """

    folder: Path
    config: Mapping[str, Any]
    headers: Mapping[str, TensorHeader]
    weights: Path
    config_place: str
    files: Sequence[Path] = ()
    beside: Mapping[str, TensorHeader] = field(default_factory=dict)


@dataclass(frozen=True)
class _Change:
    """What an adapter does to a tensor: it puts another in its place, adds scale · B A, or both."""

    down: TensorHeader | None = None
    up: TensorHeader | None = None
    scale: float = 1.0
    transposed: bool = False
    replacement: TensorHeader | None = None

    def factors(self) -> Factors | None:
        """Return the factors as matrices, float32; None where there is no product."""
        if self.down is None or self.up is None:
            return None
        up, down = (view(header).float().flatten(1) for header in (self.up, self.down))
        return Factors(down, up, self.scale, self.transposed)


@dataclass(frozen=True)
class _Adapted(Source):
    """A base with an adapter merged in, tensor by tensor, as it is read.

    Args:
        base: that the adapter was trained on.
        changes: name of a tensor -> what becomes of it.
    """

    base: Source = field(kw_only=True)
    changes: Mapping[str, _Change] = field(kw_only=True)

    @property
    def computes(self) -> bool:
        return True

    def tensor(self, name: str) -> Tensor:
        change = self.changes.get(name)
        saved = change.replacement if change else None
        weight = self.base.tensor(name) if saved is None else view(saved)
        factors = change.factors() if change else None
        return weight if factors is None else factors.change(weight.shape).add_(weight)

    def factors(self, name: str, base: Source) -> Factors | None:
        change = self.changes.get(name)
        # What is saved whole as well is no longer the base with a product added.
        if change is None or change.replacement is not None:
            return None
        return change.factors() if self._is_of(base) else None

    def keeps(self, name: str, base: Source) -> bool:
        return name not in self.changes and self._is_of(base)

    def _is_of(self, base: Source) -> bool:
        return base is self.base or (bool(base.files) and base.files == self.base.files)


def adapted(
    location: str, adapter: LoraAdapter, base: Source, config: Mapping[str, Any] | None = None
) -> Source:
    r"""Return a base with an adapter merged in, tensor by tensor, as it is read.

    .. math:: W + s B A, \qquad s = \alpha / r \text{ or, for rsLoRA, } \alpha / \sqrt r

    Args:
        location: of the result, for messages.
        adapter: of peft's LoRA.
        base: that it changes.
        config: of the adapted model; default: the base's.

    Raises:
        UserError: the adapter is more than LoRA, or does not fit its base.
    """
    problems = list(refusals(adapter.config_place, adapter.config))
    if problems:
        raise UserError(*problems)
    file = adapter.weights
    modules, saved = _sorted(file, adapter.headers)
    changes = {name: _Change(replacement=header) for name, header in adapter.beside.items()}
    headers = {**base.headers, **adapter.beside}
    in_base = names_in(base, [*saved, *(f"{module}.weight" for module in modules)])
    for key, header in saved.items():
        name = in_base.get(key, key)
        if other := _tie(name, base):
            problems.append(_tied(file, key, other))
        changes[name] = _Change(replacement=header)
        headers[name] = header
    replaced = dataclasses.replace(base, headers=headers) if saved else base
    absent = []
    for module, parts in modules.items():
        name = in_base.get(f"{module}.weight", f"{module}.weight")
        if name not in base.headers and not _tie(name, base):
            absent.append(name)
            continue
        if problem := _misfit(file, module, name, parts, replaced):
            problems.append(problem)
            continue
        low_rank = _low_rank(adapter.config, module, parts, headers[name].shape, base)
        changes[name] = dataclasses.replace(changes.get(name, _Change()), **low_rank)
        headers[name] = dataclasses.replace(headers[name], dtype=torch.float32, file=file, stored=None)
    if absent:
        matrices = [name for name, header in base.headers.items() if header.shape[1:]]
        problems.append(
            f"{file}: changes {abbreviated(absent)}, which the base {base.folder} lacks: it has "
            f"{abbreviated(matrices)}; is the adapter of another base?"
        )
    if problems:
        raise UserError(*problems)
    if not changes:
        raise UserError(f"{file}: holds no tensor of an adapter")
    return _Adapted(
        location,
        adapter.folder,
        headers,
        base.tied,
        base.config if config is None else config,
        [*base.files, *adapter.files],
        base=base,
        changes=changes,
    )


def refusals(file: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each feature of an adapter beyond plain LoRA, and each value that is damaged."""
    cure = "merge it with peft (merge_and_unload) and give the folder of the result"
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        yield f"{file}: is a {kind} adapter; of peft's adapters saft knows only LORA: {cure}"
        return
    for key, value in config.items():
        if value and key not in _HARMLESS:
            yield f"{file}: {key}: {value!r} is more than plain LoRA, which is all that saft knows: {cure}"
    alphas = config.get("alpha_pattern") or {}
    if not isinstance(alphas, Mapping):
        yield f"{file}: alpha_pattern: must be a mapping of modules to numbers, but is {alphas!r}"
        alphas = {}
    for key, value in {"lora_alpha": config.get("lora_alpha", 8), **alphas}.items():
        if problem := Range().problem(value):
            yield f"{file}: {key}: {problem}; take the file that peft wrote"
    for key in alphas:
        if _SLOW.search(key) or not _is_pattern(key):
            yield f"{file}: alpha_pattern: {key!r} is not a name or a pattern that can be matched: {cure}"
    init = config.get("init_lora_weights", True)
    if init not in _INITS:
        yield f"{file}: init_lora_weights: '{init}' may have moved the base's own weights: {cure}"


def _is_pattern(key: str) -> bool:
    try:
        re.compile(key)
    except (re.error, RecursionError, OverflowError):
        return False
    return len(key) <= _LONGEST_PATTERN


def _sorted(
    file: Path, headers: Mapping[str, TensorHeader]
) -> tuple[dict[str, dict[str, TensorHeader]], dict[str, TensorHeader]]:
    """Return module -> its two factors, and the names of whole tensors -> those tensors."""
    modules: dict[str, dict[str, TensorHeader]] = {}
    saved = {}
    for key, header in headers.items():
        # What a module that is saved whole was before: of it `bias: all` saves the bias.
        if ".original_module." in key:
            continue
        # The name of the adapter, `default`, is left in some files: lora_A.default.weight
        name = re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", key.removeprefix(PREFIX))
        for ending, factor in _FACTORS.items():
            if name.endswith("." + ending):
                modules.setdefault(name.removesuffix("." + ending), {})[factor] = header
                break
        else:
            if "lora_" in name or "token" in name.rpartition(".")[2]:
                raise UserError(f"{file}: '{key}' does not belong to plain LoRA; merge it with peft")
            saved[re.sub(r"\.(modules_to_save(\.default)?|base_layer)\.", ".", name)] = header
    return modules, saved


def _misfit(
    file: Path, module: str, name: str, parts: Mapping[str, TensorHeader], base: Source
) -> str | None:
    """Return what keeps the factors from being added to the base's tensor, or None."""
    if other := _tie(name, base):
        return _tied(file, module, other)
    if set(parts) not in ({"A", "B"}, {"embedding A", "embedding B"}):
        return f"{file}: '{module}' has {', '.join(sorted(parts))} only, but needs both factors"
    down, up = (parts[key].shape for key in sorted(parts))
    shape = base.headers[name].shape
    ends = (up[0], math.prod(down[1:]))
    fits = ends[0] == shape[0] and math.prod(shape[1:]) == ends[1] if shape else False
    if not down[0] or down[0] != up[1] or not (fits or shape == ends[::-1]):
        return (
            f"{file}: '{module}' has the factors {list(up)} and {list(down)}, which do not make the base's "
            f"{list(shape)}"
        )
    return None


def _tie(name: str, base: Source) -> str | None:
    """Return what is tied to a tensor, or None."""
    if name in base.tied:
        return base.tied[name]
    if is_vocabulary(name) and _ties_words(name, base):
        return "the head or the embeddings"
    return next((head for head, trunk in base.tied.items() if trunk == name), None)


def _ties_words(name: str, base: Source) -> bool:
    """Return whether a matrix of words is a language head's as well, or a second stack's embeddings.

    Where config.json does not say it, as transformers 4 did not, it is so if a model with such a head has
    stored one matrix of words alone.
    """
    parts = config_parts(dict(base.config))
    stated = [part["tie_word_embeddings"] for part in parts if "tie_word_embeddings" in part]
    classes = base.config.get("architectures")
    has_head = not isinstance(classes, list) or any(_WITH_WORD_HEAD.search(str(each)) for each in classes)
    if stated:
        return True in stated and (has_head or name.endswith("shared.weight"))
    words = [key for key, header in base.headers.items() if is_vocabulary(key) and len(header.shape) == 2]
    return bool(classes) and has_head and len(words) == 1


def _tied(file: Path, module: str, other: str) -> str:
    return (
        f"{file}: changes '{module}', which the base ties to '{other}', and that would change with it; "
        "merge the adapter with peft into a base with tie_word_embeddings: false"
    )


def _low_rank(
    config: Mapping[str, Any],
    module: str,
    parts: Mapping[str, TensorHeader],
    shape: tuple[int, ...],
    base: Source,
) -> dict[str, Any]:
    """Return the fields of a change that adds scale · B A."""
    embedding = "embedding A" in parts
    down, up = (parts[key] for key in sorted(parts))
    scale = scale_of(config, module, down.shape[0])
    ends = (up.shape[0], math.prod(down.shape[1:]))
    flipped = embedding or bool(config.get("fan_in_fan_out")) or is_transposed(base.config)
    fits = (ends[0], ends[1]) == (shape[0], math.prod(shape[1:]))
    transposed = shape == ends[::-1] and (flipped or not fits)
    return {"down": down, "up": up, "scale": scale, "transposed": transposed}


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return the factor that peft multiplies B A by.

    Args:
        config: of the adapter.
        module: name of the module that it changes.
        rank: of its factors there.

    Example:
        >>> scale_of({"lora_alpha": 8, "alpha_pattern": {"value": 4}}, "layer.0.value", rank=2)
        2.0
    """
    alpha = _of_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(pattern: Mapping[str, Any], module: str, default: float) -> float:
    """Return the value of the first pattern that a module's name ends with, as peft does."""
    values = (value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module))
    return float(next(values, default))


def is_transposed(config: Mapping[str, Any]) -> bool:
    """Return whether a model stores the matrices of its layers as [in, out], by its config.

    Example:
        >>> is_transposed({"model_type": "gpt2"})
        True
    """
    return config.get("model_type") in _TRANSPOSED
