"""Models of sentence-transformers merged in memory, with all of their modules, prompts and settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from saft.errors import Note, UserError, collecting, is_for_memory
from saft.files.sentence_modules import different_settings, told_settings
from saft.merging.inputs.config_differences import prompt_notes
from saft.merging.merge_models import by_task, merge_models

__all__ = ["merge_sentence_transformers"]


def merge_sentence_transformers(
    base: SentenceTransformer | str | Path,
    models: Mapping[str, SentenceTransformer | str | Path] | Sequence[SentenceTransformer | str | Path],
    method: str,
    **options: Any,
) -> SentenceTransformer:
    r"""Merge fine-tuned models of sentence-transformers: the trunk, and every module that has weights.

    .. math:: \theta = \theta_0 + \lambda\, m(\tau_1, \dots, \tau_K), \qquad \tau_t = \theta_t - \theta_0

    `saft merge` does the same with their folders, tensor by tensor.

    Args:
        base: the base model, or the folder to load it from.
        models: the fine-tuned ones, as {task: model} or as a list, with the modules of the base.
        method: name of a merge method that gives one model.
        **options: further keys of a merge file, see `saft.merge_models`.

    Returns:
        A copy of the base with the merged weights, in evaluation mode: its prompts, its tokenizer, its
        pooling. `save_pretrained` writes it.

    Raises:
        UserError: with every problem that was found, such as modules that are set otherwise.

    Warns:
        Note: of prompts that are others than the base's, which the result has.

    Example:
        >>> from sentence_transformers.sentence_transformer.modules import Dense
        >>> base, a, b = (SentenceTransformer(modules=[Dense(2, 2)], device="cpu") for _ in range(3))
        >>> merged = merge_sentence_transformers(base, {"a": a, "b": b}, "average")
        >>> mean = (a[0].linear.weight + b[0].linear.weight) / 2
        >>> merged[0].linear.weight.allclose(mean)
        True
    """
    tasks = by_task(models)
    given = {"base": base, **{f"models.{task}": model for task, model in tasks.items()}}
    problems = [
        f"{what}: is a {type(model).__name__}; give a SentenceTransformer or a folder"
        for what, model in given.items()
        if not isinstance(model, (SentenceTransformer, str, Path))
    ]
    if problems:
        raise UserError(*problems)
    loaded: dict[str, SentenceTransformer] = {}
    for what, model in given.items():
        with collecting(problems, f"{what}: "):
            loaded[what] = _loaded(model)
    if problems:
        raise UserError(*problems)
    for task in tasks:
        problems += _differences(f"models.{task}", loaded["base"], loaded[f"models.{task}"])
    if problems:
        raise UserError(*problems)
    stated = {what: _stated(model) for what, model in loaded.items()}
    for task in tasks:
        for note in prompt_notes(f"models.{task}", stated["base"], stated[f"models.{task}"]):
            warnings.warn(note, Note, stacklevel=2)
    models_of_tasks = {task: loaded[f"models.{task}"] for task in tasks}
    merged: SentenceTransformer = merge_models(loaded["base"], models_of_tasks, method, **options)
    return merged.eval()


def _loaded(model: SentenceTransformer | str | Path) -> SentenceTransformer:
    if not isinstance(model, (str, Path)):
        return model
    try:
        return SentenceTransformer(str(model))
    except Exception as error:  # where there is no folder it looks for one on the hub
        if is_for_memory(error):
            raise
        told = " ".join(str(error).split())[:300]
        raise UserError(
            f"'{model}' cannot be loaded by sentence-transformers: {told.removesuffix('.')}. "
            "Give the folder that save_pretrained has written"
        ) from error


def _stated(model: SentenceTransformer) -> dict[str, Any]:
    # To ask for the similarity itself would set it, where it is not.
    similarity = getattr(model, "_similarity_fn_name", None)
    return told_settings({**vars(model), "similarity_fn_name": similarity})


def _differences(what: str, base: SentenceTransformer, model: SentenceTransformer) -> list[str]:
    """Return where the modules of a model are others than the base's, one message each."""
    mine, theirs = dict(model.named_children()), dict(base.named_children())
    kinds = [[type(module).__name__ for module in x.values()] for x in (mine, theirs)]
    if kinds[0] != kinds[1]:
        return [f"{what}: has the modules {', '.join(kinds[0])}, the base {', '.join(kinds[1])}"]
    problems = []
    for name, module in mine.items():
        kind = type(module).__name__
        for key, value, other in different_settings(_settings(module), _settings(theirs[name])):
            problems.append(
                f"{what}: {kind}: {key} is {value!r}, in the base it is {other!r}: they compute differently; "
                "only models of the same modules can be merged"
            )
    return problems


def _settings(module: nn.Module) -> dict[str, Any]:
    get: Any = getattr(module, "get_config_dict", dict)
    return dict(get())
