"""Who hurts whom in the merges, arm by arm: the verdict of `saft measure` on what a run has measured."""

from __future__ import annotations

from saft.report.results import Results

__all__ = ["SHOWN_BELOW", "merge_verdict"]

SHOWN_BELOW = ("harm", "pair_harm")  # the matrices that the sentences rest on


def merge_verdict(results: Results, train_size: str) -> list[str]:
    """Return the sentences on who hurts whom, each after its arm; none where no merge was measured for it.

    Args:
        results: the experiment.
        train_size: of the cells.
    """
    several = len(results.protocol.seeds) > 1
    return [
        f"{cell.arm}{f', seed {cell.seed}' if several else ''}: {sentence}"
        for cell in results.cells
        if cell.train_size == train_size
        for sentence in cell.verdict
    ]
