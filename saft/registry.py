"""Name -> thing, with "did you mean": how methods, perturbations, measures and task kinds are found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Generic, TypeVar

from saft.errors import UserError, did_you_mean

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one sort, each registered by its own file under the name that users write.

    A file in one of `packages` registers by decorating; nothing else has to be edited. The files are imported
    when the registry is first asked, so that declaring a registry costs nothing. `module:attribute` works
    wherever a name does, for things that live outside saft.

    Args:
        noun: what the things are called in messages, for example "merge method".
        *packages: the packages whose modules hold the registrations.

    Example:
        >>> methods = Registry("merge method", "saft.merging.methods")
        >>> @methods.register("keep_base")
        ... class KeepBase: ...
        >>> methods.get("keep_base").__name__
        'KeepBase'
    """

    def __init__(self, noun: str, *packages: str) -> None:
        self.noun = noun
        self.packages = packages
        self._things: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files a thing under `name`; a name can be taken once.

        Raises:
            ValueError: by the decorator: another thing has the name.
        """

        def decorate(thing: T) -> T:
            if name in self._things and self._things[name] is not thing:
                raise ValueError(f"the {self.noun} '{name}' is registered twice")
            self._things[name] = thing
            return thing

        return decorate

    def get(self, name: str) -> T:
        """Return the thing called `name`, or the one at `module:attribute`.

        Raises:
            UserError: nothing has this name, and the message suggests the nearest; or what has it is of
                another sort than the things of this registry.
        """
        self._discover()
        if ":" in name:
            thing = self._from_outside(name)
            if self._things and not any(_is_like(thing, own) for own in self._things.values()):
                raise UserError(f"{self.noun} '{name}': names {thing!r}, which is something else")
            return thing
        if name not in self._things:
            raise UserError(f"unknown {self.noun} '{name}'{did_you_mean(name, self._things)}")
        return self._things[name]

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._discover()
        return sorted(self._things)

    def items(self) -> Iterator[tuple[str, T]]:
        """Iterate over (name, thing), sorted by name."""
        return iter((name, self._things[name]) for name in self.names())

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for package in map(importlib.import_module, self.packages):
            for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
                importlib.import_module(module.name)

    def _from_outside(self, name: str) -> T:
        module_name, _, attribute = name.partition(":")
        try:
            thing: T = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, ValueError) as error:  # ValueError: an empty name
            raise UserError(f"{self.noun} '{name}': cannot import '{module_name}': {error}") from error
        except AttributeError:
            module = importlib.import_module(module_name)
            raise UserError(
                f"{self.noun} '{name}': '{module_name}' has no '{attribute}'"
                + did_you_mean(attribute, [n for n in vars(module) if not n.startswith("_")])
            ) from None
        return thing


def _is_like(thing: object, own: object) -> bool:
    """Return whether both are functions, or classes, or dataclasses: what an import can be checked for."""
    if isinstance(own, type):
        return isinstance(thing, type) and (is_dataclass(thing) or not is_dataclass(own))
    return callable(thing) and not isinstance(thing, type)
