"""Layer-wise decay of the learning rate: layers nearer to the input learn less."""

from __future__ import annotations

import re
from collections.abc import Collection

__all__ = ["layer_factors"]

_LAYER = re.compile(r"^((?:.*?\.)?)(\d+)\.")
_FIRST = re.compile(r"embed|wte|wpe|shared|pre_la?y[a-z]*norm|stem", re.IGNORECASE)


def layer_factors(names: Collection[str], decay: float) -> dict[str, float]:
    r"""Return name -> factor on the learning rate.

    .. math:: \eta_l = \eta\, d^{\,n - l}, \qquad l = 1 \dots n

    of the n layers of a stack; embeddings, a stem and a norm before all layers are as the layer before the
    first, what is in no layer has 1.

    Args:
        names: of all parameters of a trunk.
        decay: d, in (0, 1].

    Example:
        >>> layer_factors(["embeddings.w", "layer.0.w", "layer.1.w", "norm.w"], decay=0.5)
        {'embeddings.w': 0.25, 'layer.0.w': 0.5, 'layer.1.w': 1.0, 'norm.w': 1.0}

    Source: Clark et al., "ELECTRA", ICLR 2020, arXiv 2003.10555.
    """
    places = {name: (match[1], int(match[2]) + 1) for name in names if (match := _LAYER.match(name))}
    layers: dict[str, int] = {}
    for stack, number in places.values():
        layers[stack] = max(layers.get(stack, 0), number)
    deepest = max(layers.values(), default=0)
    factors = {}
    for name in names:
        if name in places:
            stack, number = places[name]
            factors[name] = decay ** (layers[stack] - number)
        else:
            factors[name] = decay**deepest if _FIRST.search(name) else 1.0
    return factors
