"""A fine-tuned model under its base's tensor names, and how it may differ from it before it is refused."""

from __future__ import annotations

import dataclasses
import fnmatch
import mmap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from saft.errors import abbreviated
from saft.files.tensorfile import TensorHeader
from saft.merging.inputs.class_names import other_names
from saft.merging.inputs.experts import are_fused, are_separate, separated
from saft.merging.inputs.factors import Factors
from saft.merging.inputs.same_numbers import same_numbers
from saft.merging.inputs.source import Source
from saft.merging.inputs.tensor_names import is_positions, is_vocabulary, rename

__all__ = ["beside_tower", "differences", "factors_differ", "fitted", "rows_differ"]


@dataclass(frozen=True)
class _Fitted(Source):
    """A source under other names, some of its tensors with as many rows as the base's.

    Args:
        original: whose tensors they are.
        names: name -> the original's name.
        base: of the rows that the original lacks.
    """

    original: Source = field(kw_only=True)
    names: Mapping[str, str] = field(kw_only=True)
    base: Source = field(kw_only=True)

    @property
    def computes(self) -> bool:
        lacking = (
            header.shape[:1] > self.original.headers[self.names[name]].shape[:1]
            for name, header in self.headers.items()
        )
        return self.original.computes or any(lacking)

    @property
    def weight_files(self) -> set[Path]:
        return set() if self.computes else self.original.weight_files

    def mapped(self, files: Mapping[Path, mmap.mmap]) -> Source:
        return self if self.computes else dataclasses.replace(self, original=self.original.mapped(files))

    def tensor(self, name: str) -> Tensor:
        stored, shape = self.original.tensor(self.names[name]), self.headers[name].shape
        if tuple(stored.shape) == shape:
            return stored
        if len(stored) > shape[0]:
            return stored[: shape[0]]
        missing = self.base.tensor(name)[len(stored) :]
        dtype = torch.promote_types(stored.dtype, missing.dtype)  # so that the base's rows stay as they are
        return torch.cat([stored.to(dtype), missing.to(dtype)])

    def factors(self, name: str, base: Source) -> Factors | None:
        return self.original.factors(self.names[name], base)

    def keeps(self, name: str, base: Source) -> bool:
        return self.original.keeps(self.names[name], base)


def fitted(base: Source, model: Source, vocabulary: str = "refuse") -> Source:
    """Return `model` with the base's names, when only a prefix, a tie or fused experts set them apart.

    A model with a head names its trunk `bert.encoder...`, the bare model `encoder...`; either may be the
    base. Of tied tensors the base may store one, another, or each.

    Args:
        base: the base model.
        model: a fine-tuned one.
        vocabulary: `base` gives embeddings and head the base's rows: those beyond them are cut, those that
            the model lacks are the base's own. `refuse` leaves them to be refused.
    """
    model = separated(base, model)
    names = _names(base, model)
    headers = {name: model.headers[model.tied.get(original, original)] for name, original in names.items()}
    if vocabulary == "base":
        for name, header in headers.items():
            if name in base.headers and rows_differ(name, header, base.headers[name]):
                headers[name] = dataclasses.replace(header, shape=base.headers[name].shape, stored=None)
    stored = {name: model.tied.get(original, original) for name, original in names.items()}
    return _Fitted(
        model.location,
        model.folder,
        headers,
        model.tied,
        model.config,
        model.files,
        original=model,
        names=stored,
        base=base,
    )


def _names(base: Source, model: Source) -> dict[str, str]:
    """Return the base's name -> the model's name; of tied tensors those that the base has, or one."""
    names = _renamed(base, model)
    stored = {model.tied.get(original, original) for name, original in names.items() if name in base.headers}
    return {
        name: original
        for name, original in names.items()
        if name in base.headers or (original in model.headers and original not in stored)
    }


def _renamed(base: Source, model: Source) -> dict[str, str]:
    """Return new name -> the model's name; where each has some of its own, by what else they are called."""
    originals = [*model.headers, *model.tied]
    names = rename(originals, base.headers)
    if not (names.keys() - base.headers.keys() and base.headers.keys() - names.keys()):
        return names
    own = {stored: name for name, stored in base.in_files.items()}
    in_base = {original: own.get(original, original) for original in originals}
    for others in chain([in_base], other_names(model.config or base.config, originals)):
        back = {other: original for original, other in others.items()}
        renamed = {new: back[other] for new, other in rename(list(back), base.headers).items()}
        if len(renamed.keys() & base.headers.keys()) > len(names.keys() & base.headers.keys()):
            names = renamed
    return names


def beside_tower(base: Source, models: Collection[Source]) -> set[str]:
    """Return the base's tensors beside the tower that the models are; {} where they are whole models.

    Experts of CLIP are often its tower for images, and the base is the whole: its other tower, its
    projections and its temperature stay as they are. What a tower lacks of itself is not among them.

    Args:
        base: the base model.
        models: fine-tuned ones, under the base's names.
    """
    whole = base.config
    towers = {
        part.get("model_type")
        for key, part in whole.items()
        if key.endswith("_config") and isinstance(part, dict)
    } - {None, whole.get("model_type")}
    if not models or any(model.config.get("model_type") not in towers for model in models):
        return set()
    own = {name.partition(".")[0] for model in models for name in model.headers if name in base.headers}
    return {name for name in base.headers if name.partition(".")[0] not in own} if own else set()


def rows_differ(name: str, mine: TensorHeader, other: TensorHeader) -> bool:
    """Return whether two tensors differ only in the number of words.

    Args:
        name: of both tensors.
        mine: what one file says of it.
        other: what the other file says of it.
    """
    return mine.shape != other.shape and mine.shape[1:] == other.shape[1:] and is_vocabulary(name)


def differences(what: str, base: Source, model: Source, excluded: Collection[str]) -> Iterator[str]:
    """Yield every way in which `model` does not fit `base`, with the cure.

    Args:
        what: the model's place in the recipe, for messages.
        base: the base model.
        model: the fine-tuned model, under the base's names.
        excluded: names that are not merged.

    Yields:
        One message for each kind of difference.
    """
    ours = {name: header for name, header in model.headers.items() if name not in excluded}
    theirs = {name: header for name, header in base.headers.items() if name not in excluded}
    shared = [name for name in theirs if name in ours]
    if theirs and not shared:
        yield (
            f"{what}: {model.folder} shares no tensor with the base {base.folder}: the one has "
            f"{abbreviated(ours)}, the other {abbreviated(theirs)}; is one of the folders another model?"
        )
        return
    if are_fused(theirs) and are_separate(ours):
        yield (
            f"{what}: {model.folder} stores each expert by itself, the base {base.folder} all experts of a "
            "layer in one tensor, as transformers 5 holds them; save the model so too: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER, save_original_format=False)"
        )
        return
    # Integer buffers are copied from the base, so it does not matter who else has them.
    extra = [name for name in ours if name not in theirs and _kind(ours[name])]
    missing = [name for name in theirs if name not in ours and _kind(theirs[name])]
    if extra:
        cure = _keep_out(extra, shared)
        tied = " or ties to another" if any(name in base.tied for name in extra) else ""
        yield (
            f"{what}: {model.folder} has {abbreviated(extra)}, which the base {base.folder} lacks{tied}; "
            f"{cure}"
        )
    if missing:
        cure = _keep_out(missing, shared)
        yield f"{what}: {model.folder} lacks {abbreviated(missing)}, which the base {base.folder} has; {cure}"
    for name in shared:
        mine, other = ours[name], theirs[name]
        if _kind(mine) != _kind(other):
            yield (
                f"{what}: {mine.file}: '{name}' is {_dtype(mine)}, in the base ({other.file}) it is "
                f"{_dtype(other)}; {_keep_out([name], shared)}"
            )
    weights = [name for name in shared if _kind(theirs[name])]
    wrong = [name for name in weights if ours[name].shape != theirs[name].shape]
    if wrong:
        yield _shapes_differ(what, wrong, ours, theirs, shared)
    # No method merges complex numbers: where they are the same in all, as rotations are, the base's stay.
    complex_ones = [name for name in weights if theirs[name].dtype.is_complex and name not in wrong]
    if changed := [name for name in complex_ones if not same_numbers(name, base, model)]:
        others = [name for name in shared if name not in changed]
        yield (
            f"{what}: {ours[changed[0]].file}: {abbreviated(changed)} differs from the base's, and is "
            f"complex ({_dtype(ours[changed[0]])}), which no method merges; save it as pairs of real "
            f"numbers (torch.view_as_real), or {_keep_out(changed, others)}"
        )


def _kind(header: TensorHeader) -> str:
    """Return what the numbers of a tensor are: "float", "complex", or "" of whole ones and booleans."""
    return "complex" if header.dtype.is_complex else "float" if header.dtype.is_floating_point else ""


def _shapes_differ(
    what: str,
    wrong: Sequence[str],
    ours: Mapping[str, TensorHeader],
    theirs: Mapping[str, TensorHeader],
    shared: Sequence[str],
) -> str:
    mine, other = ours[wrong[0]], theirs[wrong[0]]
    more = f" (and {len(wrong) - 1} more tensors differ)" if len(wrong) > 1 else ""
    text = (
        f"{what}: {mine.file}: '{wrong[0]}' has the shape {list(mine.shape)}, in the base ({other.file}) "
        f"{list(other.shape)}{more}; "
    )
    only_rows = all(ours[name].shape[1:] == theirs[name].shape[1:] for name in wrong)
    cure = _keep_out(wrong, [name for name in shared if name not in wrong])
    if only_rows and all(is_vocabulary(name) for name in wrong):
        return text + (
            f"the vocabularies differ: give both models {other.shape[0]} rows with "
            f"model.resize_token_embeddings({other.shape[0]}), take only the base's words with "
            f"vocabulary: base, or {cure}"
        )
    if only_rows and all(is_positions(name) for name in wrong):
        return text + (
            "the models read texts of different lengths (max_position_embeddings), and a position has no "
            "counterpart where the other ends: take models with as many positions as the base, or " + cure
        )
    if len(wrong) < len(shared) / 2:
        return text + cure
    return text + "only models that were fine-tuned from this base can be merged"


def factors_differ(
    method: str, base: Source, models: Mapping[str, Source], excluded: Collection[str]
) -> Iterator[str]:
    """Yield why the models are not LoRA adapters of the base that change the same tensors by the same ranks.

    Args:
        method: its name, for messages.
        base: the base model.
        models: by task, under the base's names.
        excluded: names that are not merged.

    Yields:
        One message for each model that is not an adapter, and for each that differs from the first.
    """
    first = ""
    ranks: dict[str, dict[str, int]] = {}
    for task, model in models.items():
        names = [name for name in model.headers if name not in excluded]
        own = {name: factors.rank for name in names if (factors := model.factors(name, base))}
        if not own:
            yield (
                f"models.{task}: {model.location} is not a LoRA adapter of the base {base.location}, but "
                f"{method} merges only adapters; give peft's adapter folders, or merge whole models by "
                "another method, such as ties"
            )
            continue
        ranks[task] = own
        first = first or task
        only = {task: own.keys() - ranks[first].keys(), first: ranks[first].keys() - own.keys()}
        for one, other in ((task, first), (first, task)):
            if only[one]:
                yield (
                    f"models.{one}: its adapter changes {abbreviated(sorted(only[one]))}, that of "
                    f"models.{other} does not; {method} needs adapters with the same target_modules; "
                    "else merge their full changes by another method, such as knots, or exclude these tensors"
                )
        wrong = [name for name in own if own[name] != ranks[first].get(name, own[name])]
        if wrong:
            yield (
                f"models.{task}: its adapter has rank {own[wrong[0]]} at '{wrong[0]}', that of "
                f"models.{first} has rank {ranks[first][wrong[0]]} ({len(wrong)} tensors differ); {method} "
                "needs equal ranks: train them with the same r, or merge their full changes by another "
                "method, such as knots"
            )


def _keep_out(names: Sequence[str], shared: Collection[str]) -> str:
    """Return the cure for `names`: the shortest globs that match them and none of the `shared` others."""
    globs = []
    for name in names:
        parts = name.split(".")
        shorter = [".".join(parts[:length]) + ".*" for length in range(1, len(parts))]
        globs.append(next((glob for glob in shorter if not fnmatch.filter(set(shared) - {name}, glob)), name))
    return (
        "keep it out of the merge with exclude: ["
        + ", ".join(f'"{glob}"' for glob in dict.fromkeys(globs))
        + "]"
    )


def _dtype(header: TensorHeader) -> str:
    return str(header.dtype).removeprefix("torch.")
