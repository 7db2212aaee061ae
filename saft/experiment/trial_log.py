"""Trials that are known already, in a file: a search that was interrupted asks for none of them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saft.experiment.selection import Candidate, Validate
from saft.files.staging import write_text
from saft.tasks.metric import Score

__all__ = ["TrialLog"]


class TrialLog:
    """Scores of the candidates that a search has asked for, written after each.

    A search whose candidates follow from its seed and from the scores before asks for the same ones when it
    begins anew; so the answers alone make it go on where it stopped, and end as if it had not.

    Args:
        file: where they are kept; need not exist. A damaged one, and one that rests on something else, is
            as good as none.
        rests_on: what decides the scores, plain values.

    Example:
        >>> from pathlib import Path
        >>> log = TrialLog(Path("never-written.trials"), {"seed": 0})
        >>> log.known({"scaling": 0.3}) is None
        True
    """

    def __init__(self, file: Path, rests_on: Mapping[str, Any]) -> None:
        self.file = file
        self.rests_on = json.loads(json.dumps(rests_on))
        self._trials = self._read()

    def known(self, candidate: Candidate) -> dict[str, Score] | None:
        """Return task -> score of a candidate that was asked for before, or None."""
        for trial in self._trials:
            if trial["candidate"] == candidate:
                return {task: Score(**score) for task, score in trial["validation"].items()}
        return None

    def answering(self, validate: Validate, answered: Callable[[], None] = lambda: None) -> Validate:
        """Return the function that asks only for what is not known, and keeps the answer.

        Args:
            validate: gives the scores of a candidate, at a cost.
            answered: is called after every answer, also one that was known.
        """

        def answer(candidate: Candidate) -> dict[str, Score]:
            if (scores := self.known(candidate)) is None:
                scores = validate(candidate)
                plain = {task: dataclasses.asdict(score) for task, score in scores.items()}
                self._trials.append({"candidate": dict(candidate), "validation": plain})
                write_text(self.file, json.dumps({"rests_on": self.rests_on, "trials": self._trials}) + "\n")
            answered()
            return scores

        return answer

    def _read(self) -> list[dict[str, Any]]:
        try:
            content = json.loads(self.file.read_text("utf-8"))
            return list(content["trials"]) if content["rests_on"] == self.rests_on else []
        except (OSError, ValueError, TypeError, KeyError):
            return []
