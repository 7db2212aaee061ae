"""What torch.compile must not trace: a compiled ascent leaves the weights perturbed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

from torch._compile import _disable_dynamo

__all__ = ["not_compiled", "not_traced"]

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def not_traced(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Return a function that runs as it is written, and all that it calls, also inside compiled code."""
    # torch.compiler.disable would import the compiler here; this form imports it at the first call.
    untraced: Callable[Arguments, Returned] = _disable_dynamo(function)
    return untraced


def not_compiled(
    make: Callable[Arguments, AbstractContextManager[None]],
) -> Callable[Arguments, AbstractContextManager[None]]:
    """Return a function that makes the same context, entered and left outside of any compiled graph.

    What runs inside the context is compiled as ever.

    Example:
        >>> from contextlib import contextmanager
        >>> @not_compiled
        ... @contextmanager
        ... def bracketed():
        ...     print("in")
        ...     yield
        ...     print("out")
        >>> with bracketed():
        ...     pass
        in
        out
    """

    @wraps(make)
    def made(*args: Arguments.args, **kwargs: Arguments.kwargs) -> AbstractContextManager[None]:
        return _NotCompiled(make(*args, **kwargs))

    return made


class _NotCompiled(AbstractContextManager[None]):
    def __init__(self, inner: AbstractContextManager[None]) -> None:
        self._inner = inner

    @not_traced
    def __enter__(self) -> None:
        self._inner.__enter__()

    @not_traced
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._inner.__exit__(kind, error, trace)
