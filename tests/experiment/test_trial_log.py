"""What a search has asked for is never asked for again, unless it rests on something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from saft.experiment.sampled_search import Interval, Tpe
from saft.experiment.selection import Candidate, Trial
from saft.experiment.trial_log import TrialLog
from saft.tasks.metric import Score


def peak(candidate: Candidate) -> dict[str, Score]:
    return {"a": Score(1 - (candidate["scaling"] - 0.7) ** 2, 0.1, 5)}


def search(validate) -> list[Trial]:
    return Tpe({"scaling": Interval(0, 2)}, lambda trial: trial.values["a"], 12).trials(validate)


def test_an_interrupted_search_goes_on_and_ends_as_if_it_had_not(tmp_path: Path) -> None:
    file, asked = tmp_path / "figures" / "m.trials", []

    def interrupted(candidate: Candidate) -> dict[str, Score]:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(candidate)
        return peak(candidate)

    with pytest.raises(KeyboardInterrupt):
        search(TrialLog(file, {"seed": 0}).answering(interrupted))
    rest: list[Candidate] = []
    log = TrialLog(file, {"seed": 0})
    trials = search(log.answering(lambda candidate: [rest.append(candidate), peak(candidate)][1]))
    assert trials == search(peak)
    assert [trial.candidate for trial in trials] == asked + rest
    assert len(rest) == 5


@pytest.mark.parametrize("damage", [None, "", "[]", '{"rests_on": {"seed": 0}}', "{"])
def test_what_rests_on_something_else_or_is_damaged_is_not_taken(tmp_path: Path, damage: str | None) -> None:
    file = tmp_path / "m.trials"
    TrialLog(file, {"seed": 0}).answering(peak)({"scaling": 0.3})
    if damage is not None:
        file.write_text(damage)
    assert TrialLog(file, {"seed": 1 if damage is None else 0}).known({"scaling": 0.3}) is None


def test_an_answer_is_the_score_to_the_bit(tmp_path: Path) -> None:
    file = tmp_path / "m.trials"
    score = {"a": Score(1 / 3, None, 7), "b": Score(float("inf"), 0.1, 7)}
    TrialLog(file, {}).answering(lambda _: score)({"scaling": 0.1 + 0.2})
    assert TrialLog(file, {}).known({"scaling": 0.1 + 0.2}) == score
