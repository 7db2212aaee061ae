"""The untouched base on every task: what fine-tuning and merging start from."""

from __future__ import annotations

from collections.abc import Iterator

from saft.experiment.session import Session
from saft.experiment.stages.step import Step
from saft.progress import Bar
from saft.tasks import Score

__all__ = ["base_model_steps"]


def base_model_steps(session: Session) -> Iterator[Step]:
    """Yield the steps that give the base's validation and test scores of each task.

    Validation and test examples are the same at every train size and seed.
    """
    foundations = session.foundations
    first = session.resolved.cells[0]
    for name in session.tasks:
        rests_on = foundations.base(name)
        for split in ("validation", "test") if session.config.test else ("validation",):

            def compute(_: Bar, name: str = name, split: str = split) -> Score:
                examples = getattr(session.splits(first.train_size, first.seed)[name], split)
                model = session.model(name, session.folder.base)
                return session.score(name, model, examples)

            yield Step(
                f"base/{name}/{split}",
                Score,
                f"evaluate the base model on {name}",
                foundations.tested(rests_on) if split == "test" else rests_on,
                float(session.sizes[name][split]),
                compute,
            )
