"""A base's names for the tensors of adapters and modules, which have those of transformers' classes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from saft.merging.inputs.source import Source
from saft.merging.inputs.tensor_names import match
from saft.stored_names import renamings, translated

__all__ = ["names_in", "in_class", "other_names"]


def names_in(base: Source, names: Collection[str]) -> dict[str, str]:
    """Return name -> the base's name for that tensor, of those that the base has.

    Args:
        base: of the merge.
        names: as an adapter or a module has them; a prefix does not matter.
    """
    known = base.headers.keys() | base.tied.keys()
    in_base = {name: own for name in names if (own := match(name, known)) is not None}
    if len(in_base) < len(names) and (table := renamings(base.config)):
        for name in names:
            stored = None if name in in_base else translated(name, table)
            if stored is not None and (own := match(stored, known)) is not None:
                in_base[name] = own
    return in_base


def in_class(base: Source, names: Collection[str]) -> dict[str, str]:
    """Return the base's name -> the name in the class of transformers, by which peft finds a module.

    Args:
        base: of the merge.
        names: of its tensors.
    """
    classes = {stored: name for name, stored in renamings(base.config).items()}
    return {name: translated(name, classes) or name for name in names}


def other_names(config: Mapping[str, object], names: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield name -> what else it may be called: first in files, of a name in a class, then the other way.

    Args:
        config: of the model.
        names: of its tensors.
    """
    table = renamings(config)
    for one in (table, {stored: name for name, stored in table.items()}) if table else ():
        yield {name: translated(name, one) or name for name in names}
