"""Name -> class, with "did you mean": how methods, perturbations, measures and task kinds are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, cast

from saft import stand_ins
from saft.errors import NotYet, UserError, did_you_mean

__all__ = ["Registry", "outside"]

C = TypeVar("C")
T = TypeVar("T", bound=type)


class Registry(Generic[T]):
    """The classes of one sort, each registered by its own file under the name that users write.

    A file in one of `packages` registers by decorating; nothing else has to be edited. The files are imported
    when the registry is first asked, so that declaring a registry costs nothing. `module:Name` works wherever
    a name does, for classes that live outside saft.

    Args:
        base: the class that all of them derive from.
        noun: what they are called in messages, for example "merge method".
        *packages: the packages whose modules hold the registrations.

    Example:
        >>> from saft.merging.methods import METHODS
        >>> METHODS.base.__name__, METHODS.get("ties").__name__
        ('Method', 'Ties')
        >>> METHODS.get("saft.merging.methods.pcb:Pcb") is METHODS.get("pcb")
        True
        >>> METHODS.get("tise")
        Traceback (most recent call last):
        saft.errors.UserError: unknown merge method 'tise'; did you mean 'ties'?
    """

    def __init__(self, base: type[Any], noun: str, *packages: str) -> None:
        self.base = base
        self.noun = noun
        self.packages = packages
        self._classes: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files a class under `name`; a name can be taken once.

        Raises:
            ValueError: by the decorator: another class has the name.
        """

        def decorate(kind: T) -> T:
            if self._classes.get(name, kind) is not kind:
                raise ValueError(f"the {self.noun} '{name}' is registered twice")
            self._classes[name] = kind
            return kind

        return decorate

    def get(self, name: str) -> T:
        """Return the class called `name`, or the one at `module:Name`.

        Raises:
            UserError: nothing has this name, and the message suggests the nearest; or what has it is of
                another sort than the classes of this registry, or not complete.
            NotYet: as `outside`.
        """
        if not isinstance(name, str):  # a config may hold anything
            raise UserError(f"{self.noun}: must be named by a text, but is {name!r}")
        if ":" in name:
            return cast(T, outside(name, self.base, f"{self.noun} '{name}'"))
        self._discover()
        if name not in self._classes:
            raise UserError(f"unknown {self.noun} '{name}'{did_you_mean(name, self._classes)}")
        return self._classes[name]

    def __contains__(self, name: str) -> bool:
        """Return whether there is a class called `name`, or one of this registry's sort at `module:Name`."""
        try:
            self.get(name)
        except UserError:
            return False
        return True

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._discover()
        return sorted(self._classes)

    def items(self) -> Iterator[tuple[str, T]]:
        """Iterate over (name, class), sorted by name."""
        return iter((name, self._classes[name]) for name in self.names())

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for package in map(importlib.import_module, self.packages):
            for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
                importlib.import_module(module.name)


def outside(name: str, base: type[C], what: str) -> type[C]:
    """Return the class at `module:Name`.

    Args:
        name: of the module, and of the class in it.
        base: the class that it must derive from.
        what: begins every message.

    Raises:
        UserError: it cannot be imported, is something else, or leaves out what it must define.
        NotYet: stand-ins are imported for torch, which code from outside cannot be given.

    Example:
        >>> outside("collections:OrderedDict", dict, "example")
        <class 'collections.OrderedDict'>
        >>> outside("math:pi", dict, "example")
        Traceback (most recent call last):
        saft.errors.UserError: example: must be a subclass of builtins.dict, but is 3.141592653589793
    """
    if stand_ins.are_in():
        raise NotYet
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module of another raises; a script may end itself
        missing = isinstance(error, ModuleNotFoundError)
        cure = "; is its folder on PYTHONPATH, or it installed?" if missing else ""
        raise UserError(
            f"{what}: cannot import '{module_name}': {type(error).__name__}: {error}{cure}"
        ) from error
    if not hasattr(module, attribute):
        classes = [known for known, value in vars(module).items() if isinstance(value, type)]
        near = did_you_mean(attribute, classes)
        raise UserError(f"{what}: '{module_name}' has no '{attribute}'{near}")
    kind = getattr(module, attribute)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        wanted = f"{base.__module__}.{base.__qualname__}"
        raise UserError(f"{what}: must be a subclass of {wanted}, but is {kind!r}")
    if undefined := getattr(kind, "__abstractmethods__", ()):
        raise UserError(f"{what}: must define {', '.join(sorted(undefined))}")
    return kind
