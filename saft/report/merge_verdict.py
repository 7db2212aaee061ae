"""Who hurts whom in the merges, arm by arm: the verdict of `saft measure` on what a run has measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saft.interference.hurting import hurting_models, hurting_pairs
from saft.report.cell_result import CellResult
from saft.report.results import Results
from saft.report.side_by_side import own_name

__all__ = ["SHOWN_BELOW", "merge_verdict"]

SHOWN_BELOW = ("harm", "pair_harm")  # the matrices that the sentences rest on


def merge_verdict(results: Results, train_size: str) -> list[str]:
    """Return the sentences on who hurts whom, each after its arm; none where no merge was measured for it.

    Of several seeds one sentence says first what holds in how many of them.

    Args:
        results: the experiment.
        train_size: of the cells.
    """
    several = len(results.protocol.seeds) > 1
    sentences = []
    for arm in results.arms:
        cells = [c for c in results.cells if (c.train_size, c.arm) == (train_size, arm) and c.verdict]
        if len(cells) > 1:
            sentences.append(f"{arm}, in {len(cells)} seeds: {'; '.join(_together(results, cells))}.")
        for cell in cells:
            whose = f"{arm}, seed {cell.seed}" if several else arm
            sentences += [f"{whose}: {sentence}" for sentence in cell.verdict]
    return sentences


def _together(results: Results, cells: Sequence[CellResult]) -> Iterator[str]:
    """Yield who is named in how many of the seeds, the most often named first."""
    examples = {task: facts.validation for task, facts in results.protocol.tasks.items()}
    models, pairs = dict[str, int](), dict[tuple[str, str], int]()
    for cell in cells:
        own = {own_name(name, results.quantities): name for name in cell.measured}
        measured = {name: cell.measured[held] for name, held in own.items()}
        quantities = {
            name: results.quantities[held] for name, held in own.items() if held in results.quantities
        }
        for model in hurting_models(measured, quantities, examples):
            models[model] = models.get(model, 0) + 1
        for pair in hurting_pairs(measured, examples):
            pairs[pair] = pairs.get(pair, 0) + 1
    said = {f"{model} hurts the merge": times for model, times in models.items()}
    said |= {f"{task} loses by {other}": times for (task, other), times in pairs.items()}
    for what, times in sorted(said.items(), key=lambda item: -item[1]):
        yield f"{what} in {times} of {len(cells)}"
    if not said:
        yield "nobody is seen to hurt in any of them"
