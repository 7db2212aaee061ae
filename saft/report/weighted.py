"""What a weight for each task gives over one coefficient: a sentence for every arm."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from saft.report.cell_result import CellResult, Split, Weighted
from saft.report.paired_gain import PairedGain
from saft.report.results import Results

__all__ = ["weighted_sentences"]


def weighted_sentences(results: Results, train_size: str) -> list[str]:
    """Return a sentence for each arm of a train size whose tasks were weighed; none where they were not.

    The gain is on test examples, paired with the merge of one coefficient; of several seeds, which have the
    same test examples, it is the mean in each group of examples.

    Args:
        results: of an experiment.
        train_size: its name.
    """
    sentences = []
    for arm in results.arms:
        cells = [cell for cell in results.cells if (cell.train_size, cell.arm) == (train_size, arm)]
        if weighed := [(cell, one) for cell in cells if (one := _weighted(cell)) is not None]:
            sentences.append(_sentence(results, arm, weighed))
    return sentences


def _weighted(cell: CellResult) -> Weighted | None:
    return next((merge.weighted for merge in cell.merges.values() if merge.weighted is not None), None)


def _sentence(results: Results, arm: str, weighed: Sequence[tuple[CellResult, Weighted]]) -> str:
    written = [
        (f"seed {cell.seed}: " if len(weighed) > 1 else "") + _in_words(one.weights) for cell, one in weighed
    ]
    split: Split = "test" if results.protocol.tests else "validation"
    known = [one.validation if one.test is None else one.test for _, one in weighed]
    scores = [
        f"{task} {facts.metric.format(fmean(scores[task].value for scores in known))}"
        for task, facts in results.protocol.tasks.items()
    ]
    scores += [
        f"held out {task} {facts.metric.format(fmean(of))}"
        for task, facts in results.protocol.held_out.items()
        if len(of := _held_out([one for _, one in weighed], task, split)) == len(weighed)
    ]
    text = f"{arm}, {'; '.join(written)}: {split} {', '.join(scores)}"
    gains = [one.gain for _, one in weighed if one.gain]
    if len(gains) < len(weighed):
        return text
    gain = PairedGain([fmean(group) for group in zip(*gains, strict=True)])
    return f"{text}; {gain.in_words} one shared coefficient: {gain.written()} in % of the experts' scores"


def _held_out(models: Sequence[Weighted], task: str, split: Split) -> list[float]:
    """Return the scores on a task that is held out, of those models that have one."""
    known = (one.held_out[task].on(split) for one in models if task in one.held_out)
    return [score.value for score in known if score is not None]


def _in_words(weights: dict[str, list[float]]) -> str:
    return ", ".join(f"{task} {' → '.join(f'{weight:g}' for weight in own)}" for task, own in weights.items())
