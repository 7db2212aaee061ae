"""How an ascent treats storage and micro-batches: the options that every front end hands through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from saft.errors import UserError, did_you_mean
from saft.optim.perturbations.base import Perturbation

__all__ = ["ADVICE", "WHOLE_BATCH", "Advice", "AscentOptions", "LowPrecision"]

LowPrecision = Literal["refuse", "float32"]


@dataclass(frozen=True)
class AscentOptions:
    """What is the same for every perturbation.

    Args:
        per_micro_batch: ascend for each micro-batch; holds one more copy of the gradients.
        fixed_storage: overwrite and restore the weights, instead of pointing parameters at other memory; for
            CUDA graphs. Sharded (DTensor) and aliased parameters are always treated so.
        low_precision: what to do with weights stored in bfloat16 or float16, where a perturbation rounds
            away: "refuse", or "float32": in the replay the parameters are float32 copies at w + epsilon, and
            the gradients are cast back at its end. That replay computes in float32, so its inputs must suit.

    Raises:
        UserError: a value of another kind.

    Example:
        >>> AscentOptions.split({"fixed_storage": True, "every": 10})
        (AscentOptions(per_micro_batch=False, fixed_storage=True, low_precision='refuse'), {'every': 10})
    """

    per_micro_batch: bool = False
    fixed_storage: bool = False
    low_precision: LowPrecision = "refuse"

    def __post_init__(self) -> None:
        for name in ("per_micro_batch", "fixed_storage"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}: must be True or False, but is {getattr(self, name)!r}")
        known = get_args(LowPrecision)
        if self.low_precision not in known:
            hint = did_you_mean(str(self.low_precision), known)
            raise UserError(f"low_precision: unknown value {self.low_precision!r}{hint}")

    def require_form_of(self, perturbation: Perturbation) -> None:
        """Check that a perturbation has a form per micro-batch, if it is asked for.

        Raises:
            UserError: it has none.
        """
        whole = perturbation.uses_first_gradient or perturbation.finishes_gradient
        if self.per_micro_batch and whole:
            raise UserError(
                f"{type(perturbation).__name__} combines the gradients of the whole batch: it has no form per"
                " micro-batch"
            )

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[AscentOptions, dict[str, Any]]:
        """Return these options out of those that a front end was given, and the rest, a perturbation's."""
        names = {field.name for field in fields(cls)}
        own = {name: value for name, value in options.items() if name in names}
        return cls(**own), {name: value for name, value in options.items() if name not in names}


class Advice(NamedTuple):
    """How a step that went wrong is mended, in the words of the code that the user wrote.

    Args:
        replay: where the optimizer steps without a second pass of the batch.
        first_pass: where it steps without a pass that was perturbed, of perturbations that have only one.
        radius: where rho is auto, and was not found before the second pass.
        accumulate: where a second ascent comes before the step, and would drop the first one's gradient.
    """

    replay: str = "run the batch again inside `with ascent.perturbed():`"
    first_pass: str = "put it inside `with first_pass():`"
    radius: str = (
        "rho: auto is found by step(closure) of saft.SAM, by saft train and saft run, or by"
        " saft.optim.auto_radius.find_radius before the first pass; here give a number"
    )
    accumulate: str = (
        "to accumulate micro-batches, put each in `with first_pass():`, and then all of them again inside one"
        " `with perturbed():`, each in `with replay_pass():`; or ascend for each with per_micro_batch=True"
    )


WHOLE_BATCH = AscentOptions()
ADVICE = Advice()
