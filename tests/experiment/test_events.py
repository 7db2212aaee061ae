from __future__ import annotations

from saft.experiment.events import Event, TellingBar


def test_a_bar_tells_each_step_and_what_was_done_since_the_last_event() -> None:
    told: list[Event] = []
    bar = TellingBar("full/sam/seed0", told.append, total=100.0)
    bar.stage("train on reuters")
    bar.advance(30.0)
    bar.at(50.0, 100.0)
    bar.stage("evaluate")
    assert told == [
        Event("full/sam/seed0", "train on reuters"),
        Event("full/sam/seed0", "train on reuters", 30.0),
        Event("full/sam/seed0", "train on reuters", 20.0),
        Event("full/sam/seed0", "evaluate"),
    ]
    assert bar.done == sum(event.done for event in told) == 50.0
    assert str(told[0]) == "full/sam/seed0: train on reuters"
