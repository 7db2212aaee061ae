"""How the merges of an experiment are tried, and how what gives the best of them is searched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from saft.config import Count, FiniteFloat, Seed, checked, distinct
from saft.extras import require

__all__ = ["MergeOptions", "SelectionOptions"]


@checked
@dataclass(frozen=True)
class MergeOptions:
    """How a method is tried: its parameters, and the scaling coefficients to choose from.

    A merge has the name of its method, or one of its own where `method` says which it is; so a method can be
    tried with other parameters, or over another grid, beside what is known of it already.

    Example:
        >>> MergeOptions(parameters={"density": 0.1}, scaling=[0.3, 0.5, 1.0]).scaling
        [0.3, 0.5, 1.0]
    """

    method: str | None = None
    """Name of the method; null takes the merge's own."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the method; see `saft methods NAME`."""
    scaling: list[FiniteFloat] = field(default_factory=list)
    """Scaling coefficients to choose from on validation data; empty takes the method's own grid."""
    choices: dict[str, Annotated[list[FiniteFloat], AfterValidator(distinct)]] = field(default_factory=dict)
    """Parameter of the method -> its values to choose from, together with the coefficient; for example
    {density: [0.1, 0.2, 0.5]}."""

    def method_of(self, name: str) -> str:
        """Return the name of the method of the merge that has this name."""
        return name if self.method is None else self.method

    def __post_init__(self) -> None:
        if len(set(self.scaling)) < len(self.scaling):
            raise ValueError(f"scaling: holds a coefficient twice: {self.scaling}")
        if both := [name for name in self.choices if name in self.parameters]:
            raise ValueError(f"choices.{both[0]}: has a value under `parameters` already; leave it out there")


@checked
@dataclass(frozen=True)
class SelectionOptions:
    """How the coefficients of merges, and `choices` of merges and arms, are searched on validation data.

    Example:
        >>> SelectionOptions(search="tpe", budget=12).seed
        0
    """

    search: Literal["grid", "tpe"] = "grid"
    """`grid` tries every combination of the values; `tpe` draws coefficients from between the least and the
    greatest, and values from the lists, where those before were good (Optuna; Bergstra et al. 2011)."""
    weights: Literal["equal", "per_task", "per_layer"] = "equal"
    """Whether task arithmetic is also tried with weights instead of one coefficient, found by CMA-ES from
    that coefficient on: `per_task` one for each task, `per_layer` three for each, at the first, the middle
    and the last layer with lines between."""
    budget: Count = 20
    """Candidates that `tpe` tries of each merge, and CMA-ES of the weights, each by a pass over the
    validation examples of all tasks."""
    seed: Seed = 0
    """Seed of `tpe`, of CMA-ES, and of the trials that are drawn within `arm_passes`."""
    arm_passes: Count | None = None
    """Forward and backward passes that the trials of an arm with `choices` may take together, of one expert:
    so many trials are drawn, and each task and seed takes as many; null tries all."""
    arm_search: Literal["tpe", "random"] = "tpe"
    """How they are drawn within `arm_passes`: `tpe`, four at random and then two at a time where those before
    were good (Optuna), at each train size; `random`, all at once, for a cluster on which all can be trained
    at a time, and without Optuna."""

    def check_options(self) -> None:
        """Check that what the search needs is installed.

        Raises:
            UserError: it is not.
        """
        if self.search != "grid":
            require("optuna", f"search: {self.search}")
        if self.arm_passes is not None and self.arm_search == "tpe":
            require("optuna", "arm_search: tpe")
        if self.weights != "equal":
            require("cmaes", f"weights: {self.weights}")
