"""An interrupt in the middle of an experiment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from saft.experiment.session import Session


@contextmanager
def interrupted_at_score(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt what is within, as Ctrl-C does, when the score of this number is to be computed."""
    scored, score = [], Session.outcomes

    def interrupted(self: Session, *arguments: Any) -> Any:
        scored.append(arguments[0])
        if len(scored) == number:
            raise KeyboardInterrupt
        return score(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "outcomes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield
