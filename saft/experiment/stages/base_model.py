"""The untouched base on every task: what fine-tuning and merging start from."""

from __future__ import annotations

from collections.abc import Iterator

from saft.experiment.session import Session
from saft.experiment.stages.step import Step, score_steps
from saft.report.cell_result import Split
from saft.tasks import Score

__all__ = ["base_model_steps"]


def base_model_steps(session: Session) -> Iterator[Step]:
    """Yield the steps that give the base's validation and test scores of each task, also those held out.

    Validation and test examples are the same at every train size and seed.
    """
    foundations, sizes = session.foundations, session.sizes | session.held_out_sizes
    first = session.resolved.cells[0]
    for name in session.scored:

        def score(split: Split, name: str = name) -> Score:
            splits = session.splits(first.train_size, first.seed)
            examples = getattr({**splits, **session.held_out_splits}[name], split)
            return session.score(name, session.model(name, session.folder.base), examples)

        words, rests_on = f"evaluate the base model on {name}", foundations.base(name)
        yield from score_steps(session, f"base/{name}", words, rests_on, sizes[name], score)
