"""What an arm is, in the words of the report."""

from __future__ import annotations

from typing import Any

from saft.experiment.session import Session
from saft.optim import make_perturbation
from saft.report.chosen_arms import values_in_words
from saft.report.results import ArmFacts

__all__ = ["arm_facts"]


def arm_facts(session: Session, trial: str) -> ArmFacts:
    """Return what the report says of an arm.

    Args:
        session: the experiment in this process.
        trial: the arm, or that of its trials which stands for it.
    """
    options, of = session.resolved.arms[trial], session.resolved.trials[trial]
    if session.resolved.is_given(trial):
        extras = {"experts": "given, not trained here"}
        return ArmFacts(session.resolved.description(of.arm), None, None, None, None, extras=extras)
    ascent = options.perturbation
    made = make_perturbation(**ascent) if ascent else None
    in_words: dict[str, Any] = {}
    if made and made.rise is not None:
        in_words = {"rho": "auto", "rise": made.rise}
    elif made and made.coefficient is not None:
        in_words = {"rho": "others", "coefficient": made.coefficient}
    return ArmFacts(
        description=session.resolved.description(of.arm),
        perturbation=ascent["name"] if ascent else None,
        rho=made.rho if made and not in_words else None,
        steps=options.steps,
        passes=options.passes,
        select_steps=list(options.select_steps),
        extras={key: value for key, value in (ascent or {}).items() if key not in ("name", "rho")}
        | in_words
        | {
            key: _words(part)
            for key in ("optimizer", "penalty", "parametrization", "averaging", "first_round")
            if (part := getattr(options, key))
        }
        | ({"start": f"merged by {options.start.describe()}"} if options.start else {})
        | ({"choices": values_in_words(of.values)} if of.values else {}),
    )


def _words(options: dict[str, Any]) -> str:
    """Return what a penalty, an average or a first round is, as one cell of a table."""
    rest = ", ".join(f"{key} {value}" for key, value in options.items() if key != "name")
    name = options.get("name")
    return (f"{name} ({rest})" if rest else str(name)) if name else rest
