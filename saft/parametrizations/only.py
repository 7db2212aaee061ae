"""Only some tensors, by patterns of their names."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from saft.config import checked
from saft.errors import UserError, did_you_mean
from saft.parametrizations.parametrization import PARAMETRIZATIONS, Losses, Parametrization, train_only
from saft.stored_names import stored_names

__all__ = ["Only"]


@PARAMETRIZATIONS.register("only")
@checked
@dataclass(frozen=True)
class Only(Parametrization):
    """Only the tensors whose names match one of some patterns; the others keep the base's values.

    Args:
        tensors: patterns, `*` for any characters; each must match a tensor of the trunk, by its name in files
            or in the model.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> Only(tensors=["*bias"]).wrap(layer, losses=lambda count: iter(()))
        >>> [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
        ['bias']
    """

    tensors: list[str]
    """Patterns of names of the trunk's tensors, such as "*.attention.*"."""

    def __post_init__(self) -> None:
        if not self.tensors:
            raise ValueError("tensors: must not be empty; write a pattern of names")

    def wrap(self, trunk: nn.Module, losses: Losses) -> None:
        """Freeze what no pattern matches; see `Parametrization.wrap`.

        Raises:
            UserError: a pattern matches no tensor.
        """
        # A tensor goes by the name that files have for it too, and a tied one by any of its names.
        own, stored = dict(trunk.named_parameters(remove_duplicate=False)), stored_names(trunk)
        own |= {stored[name]: parameter for name, parameter in own.items() if name in stored}
        names = list(own)
        for pattern in self.tensors:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UserError(
                    f"parametrization: tensors: '{pattern}' matches no tensor of {type(trunk).__name__}"
                    f"{did_you_mean(pattern, names) or f', which has {names[0]} and others'}"
                )
        chosen = {p for n, p in own.items() if any(fnmatchcase(n, pattern) for pattern in self.tensors)}
        train_only(trunk, {name for name, parameter in trunk.named_parameters() if parameter in chosen})
