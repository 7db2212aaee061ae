"""Stand-ins for the libraries that take seconds to import, where only saft's own words are asked for.

The options of a task, a perturbation or a merge method are declared in its file, beside code that computes
with torch. To check a config, or to list what there is, the files are imported and nothing is computed: so
they are imported with a stand-in for torch, are forgotten afterwards, and imported again to compute.
"""

from __future__ import annotations

import sys
from abc import ABCMeta
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["SLOW", "are_in", "stand_ins"]

SLOW = (
    *("torch", "torchmetrics", "lightning", "lightning_utilities", "accelerate"),
    *("transformers", "tokenizers", "sentence_transformers", "peft", "safetensors"),
    *("datasets", "pandas", "numpy", "PIL"),
)
"""The libraries; what saft imports besides them and Python's own is quick."""


@contextmanager
def stand_ins() -> Iterator[None]:
    """Import saft's files with stand-ins for `SLOW` inside; where torch is imported already, change nothing.

    Inside, `are_in()` is true, and nothing may be computed: whatever is asked of a stand-in is another one.
    What was imported inside is not to be kept beyond it.

    Example:
        >>> with stand_ins():
        ...     from saft.merging.methods import METHODS
        >>> METHODS.get("ties").__name__
        'Ties'
    """
    if "torch" in sys.modules:
        yield
        return
    modules = set(sys.modules)
    members = {name: set(vars(sys.modules[name])) for name in modules if _is_own(name)}
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in sys.modules.keys() - modules:
            if _is_own(name) or isinstance(sys.modules[name], _Module):
                del sys.modules[name]
        for name, known in members.items():  # a package holds what was imported of it
            package = vars(sys.modules[name])
            for imported in package.keys() - known:
                del package[imported]


def are_in() -> bool:
    """Return whether stand-ins are imported now, and nothing can be computed."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == "saft"


class _Finder(MetaPathFinder, Loader):
    """Finds a stand-in for every slow library that is installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        library, inside, _ = fullname.partition(".")
        if library not in SLOW or not (inside or PathFinder.find_spec(library)):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Module(ModuleType):
    """Has whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return _stand_in(name)


class _StandIn(ABCMeta):
    """The class of what stands in for a class, a function or a constant; one can derive from it."""

    def __getattr__(cls, name: str) -> Any:
        return _stand_in(name)


def _stand_in(name: str) -> Any:
    if name.startswith("__"):  # asks for a protocol, such as pickle's or a dataclass's
        raise AttributeError(name)
    members: dict[str, Any] = {
        "__init__": lambda self, *args, **keywords: None,
        "__call__": lambda self, decorated=None: decorated,
        "__class_getitem__": classmethod(lambda cls, item: cls),
    }
    return _StandIn(name, (), members)
