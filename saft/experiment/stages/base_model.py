"""The untouched base on every task: what fine-tuning and merging start from."""

from __future__ import annotations

from collections.abc import Iterator

from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.progress import Bar
from saft.tasks import Score

__all__ = ["base_model_steps"]


def base_model_steps(session: Session) -> Iterator[Step]:
    """Yield the steps that give the base's validation and test scores of each task, also those held out.

    Validation and test examples are the same at every train size and seed.
    """
    foundations, sizes = session.foundations, session.sizes | session.held_out_sizes
    first = session.resolved.cells[0]
    for name in session.scored:
        rests_on = foundations.base(name)
        for split in ("validation", "test") if session.config.test else ("validation",):

            def compute(_: Bar, name: str = name, split: str = split) -> Score:
                splits = session.splits(first.train_size, first.seed)
                examples = getattr({**splits, **session.held_out_splits}[name], split)
                model = session.model(name, session.folder.base)
                return session.score(name, model, examples)

            yield Step(
                f"base/{name}/{split}",
                Score,
                f"evaluate the base model on {name}",
                foundations.tested(rests_on) if split == "test" else rests_on,
                float(sizes[name][split]),
                compute,
            )
