"""Where the last round of an arm starts: at the merge of its first round's experts instead of the base."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from saft.config import Count, FiniteFloat, checked
from saft.errors import UserError, collecting

__all__ = ["MergedStart"]


@checked
@dataclass(frozen=True)
class MergedStart:
    r"""How the experts of a first round are merged into the weights that a training starts from.

    .. math:: w_r = w_{r-1} + \lambda\, \mathrm{merge}(w^{(r)}_1 - w_{r-1}, \ldots, w^{(r)}_K - w_{r-1})

    for r of 1 to the number of rounds R, w0 being the base. The task vectors of the last training are counted
    from wR, and its experts are merged into it.

    Example:
        >>> MergedStart("task_arithmetic", scaling=0.3).describe()
        'task_arithmetic, scaling 0.3'

    Source: McMahan et al. 2017, Communication-efficient learning of deep networks from decentralized data
    (FedAvg, arXiv 1602.05629), with few exchanges; Zhou et al. 2024, ATM: improving model merging by
    alternating tuning and merging (arXiv 2411.03055). Differs: any merge method, a learning-rate schedule for
    each round, and experts that are merged at the end by any other.
    """

    method: str
    """How the experts of `first_round` are merged into the weights that the training starts from: name of a
    merge method that reads no examples; `saft methods` lists them."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of the method; `saft methods NAME` lists them."""
    scaling: FiniteFloat | None = None
    """The scaling coefficient; null takes the method's default. It is not chosen on validation data."""
    rounds: Count = 1
    """How often the first round is trained and merged, each time from the merge of the time before, at least
    1. Every one takes the steps of `first_round`."""

    def check_options(self) -> None:
        """Check what the methods know.

        Raises:
            UserError: there is no such method or parameter, or it gives no single model from weights alone.
        """
        from saft.merging.methods import METHODS
        from saft.merging.per_task import PerTaskMethod

        problems: list[str] = []
        with collecting(problems, "method: "):
            method = METHODS.get(self.method)
        if problems:
            raise UserError(*problems)
        with collecting(problems, "parameters: "):
            method.build(self.parameters)
        if issubclass(method, PerTaskMethod):
            problems.append(f"method: {self.method} gives no single model that a training could start from")
        if method.calibration:
            problems.append(
                f"method: {self.method} reads examples ({method.calibration}); take one that reads none"
            )
        if method.needs_adapters:
            problems.append(f"method: {self.method} merges LoRA adapters into an adapter; take another")
        if self.scaling is not None and len(method.scaling_grid) == 1:
            problems.append(f"scaling: {self.method} has no scaling coefficient; leave it out")
        if problems:
            raise UserError(*problems)

    def describe(self) -> str:
        """Return what is done, in a few words."""
        options = self.parameters | ({} if self.scaling is None else {"scaling": self.scaling})
        rounds = [] if self.rounds == 1 else [f"{self.rounds} rounds"]
        return ", ".join([self.method, *(f"{key} {value}" for key, value in options.items()), *rounds])
