"""The adapters that a peft model holds, merged in memory: into one adapter, or into the base."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from saft.config import counted
from saft.errors import UserError, abbreviated, collecting, did_you_mean
from saft.merging.inputs.in_memory import OneAdapter, lora_factors
from saft.merging.inputs.lora_change import PREFIX, is_transposed
from saft.merging.merge_models import merge_models, plan_of
from saft.merging.merged_tensors import merged_tensors
from saft.merging.methods import METHODS
from saft.merging.notes import warn_of
from saft.merging.outputs.adapter import LowRankFit, low_rank, matrices, peft_settings
from saft.merging.plan import Plan

__all__ = ["merge_adapters", "merge_into_base"]


def merge_adapters(
    model: PeftModel,
    method: str,
    adapters: Sequence[str] | None = None,
    *,
    name: str = "merged",
    by: Literal["change", "factors"] = "change",
    rank: int | None = None,
    **options: Any,
) -> LowRankFit | None:
    r"""Merge LoRA adapters that a model holds into a further adapter of it.

    .. math:: B A \approx \lambda\, m(s_1 B_1 A_1, \dots) \quad \text{or} \quad
        B = \lambda\, m(\sqrt{s_1} B_1, \dots),\ A = \lambda\, m(\sqrt{s_1} A_1, \dots)

    By their changes, the merge is the one that `saft.merge` makes of adapter folders, factored by singular
    values. By their factors it costs nothing but the factors, and B A is not the merge of the changes: it
    holds products of one adapter's B and another's A. `robust_merge` merges changes from factors in its way.

    Args:
        model: with the adapters; it gets one more, which is not made active.
        method: name of a merge method that gives one model.
        adapters: names of those to merge, in the order of summation; default: all.
        name: of the new adapter.
        by: "change" or "factors"; the latter wants equal ranks and target modules.
        rank: of the new adapter, by changes; default: the greatest of the adapters'. It becomes no greater
            than the matrices' own, where nothing is lost.
        **options: further keys of a merge file, such as `parameters`, `scaling`, `seed`.

    Returns:
        How well the new adapter gives the merged change back; None by factors, which are not fitted.

    Raises:
        UserError: with every problem that was found; the model is as it was.

    Example:
        >>> model = PeftModel(nn.Sequential(nn.Linear(4, 3)), LoraConfig(r=2, target_modules=["0"]), "one")
        >>> model.add_adapter("two", LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
        >>> fit = merge_adapters(model, "task_arithmetic", ["one", "two"], scaling=1.0, rank=2)
        >>> sorted(model.peft_config), fit.overall < 1e-5
        (['merged', 'one', 'two'], True)

    Source: by factors as peft's `add_weighted_adapter`, which weighs each factor by √(weight · s). Differs:
    any method, and weights without a root.
    """
    problems: list[str] = []
    with collecting(problems):
        chosen = _chosen(model, adapters)
        problems += _name_problems(name, model)
    with collecting(problems):
        rank = None if rank is None else counted("rank", rank)
    if problems:
        raise UserError(*problems)
    if by == "factors":
        if rank is not None:
            raise UserError("rank: by factors it is that of the adapters; leave it out")
        if method in METHODS and METHODS.get(method).needs_adapters:
            raise UserError(f"by: '{method}' merges adapters by their changes; leave by='factors' out")
        tensors, fit = _merged_factors(model, method, chosen, options), None
    elif by == "change":
        if rank is None:
            settings = [model.peft_config[adapter] for adapter in chosen]
            rank = max(rank for one in settings for rank in (one.r, *one.rank_pattern.values()))
        pieces = {adapter: OneAdapter(model, adapter) for adapter in chosen}
        plan = plan_of(model, pieces, method, options, adapter_rank=rank)
        warn_of(plan)
        if saved := _saved_whole(model, plan):
            exclude = ", ".join(f'"{module}.*"' for module in saved)
            raise UserError(
                f"adapters: {abbreviated(saved)}: is saved whole (modules_to_save), which no further adapter "
                f"can change; leave it out with exclude=[{exclude}], or merge with merge_into_base"
            )
        tensors, fit = low_rank(plan, rank)
    else:
        raise UserError(f"by: unknown '{by}'" + did_you_mean(str(by), ["change", "factors"]))
    _add(model, name, tensors)
    return fit


def merge_into_base(
    model: PeftModel, method: str, adapters: Sequence[str] | None = None, **options: Any
) -> nn.Module:
    r"""Merge LoRA adapters that a model holds into its weights, and take all adapters out of it.

    .. math:: \theta = \theta_0 + \lambda\, m(s_1 B_1 A_1, \dots)

    The same bits as those of `saft.merge` on the folders of the adapters.

    Args:
        model: with the adapters; its weights are changed in place, as by peft's `merge_and_unload`.
        method: name of a merge method that gives one model.
        adapters: names of those to merge, in the order of summation; default: all.
        **options: further keys of a merge file, such as `parameters`, `scaling`, `seed`.

    Returns:
        The model below the adapters.

    Raises:
        UserError: with every problem that was found; the model is as it was.

    Example:
        >>> model = PeftModel(nn.Sequential(nn.Linear(4, 3)), LoraConfig(r=2, target_modules=["0"]), "one")
        >>> merge_into_base(model, "average")
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
        )
    """
    pieces = {adapter: OneAdapter(model, adapter) for adapter in _chosen(model, adapters)}
    plan = plan_of(model, pieces, method, options)
    warn_of(plan)
    merged = merged_tensors(plan)
    base: nn.Module = model.unload()
    with torch.no_grad():
        for name, tensor in base.state_dict(keep_vars=True).items():
            tensor.copy_(merged[name])
    return base


def _chosen(model: PeftModel, adapters: Sequence[str] | None) -> list[str]:
    """Return the names of the adapters to merge, or raise."""
    if not isinstance(model, PeftModel):
        raise UserError(f"model: is a {type(model).__name__}; give a model of peft's, a PeftModel")
    known = model.peft_config
    if isinstance(adapters, str) or not isinstance(adapters, Iterable | None):
        raise UserError(f"adapters: is {adapters!r}; give a list of names, such as {list(known)[:2]}")
    chosen = list(known if adapters is None else adapters)
    if not chosen:
        raise UserError("adapters: there is none to merge")
    problems = [f"adapters: {x!r} is not a name" for x in chosen if not isinstance(x, str)]
    for adapter, count in Counter(x for x in chosen if isinstance(x, str)).items():
        if adapter not in known:
            problems.append(f"adapters: there is no '{adapter}'{did_you_mean(adapter, known)}")
        elif not isinstance(known[adapter], LoraConfig):
            kind = str(known[adapter].peft_type).rpartition(".")[2]
            problems.append(f"adapters: '{adapter}' is of the kind {kind}; only those of LoRA can be merged")
        if count > 1:
            problems.append(f"adapters: '{adapter}' is given {count} times; name each once")
    if problems:
        raise UserError(*problems)
    return chosen


def _name_problems(name: object, model: PeftModel) -> Iterator[str]:
    if not isinstance(name, str):
        yield f"name: must be a text, but is {name!r}"
    elif name in model.peft_config:
        yield f"name: the model has an adapter '{name}' already; choose another, or delete it first"
    elif not name or "." in name or hasattr(nn.ModuleDict(), name):
        yield f"name: torch takes no module called '{name}'; choose another, without a dot"


def _merged_factors(
    model: PeftModel, method: str, adapters: Sequence[str], options: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the merged factors, with the root of each adapter's scale in both."""
    models: dict[str, dict[str, Tensor]] = {adapter: lora_factors(model, adapter) for adapter in adapters}
    first, *others = adapters
    forms = {adapter: {key: factor.shape for key, factor in models[adapter].items()} for adapter in adapters}
    for other in others:
        if unlike := sorted(key for key, _ in forms[first].items() ^ forms[other].items()):
            raise UserError(
                f"by: by factors, adapters have one rank and the same modules, but '{first}' and '{other}' "
                f"differ at {abbreviated(list(dict.fromkeys(unlike)))}; merge by='change'"
            )
    zeros = {key: torch.zeros_like(factor) for key, factor in models[first].items()}
    merged: dict[str, Tensor] = merge_models(zeros, models, method, **options)
    return merged


def _saved_whole(model: PeftModel, plan: Plan) -> list[str]:
    """Return the modules that are to be factored, but of which adapters keep copies."""
    base = model.get_base_model()
    modules = [weight.removesuffix(".weight") for weight in matrices(plan)]
    return [module for module in modules if isinstance(base.get_submodule(module), ModulesToSaveWrapper)]


def _as_embeddings(model: PeftModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return factors with those of embeddings as peft has them: turned round, under names of their own."""
    base, turned = model.get_base_model(), dict[str, Tensor]()
    for key, factor in tensors.items():
        module, _, side = key.removesuffix(".weight").rpartition(".lora_")
        layer = base.get_submodule(module.removeprefix(PREFIX))
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
        if isinstance(layer, nn.Embedding):
            other = "B" if side == "A" else "A"
            turned[f"{module}.lora_embedding_{other}"] = factor.T.contiguous()
        else:
            turned[key] = factor
    return turned


def _add(model: PeftModel, name: str, tensors: dict[str, Tensor]) -> None:
    """Give the model an adapter with these factors, under peft's names, and a scale of one."""
    ranks = {key.partition(".lora_")[0]: len(x) for key, x in tensors.items() if ".lora_A" in key}
    rank = max(ranks.values())
    settings = peft_settings(tensors, rank, is_transposed(_config_of(model)))
    # A pattern is of every module whose name ends so, and the first counts: the longest names come first.
    names = sorted(ranks, key=len, reverse=True) if {*ranks.values()} != {rank} else []
    patterns = {name.removeprefix(PREFIX): ranks[name] for name in names}
    config = LoraConfig(**settings, rank_pattern=patterns, alpha_pattern=dict(patterns))
    active, asking = model.active_adapters, [(p, p.requires_grad) for p in model.parameters()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fan_in_fan_out.*")  # peft decides it for each layer
        model.add_adapter(name, config)
    set_peft_model_state_dict(model, _as_embeddings(model, tensors), adapter_name=name)
    model.base_model.set_adapter(active)
    for parameter, asks in asking:  # peft would train the active adapter, also one loaded for inference
        parameter.requires_grad_(asks)


def _config_of(model: PeftModel) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    return dict(config.to_dict()) if hasattr(config, "to_dict") else {}
