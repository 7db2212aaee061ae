"""What was searched for a merge, and how: evaluations, candidates, and what was chosen for each seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from saft.report.cell_result import MergeFigures
from saft.report.results import Results
from saft.report.side_by_side import configs_of_runs

__all__ = ["Searched", "how_searched", "searches"]

FEW = 8  # values that are listed; of more, the ends


@dataclass(frozen=True)
class Searched:
    """The search of one merge method in one arm, over the seeds.

    Attributes:
        arm, method: of which.
        evaluations: of all seeds together; each is one pass over the validation examples of all tasks.
        tried: in words, which values of what.
        chosen: in words, for each seed where they differ.
        worth: of what was chosen, mean over seeds: validation score over that of the experts; or None.
    """

    arm: str
    method: str
    evaluations: int
    tried: str
    chosen: str
    worth: float | None


def searches(results: Results, train_size: str) -> list[Searched]:
    """Return the searches at one train size that had a choice.

    Args:
        results: the experiment.
        train_size: whose cells.
    """
    merges: dict[tuple[str, str], list[MergeFigures]] = {}
    for cell in results.cells:
        for method, merge in cell.merges.items() if cell.train_size == train_size else ():
            merges.setdefault((cell.arm, method), []).append(merge)
    every = (_searched(arm, method, of_seeds) for (arm, method), of_seeds in merges.items())
    return [searched for searched in every if searched is not None]


def how_searched(results: Results) -> str:
    """Return a sentence on where the candidates came from, of several runs side by side too.

    Args:
        results: the experiment, whose config says it.
    """
    selections = [config.get("selection") for config in configs_of_runs(results.config)]
    sampled = [isinstance(of, dict) and of.get("search") == "tpe" for of in selections]
    if all(sampled):
        return "Optuna’s TPE drew the candidates"
    if not any(sampled):
        return "Every candidate of a grid was evaluated"
    return "Every candidate of a grid was evaluated, or those that Optuna’s TPE drew"


def _searched(arm: str, method: str, merges: Sequence[MergeFigures]) -> Searched | None:
    candidates = [list(_candidates(merge)) for merge in merges]
    names = dict.fromkeys(name for of_seed in candidates for values in of_seed for name in values)
    values = {name: sorted({v[name] for of_seed in candidates for v in of_seed}) for name in names}
    values = {name: tried for name, tried in values.items() if len(tried) > 1}
    if not values:
        return None
    chosen = [", ".join(f"{_symbol(n)} {_chosen(merge, n):g}" for n in values) for merge in merges]
    worths = [worth for merge in merges if (worth := _worth(merge)) is not None]
    return Searched(
        arm,
        method,
        sum(map(len, candidates)),
        "; ".join(f"{_symbol(name)} {_in_words(tried)}" for name, tried in values.items()),
        chosen[0] if len(set(chosen)) == 1 else "; ".join(chosen),
        sum(worths) / len(worths) if len(worths) == len(merges) else None,
    )


def _candidates(merge: MergeFigures) -> Iterator[dict[str, float]]:
    """Yield what was evaluated; of results that do not know it, the coefficients of the curve."""
    if merge.search:
        yield from (candidate.values for candidate in merge.search)
    else:
        yield from ({"scaling": point.coefficient} for point in merge.curve)


def _chosen(merge: MergeFigures, name: str) -> float:
    return merge.shared.coefficient if name == "scaling" else float(merge.parameters[name])


def _worth(merge: MergeFigures) -> float | None:
    own = {"scaling": merge.shared.coefficient}
    for candidate in merge.search:
        if candidate.values == own | {n: merge.parameters.get(n) for n in candidate.values if n not in own}:
            return candidate.worth
    return None


def _symbol(name: str) -> str:
    return "λ" if name == "scaling" else name.replace("_", " ")


def _in_words(values: Sequence[float]) -> str:
    return (
        ", ".join(_short(values))
        if len(values) <= FEW
        else f"{values[0]:.3g} to {values[-1]:.3g}, {len(values)} values"
    )


def _short(values: Iterable[float]) -> Iterator[str]:
    return (f"{value:g}" for value in values)
