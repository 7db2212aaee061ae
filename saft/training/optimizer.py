"""The optimizer that takes the steps: AdamW, or any class of torch's form, named by the user."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from saft.errors import UserError, as_user_error, did_you_mean
from saft.registry import outside
from saft.training import signatures

__all__ = [
    "OWNED_BY_TRAINING",
    "averages_by_itself",
    "check_keys",
    "make_optimizer",
    "optimizer_class",
    "parameter_groups",
    "takes_all",
    "torch_optimizers",
    "try_optimizer",
]

OWNED_BY_TRAINING = {"lr": "learning_rate", "weight_decay": "weight_decay"}  # its key -> that of `training`


def make_optimizer(
    groups: Iterable[dict[str, Any]],
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    options: Mapping[str, Any] | None = None,
) -> Optimizer:
    """Return the optimizer of a training.

    Args:
        groups: parameter groups; each may have a learning rate and a weight decay of its own.
        learning_rate: peak, at least 0.
        weight_decay: at least 0; what it means is the optimizer's: decoupled (AdamW), part of the gradient
            (SGD, Adam).
        betas: of AdamW's moments; another optimizer has its own among its options.
        options: `name`, `module:Class`, and keywords of that class; None is AdamW, fused.

    Raises:
        UserError: there is no such optimizer, or it does not take these options.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> options = {"name": "torch.optim:SGD", "momentum": 0.9}
        >>> made = make_optimizer([{"params": layer.parameters()}], 0.1, 0.0, (0.9, 0.999), options)
        >>> type(made).__name__, made.defaults["lr"], made.defaults["momentum"]
        ('SGD', 0.1, 0.9)
    """
    if options is None:
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
    check_keys(**options)
    kind: Any = optimizer_class(options["name"])
    name = options["name"]
    own = {key: value for key, value in options.items() if key != "name"}
    known = inspect.signature(kind).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        names = list(known)[1:]
        _refuse_unknown(name, own, names)
        if "lr" not in names:
            raise UserError(f"optimizer: {name} takes no learning rate (lr), which saft's schedules change")
        if "weight_decay" not in names:
            if weight_decay:
                raise UserError(
                    f"optimizer: {name} has no weight decay; write weight_decay: 0 beside `optimizer`"
                )
            groups = [{k: v for k, v in group.items() if k != "weight_decay"} for group in groups]
        else:
            own["weight_decay"] = weight_decay
    with as_user_error(f"optimizer: {name} cannot be made of these options"):
        made: Optimizer = kind(groups, lr=learning_rate, **own)
    if any("lr" not in group for group in made.param_groups):
        raise UserError(
            f"optimizer: {name} does not keep its learning rate in its groups (lr), where saft's schedules "
            "change it; take another optimizer"
        )
    return made


def check_keys(name: str, **options: Any) -> None:
    """Check what is known of an optimizer without importing it: its name, and its options if it is torch's.

    Raises:
        UserError: it is not `module:Class`, torch has no such class, or the class no such option.

    Example:
        >>> check_keys("SGD")
        Traceback (most recent call last):
        saft.errors.UserError: optimizer: name: 'SGD' is not module:Class; did you mean 'torch.optim:SGD'?
    """
    own = signatures.classes_of("torch.optim")
    known = [f"torch.optim:{known}" for known in own]
    if ":" not in str(name):
        hint = did_you_mean(f"torch.optim:{name}", known)
        raise UserError(f"optimizer: name: '{name}' is not module:Class{hint}")
    module, _, attribute = name.partition(":")
    if module == "torch.optim" and known and name not in known:
        raise UserError(f"optimizer: name: '{module}' has no '{attribute}'{did_you_mean(name, known)}")
    for key, ours in OWNED_BY_TRAINING.items():
        if key in options:
            raise UserError(f"optimizer: {key}: is set by saft; use training.{ours}")
    if options.get("maximize"):
        raise UserError("optimizer: maximize: the loss is to fall, and this climbs it; leave it out")
    taken = signatures.arguments(own.get(attribute, ""), attribute)
    if module == "torch.optim" and taken:
        _refuse_unknown(name, options, taken)


def _refuse_unknown(name: str, options: Iterable[str], known: Collection[str]) -> None:
    for key in options:
        if key not in known:
            raise UserError(f"optimizer: {name} has no option '{key}'{did_you_mean(key, known)}")


def parameter_groups(
    parameters: Sequence[nn.Parameter], learning_rate: float, factors: Mapping[nn.Parameter, float]
) -> list[dict[str, Any]]:
    """Return parameter groups: matrices and the like, and vectors, which have no weight decay.

    Args:
        parameters: that are trained.
        learning_rate: peak, at least 0.
        factors: on it, of each parameter; nothing where all have one rate. A group has one factor.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> groups = parameter_groups(list(layer.parameters()), 0.1, {layer.weight: 0.5, layer.bias: 1.0})
        >>> [(len(group["params"]), group["lr"]) for group in groups]
        [(1, 0.05), (1, 0.1)]
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if not factors:
        return groups
    return [
        group | {"params": [p for p in group["params"] if factors[p] == factor], "lr": learning_rate * factor}
        for group in groups
        for factor in sorted({factors[p] for p in group["params"]}, reverse=True)
    ]


def try_optimizer(
    weight_decay: float, betas: tuple[float, float], options: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]] = MappingProxyType({}), layer_decay: float = 1.0,
) -> Optimizer:  # fmt: skip
    """Take steps of small tensors, so that what does not fit is known before a training.

    Args:
        weight_decay, betas, options: as for `make_optimizer`.
        shapes: what is trained, in words -> its shape, of which the number of dimensions counts.
        layer_decay: factor on the learning rate from layer to layer.

    Returns:
        The optimizer, which has taken a step of a matrix.

    Raises:
        UserError: there is no such optimizer, it does not take these options, or it cannot take a step along
            a dense gradient without a closure, or not of what is trained.

    Example:
        >>> _ = try_optimizer(0.0, (0.9, 0.999), {"name": "torch.optim:LBFGS"})
        Traceback (most recent call last):
        saft.errors.UserError: optimizer: torch.optim:LBFGS wants a function that computes the loss anew ...
    """

    def stepped(groups: list[dict[str, Any]]) -> Optimizer:
        return _stepped(make_optimizer(groups, 0.1, weight_decay, betas, options), options["name"])

    try:
        made = stepped([{"params": [_small(2)]}])
    except UserError:
        if weight_decay:  # what does not fit without it either is told first: then it is no cure
            try_optimizer(0.0, betas, options, shapes, layer_decay)
        raise
    first: dict[int, str] = {}
    for what, shape in shapes.items():
        first.setdefault(len(shape), what)
    for dimensions, what in first.items():
        try:
            stepped([{"params": [_small(dimensions)]}])
        except UserError:
            kind = {0: "single numbers", 1: "vectors"}.get(dimensions, f"tensors of {dimensions} dimensions")
            raise UserError(
                f"optimizer: {options['name']} takes matrices, but no {kind}, such as {what}; train matrices "
                "only: parametrization: {name: attention} or {name: lora}, and a frozen head, as "
                "head: zero_shot"
            ) from None
    for decay, told in (
        (
            1.0,
            f"optimizer: {options['name']} takes no groups of parameters; take another optimizer",
        ),
        (layer_decay, f"layer_decay: {options['name']} takes one learning rate only; leave layer_decay out"),
    ):
        rates = {_small(2): 1.0, _small(2): decay}
        try:
            stepped(parameter_groups(list(rates), 0.1, rates if decay < 1 else {}))
        except UserError:
            raise UserError(told) from None
    return made


def takes_all(weight_decay: float, betas: tuple[float, float], options: Mapping[str, Any]) -> bool:
    """Return whether an optimizer takes steps of whatever a model has: numbers, vectors, matrices and more.

    Args:
        weight_decay, betas, options: as for `make_optimizer`.

    Example:
        >>> takes_all(0.0, (0.9, 0.999), {"name": "torch.optim:SGD"})
        True
    """
    try:
        try_optimizer(weight_decay, betas, options, {str(count): [1] * count for count in range(6)})
    except UserError:
        return False
    return True


def _small(dimensions: int) -> nn.Parameter:
    """Return a small tensor of so many dimensions, with a gradient."""
    weight = nn.Parameter(torch.ones([2] * dimensions))
    weight.grad = torch.ones_like(weight)
    return weight


def _stepped(made: Optimizer, name: str) -> Optimizer:
    """Let an optimizer take two steps: what it remembers from the first may be what does not fit."""
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"optimizer: {name} wants a function that computes the loss anew at every step (closure), which "
            "a training here does not give; take one that steps along the gradient, such as torch.optim:Adam"
        )
    with as_user_error(f"optimizer: {name} cannot take a step"):
        if averages_by_itself(made):
            made.train()  # type: ignore[attr-defined]
        for _ in range(2):
            made.step()
    return made


def averages_by_itself(optimizer: Optimizer) -> bool:
    """Return whether an optimizer has other weights for evaluation than for training, as schedule-free ones.

    It switches by its methods `train` and `eval`.
    """
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class called `module:Class`.

    Raises:
        UserError: there is no such class, or it is not an optimizer of torch's form.

    Example:
        >>> optimizer_class("torch.optim:SDG")
        Traceback (most recent call last):
        saft.errors.UserError: optimizer: name: 'torch.optim' has no 'SDG'; did you mean 'SGD'?
    """
    return outside(name, Optimizer, "optimizer: name")


def torch_optimizers() -> list[str]:
    """Return the names of torch's own optimizers that take steps along a dense gradient.

    Example:
        >>> "SGD" in torch_optimizers(), "LBFGS" in torch_optimizers()
        (True, False)
    """
    others = ("Optimizer", "LBFGS", "SparseAdam")  # the base, one that needs a closure, one for sparse rows
    return [name for name in signatures.classes_of("torch.optim") if name not in others]
