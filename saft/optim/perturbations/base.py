"""What every perturbation is: a recipe for epsilon from the weights, the gradient and a little memory."""

from __future__ import annotations

import dataclasses
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

from torch import Tensor
from torch.optim import Optimizer

from saft.errors import UserError, did_you_mean
from saft.optim.slots import AscentSlots, Label
from saft.registry import Registry

__all__ = ["PERTURBATIONS", "Perturbation", "make_perturbation", "peak_rate"]

PROBES = 6  # radii that are tried where rho is auto, each by two passes
RISE = 0.1  # of the loss, where rho is auto
COEFFICIENT = 0.4  # of the others' task vectors, where rho is others: task arithmetic's
MOST = 10**9  # nothing that is counted comes near; a slip of the keyboard does


@dataclass(frozen=True)
class Perturbation(ABC):
    """How epsilon is made, and on which steps.

    A subclass is one file in `saft/optim/perturbations/`, registered by name. It holds options only; what it
    must remember from step to step is kept by `Ascent`, per parameter, and checkpointed.

    Args:
        rho: radius of the ascent step, in the perturbation's own metric, at least 0; 0 turns it off.
        every, start, schedule, rise, coefficient, tasks: see below.

    Example:
        >>> [step for step in range(6) if make_perturbation("sam", every=2, start=1).ascends(step)]
        [1, 3, 5]
    """

    rho: float = 0.05
    every: int = 1
    """Ascend on every so many-th step; the other steps are the base optimizer's own."""
    start: int = 0
    """Number of optimizer steps to take before the first ascent (late start)."""
    schedule: Callable[[int], float] | Literal["learning_rate"] | None = None
    """Factor on rho: `learning_rate`, which is the learning rate over its peak, the `initial_lr` or `max_lr`
    that a scheduler noted, at most 1; in Python also a function of the number of steps taken."""
    rise: float | None = None
    """Share of the loss by which the ascent is to raise it; rho is found by that at the first ascent, from
    its own value on. `rho: auto` is rise 0.1."""
    coefficient: float | None = None
    """With `rho: others`, above 0: at every ascent rho is the length, in the perturbation's own metric, of so
    many times the sum of the other tasks' task vectors, as merging adds it; `rho: others` is 0.4."""
    tasks: int | None = None
    """With `rho: others`, where the others' task vectors are not known: how many tasks will be merged, at
    least 2. Their sum is then taken to be sqrt(tasks - 1) times as long as the task's own vector so far;
    `saft run` gives the number of its tasks."""

    replays: ClassVar[bool] = True
    """Whether epsilon depends on this step's gradient, so that a second pass is needed."""

    needs_labels: ClassVar[bool] = False
    """Whether the labels of parameters are read."""

    needs_vectors: ClassVar[bool] = False
    """Whether the other tasks' task vectors are needed, which `saft train` and `saft run` give."""

    has_memory: ClassVar[bool] = False
    """Whether something is kept from step to step."""

    shifts_in_place: ClassVar[bool] = False
    """Whether it sets `Slot.shift`, to be added to w, and needs no buffers."""

    finishes_gradient: ClassVar[bool] = False
    """Whether the gradient of steps without a replay, once started, goes through `finish`."""

    uses_first_gradient: ClassVar[bool] = False
    """Whether the descent gradient is made of both gradients, by `keep` and `descend`."""

    def __post_init__(self) -> None:
        made = type(self).__name__
        for field in fields(self):
            value = getattr(self, field.name)
            if (wanted := _wanted(field.type, value)) is not None:
                raise UserError(f"{made}: {field.name}: must be {wanted}, but is {value!r}")
        for name, least in (("rho", 0), ("every", 1), ("start", 0)):
            if not getattr(self, name) >= least:
                raise UserError(f"{made}: {name}: must be at least {least}, but is {getattr(self, name)}")
        if self.rise is not None:
            if (wanted := _wanted("float", self.rise)) is not None or not self.rise > 0:
                raise UserError(f"{made}: rise: must be {wanted or 'above 0'}, but is {self.rise!r}")
            if not self.replays or not self.rho:
                why = "rho is 0" if self.replays else "it has no second pass, in which the rise could be seen"
                raise UserError(f"{made}: rho: cannot be auto, since {why}; give a number")
        self._check_others(made)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and not isinstance(value, bool) and not value <= MOST:
                raise UserError(f"{made}: {field.name}: must be at most {MOST}, but is {value}")
        if not (self.schedule is None or callable(self.schedule) or self.schedule == "learning_rate"):
            raise UserError(
                f"{made}: schedule: must be 'learning_rate' or a function of the step, but is"
                f" {self.schedule!r}"
            )

    @property
    def remembers_gradients(self) -> bool:
        """Whether the first gradient is used again, so that it must be the same on all replicas."""
        return self.replays and (self.uses_first_gradient or self.has_memory)

    def check_optimizer(self, optimizer: Optimizer) -> None:  # noqa: B027
        """Check that the base optimizer keeps what is read of it, where that is something.

        Args:
            optimizer: that has taken a step.

        Raises:
            UserError: it does not.
        """

    def _check_others(self, made: str) -> None:
        for name, kind, least in (("coefficient", "float", 0), ("tasks", "int", 1)):
            value = getattr(self, name)
            if value is not None and ((wanted := _wanted(kind, value)) is not None or not value > least):
                raise UserError(f"{made}: {name}: must be {wanted or f'above {least}'}, but is {value!r}")
        if self.coefficient is None:
            if self.tasks is not None:
                raise UserError(f"{made}: tasks: goes with rho: others; leave one of the two out")
            return
        why = self.not_as_others
        if self.rise is not None or not self.rho:
            why = "it is auto" if self.rho else "it is 0"
        if why is not None:
            raise UserError(f"{made}: rho: cannot be others, since {why}; give a number")

    @property
    def not_as_others(self) -> str | None:
        """Why rho cannot be the length of the others' task vectors; None where it can."""
        return None if self.replays else "it has no second pass, and rho is another size here"

    @property
    def needs_others(self) -> bool:
        """Whether the other tasks' task vectors are needed, for what is added to w or for its radius."""
        return self.needs_vectors or (self.coefficient is not None and self.tasks is None)

    @classmethod
    def not_for_configs(cls) -> set[str]:
        """Return the fields that no config can give a value, so that `saft arms` does not list them."""
        return set() if cls.replays else {"rise", "coefficient", "tasks"}

    def ascends(self, step: int) -> bool:
        """Return whether optimizer step number `step` (from 0) is one with an ascent."""
        return step >= self.start and (step - self.start) % self.every == 0

    def passes(self, steps: int) -> float:
        r"""Return how many forward and backward passes a number of optimizer steps takes.

        $\text{passes} = n + |\{t < n : t \text{ ascends}, \rho_t \ne 0\}|$ where a replay is needed, else n.
        Where rho follows the learning rate, a learning rate above 0 is assumed; where it is auto, the passes
        that find it are counted.

        Args:
            steps: n, number of optimizer steps, at least 0.

        Example:
            >>> make_perturbation("looksam").passes(100), make_perturbation("momentum_sam").passes(100)
            (120.0, 100.0)
        """
        if not self.replays:
            return float(steps)
        group = {"lr": 1.0}
        ascents = sum(self.ascends(t) and self.radius(t, group) != 0 for t in range(steps))
        return float(steps + ascents + (2 * PROBES if ascents and self.rise is not None else 0))

    def radius(self, step: int, group: Mapping[str, Any]) -> float:
        """Return rho at a step.

        Args:
            step: number of optimizer steps taken so far.
            group: the base optimizer's first parameter group that learns, whose rate may be followed.

        Raises:
            UserError: the schedule gives a factor below 0, or none.
        """
        if self.schedule is None:
            return self.rho
        if callable(self.schedule):
            factor = self.schedule(step)
            if not 0 <= factor < math.inf:  # below 0 it would descend
                made = type(self).__name__
                raise UserError(f"{made}: schedule: must give a factor of at least 0, but gives {factor}")
            return self.rho * factor
        return self.rho * min(float(group["lr"]) / (peak_rate(group) or 1), 1.0)  # CyclicLR notes its least

    def with_radius(self, rho: float) -> Self:
        """Return the same with this radius at every step, whatever the learning rate is."""
        return dataclasses.replace(self, rho=rho, rise=None, schedule=None)

    def selects(self, label: Label) -> bool:
        """Return whether a parameter is perturbed; all are trained."""
        return True

    def keep(self, slots: AscentSlots) -> Any:
        """Return what `descend` will need of the first pass, before `displace` overwrites the gradient.

        Args:
            slots: their buffers hold the first gradient, in the shapes of the parameters.

        Returns:
            Anything, or None; GSAM and LookSAM return parameter -> gradient, in its shape.
        """
        return None

    @abstractmethod
    def displace(self, slots: AscentSlots, rho: float) -> Tensor | None:
        """Overwrite every slot's buffer, which holds the gradient, with w + epsilon.

        Args:
            slots: the parameters that are perturbed; weight and buffer have the parameter's shape.
            rho: radius of this step, not 0.

        Returns:
            A 0-dim tensor that is not finite if the gradient was not, or None where no gradient was used.

        Raises:
            UserError: the base optimizer lacks something that epsilon is made from.
        """

    def descend(self, slots: AscentSlots, kept: Any) -> None:
        """Turn the replayed gradients, in the buffers, into the descent gradient, if `keep` kept any.

        Args:
            slots: their buffers hold the replayed gradient, in the shapes of the parameters.
            kept: what `keep` returned.
        """
        raise NotImplementedError

    def finish(self, slots: AscentSlots, rho: float) -> None:
        """Turn the gradient, in the buffers, into the descent gradient, on a step without a replay.

        Args:
            slots, rho: as of `displace`; rho is 0 where the gradient was taken at w.
        """
        raise NotImplementedError

    def length(self, slots: AscentSlots, epsilon: Sequence[Tensor]) -> Tensor:
        """Return the length of epsilon in the metric in which rho is a radius, as a 0-dim tensor.

        Args:
            slots: with the weights that epsilon was made at.
            epsilon: one tensor for each slot, in its shape.
        """
        return slots.norm(epsilon)


PERTURBATIONS: Registry[type[Perturbation]] = Registry(
    Perturbation, "perturbation", "saft.optim.perturbations"
)


def peak_rate(group: Mapping[str, Any]) -> float:
    """Return the highest learning rate of a parameter group, as a scheduler noted it; else that of now.

    OneCycleLR, which rises far above its first rate, notes `max_lr`; others only the first, `initial_lr`.

    Example:
        >>> peak_rate({"lr": 0.01, "initial_lr": 0.04, "max_lr": 1.0}), peak_rate({"lr": 0.01})
        (1.0, 0.01)
    """
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def _wanted(kind: Any, value: Any) -> str | None:
    """Return what a field wants, in words, if the value is of another kind; numbers are finite."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    is_flag = isinstance(value, bool)
    if name == "bool":
        return None if is_flag else "True or False"
    if name == "int":
        return None if isinstance(value, Integral) and not is_flag else "a whole number"
    if name == "float":
        is_number = isinstance(value, Real) and not is_flag  # an integer may be too large for a float
        if is_number:
            # Of NumPy's float32 the greatest float is infinity: it is compared as Python's own.
            size = abs(int(value) if isinstance(value, Integral) else float(value))
            return None if size <= sys.float_info.max else "a finite number"
        return "a number"
    if name == "tuple[float, float]":
        is_pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
        return None if is_pair and not any(_wanted("float", part) for part in value) else "two finite numbers"
    return None


def make_perturbation(
    name: str | Perturbation, rho: float | Literal["auto", "others"] | None = None, **options: Any
) -> Perturbation:
    """Return the perturbation registered under a name, with some of its options; or an instance as it is.

    Args:
        name: one of `PERTURBATIONS.names()`, or `module:attribute`, or an instance, which takes no options.
        rho: radius of the ascent step; by default the perturbation's own. "auto" is the radius that raises
            the loss by the share `rise`, 0.1 unless it is given; "others" the length of the other tasks' task
            vectors, summed, times `coefficient`, 0.4 unless it is given: see `saft.optim.others_radius`.
        **options: of the perturbation, for example `every=10`.

    Raises:
        UserError: neither a name nor an instance, unknown name or option, a value out of range, or options
            beside an instance.

    Example:
        >>> make_perturbation("sam", rho=0.02).rho, make_perturbation("asam", rho="auto").rise
        (0.02, 0.1)
    """
    for word, option, default in (("auto", "rise", RISE), ("others", "coefficient", COEFFICIENT)):
        if rho == word:
            options = {option: default, **options}
        elif options.get(option) is not None:
            raise UserError(
                f"{option}: goes with rho: {word}; leave one of the two out, or write rho: {word}"
            )
    if isinstance(rho, str) and rho not in ("auto", "others"):
        near = did_you_mean(rho, ["auto", "others"])
        hint = near if near.endswith("?") else ""
        raise UserError(f"rho: must be a number, auto or others, but is {rho!r}{hint}")
    if rho is not None and rho not in ("auto", "others"):
        options = {"rho": rho, **options}
    if not isinstance(name, str | Perturbation):
        raise UserError(
            f"perturbation: must be a name or an instance, but is {name!r}: for example perturbation='asam',"
            " or ASAM(rho=0.5), or for plain SAM only rho=0.05"
        )
    if not isinstance(name, str):
        if options:
            raise UserError(f"{', '.join(options)}: give these to {type(name).__name__}(...), which is made")
        return name
    kind = PERTURBATIONS.get(name)
    known = [field.name for field in fields(kind)]
    for option in (option for option in options if option not in known):
        davda54 = "; what davda54/sam calls so is perturbation='asam_davda54'"
        hint = davda54 if option == "adaptive" else did_you_mean(option, known)
        raise UserError(f"perturbation '{name}' has no option '{option}'{hint}")
    try:
        return kind(**options)
    except UserError as error:  # who gave a name knows no class
        raise UserError(*(text.removeprefix(f"{kind.__name__}: ") for text in error.problems)) from None
