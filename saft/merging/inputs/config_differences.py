"""Where the config of a fine-tuned model contradicts its base's, though their tensors fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from saft.files.checkpoint import config_parts
from saft.files.sentence_modules import (
    MODULES,
    different_settings,
    module_files,
    module_of,
    module_settings,
    prompt_settings,
)
from saft.merging.inputs.source import Source

__all__ = ["config_notes", "config_problems", "prompt_notes"]

# The same tensors, cut or joined in another way: their sum is of no use.
_REFUSED = (
    *("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads", "head_dim", "d_kv"),
    *("encoder_attention_heads", "decoder_attention_heads", "hidden_act", "activation_function"),
    *("hidden_activation", "position_embedding_type", "num_experts_per_tok"),
)
# What is often set otherwise after fine-tuning; the merged model has the base's.
_TOLD = ("max_position_embeddings", "n_positions", "rope_theta", "rope_scaling", "rope_parameters")


def config_problems(what: str, base: Source, model: Source, excluded: Collection[str] = ()) -> Iterator[str]:
    """Yield what makes a model another than its base, though their tensors fit, one message each.

    Args:
        what: the model's place in the merge file, for messages.
        base: the base model.
        model: the fine-tuned model.
        excluded: names of the tensors that are not merged; a module of sentence-transformers' that is not
            merged may be set otherwise.
    """
    mine, theirs = model.config, base.config
    kinds = [{part["model_type"] for part in config_parts(dict(x)) if _is_name(part)} for x in (mine, theirs)]
    if all(kinds) and not kinds[0] & kinds[1]:
        stated = [" and ".join(sorted(names)) for names in kinds]
        yield _message(what, "model_type", model, stated[0], base, stated[1])
    for key, value, other in _different(mine, theirs, _REFUSED):
        yield _message(what, key, model, value, base, other)
    yield from _module_problems(what, base, model, excluded)


def _module_problems(what: str, base: Source, model: Source, excluded: Collection[str]) -> Iterator[str]:
    """Yield where the modules of sentence-transformers compute otherwise than the base's."""
    if not all(x.files and (x.folder / MODULES).is_file() for x in (model, base)):
        return
    mine, theirs = (module_settings(x.folder) for x in (model, base))
    # Of those with weights the tensors tell which there are.
    plain = [
        [settings["type"] for name, settings in x.items() if name not in module_files(source.folder)]
        for x, source in ((mine, model), (theirs, base))
    ]
    if plain[0] != plain[1]:
        mine_are, theirs_are = (", ".join(kinds) or "none" for kinds in plain)
        yield (
            f"{what}: {model.folder / MODULES}: its modules without weights are {mine_are}, in the base "
            f"({base.folder / MODULES}) {theirs_are}: they compute differently; only models of the same "
            "modules can be merged"
        )
    shared, in_base = [name for name in mine if name in theirs], [name for name in theirs if name in mine]
    if shared != in_base:
        yield (
            f"{what}: {model.folder / MODULES}: its modules come in the order {', '.join(shared)}, in "
            f"the base ({base.folder / MODULES}) {', '.join(in_base)}: they compute differently; only models "
            "of the same modules can be merged"
        )
    merged = {module_of(name) for name in base.headers.keys() - set(excluded)}
    kept = {module_of(name) for name in excluded} - merged
    for name in [name for name in shared if name not in kept]:
        for key, value, other in different_settings(mine[name], theirs[name]):
            yield (
                f"{what}: {model.folder / name}: {key} is {value!r}, in the base ({base.folder / name}) it "
                f"is {other!r}: they compute differently; only models of the same modules can be merged"
            )


def config_notes(what: str, base: Source, model: Source) -> Iterator[str]:
    """Yield where a model was made for other positions or prompts than the base, one note each.

    Args:
        what: begins each note: the model's place in the merge file.
        base: the base model.
        model: the fine-tuned model.
    """
    for key, value, other in _different(model.config, base.config, _TOLD):
        yield f"{what}: its {key} is {value}, the base's {other}; the merged model has the base's"
    yield from prompt_notes(what, *(prompt_settings(x.folder) if x.files else {} for x in (base, model)))


def prompt_notes(what: str, base: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a model of sentence-transformers was made for other prompts than the base, one note each.

    Args:
        what: begins each note: the model's place in the merge file.
        base: what is stated of the base.
        model: what is stated of the fine-tuned model; where that is nothing it was made as the base is used.
    """
    for key, value in model.items():
        if value != base.get(key):
            its = repr(base[key]) if key in base else "none"
            made = f"was made with {key} {value!r}, the base with {its}"
            yield f"{what}: {made}; the merged model has the base's"


def _different(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], keys: tuple[str, ...]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield key, value and the base's value of what both configs state, and state differently."""
    for key in keys:
        if mine.get(key) is not None and theirs.get(key) is not None and mine[key] != theirs[key]:
            yield key, mine[key], theirs[key]
    for key, part in theirs.items():
        if isinstance(part, dict) and isinstance(mine.get(key), dict) and key.endswith("_config"):
            yield from _different(mine[key], part, keys)


def _is_name(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("model_type"), str)


def _message(what: str, key: str, model: Source, value: Any, base: Source, other: Any) -> str:
    return (
        f"{what}: {model.config_place}: {key} is {value!r}, in the base ({base.config_place}) it is "
        f"{other!r}: they compute differently with their weights; only models that were fine-tuned from this "
        "base can be merged"
    )
