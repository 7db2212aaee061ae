"""What the first screen says."""

from __future__ import annotations

import json

import pytest

from saft.report import summarize
from saft.report.headline import headlines
from saft.report.html import page
from tests.report.made_up import TASKS, made_up, mapping, moved, typed


def test_the_gain_is_over_the_best_of_the_others_and_at_equal_passes():
    results = mapping(arms=("adamw", "adamw_passes", "sam"), gain=0.0, noise=0.0)
    moved(results, "adamw", 0.02)
    moved(results, "sam", 0.01)
    results = typed(results)
    (headline,) = headlines(results, summarize(results))
    (gain,) = headline.gains
    assert (gain.over_best.baseline, gain.equal_passes.baseline) == ("adamw", "adamw_passes")
    assert [figures[0] for figures in gain.figures] == ["−1.0", "+1.0"]
    assert gain.answer == "No"


def test_one_arm_that_is_both_is_told_once():
    results = made_up(arms=("adamw_passes", "sam"), gain=0.05, noise=0.001)
    (headline,) = headlines(results, summarize(results))
    (figures,) = headline.gains[0].figures
    assert "as many passes: adamw_passes" in figures[1]
    assert headline.gains[0].answer == "Yes"


def test_one_seed_is_told_once():
    for gain, outcome in ((0.0, "within the noise"), (0.05, "ahead, one seed")):
        results = made_up(arms=("adamw", "sam"), seeds=(0,), gain=gain, noise=0.0)
        (headline,) = headlines(results, summarize(results))
        for _, _, certainty, told in headline.gains[0].figures:
            assert told == outcome
            assert " over the examples" in certainty
            assert f"{told}; {certainty}".count("one seed") == 1


def test_chosen_steps_are_not_equal_passes():
    results = made_up(arms=("adamw_selected", "sam"))
    (headline,) = headlines(results, summarize(results))
    assert headline.gains[0].equal_passes is None


def test_lower_is_better_where_it_is():
    results = made_up(
        arms=("adamw", "adamw_passes", "sam"), tasks=(*TASKS, "stories"), gain=0.05, noise=0.001
    )
    accuracy, perplexity = headlines(results, summarize(results))
    assert (accuracy.gains[0].answer, perplexity.gains[0].answer) == ("Yes", "Yes")
    assert list(perplexity.by_task) == ["stories"]


def test_of_many_gains_the_foremost_are_the_largest():
    results = mapping(arms=("adamw", "sam"), gain=0.05)
    of_sam = [cell for cell in results["cells"] if cell["arm"] == "sam"]
    for i in range(8):
        results["arms"][f"sam_{i}"] = results["arms"]["sam"]
        results["cells"] += json.loads(json.dumps([cell | {"arm": f"sam_{i}"} for cell in of_sam]))
        moved(results, f"sam_{i}", -0.01 + 0.003 * i)
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert [gain.arm for gain in headline.gains] == ["sam", *(f"sam_{i}" for i in range(8))]
    assert [gain.arm for gain in headline.foremost] == ["sam_7", "sam_6", "sam_5", "sam_4", "sam", "sam_3"]


def test_without_ascent_there_is_no_gain():
    results = made_up(arms=("adamw", "adamw_passes"))
    (headline,) = headlines(results, summarize(results))
    assert headline.gains == []
    assert list(headline.merged) == ["adamw", "adamw_passes"]


def lacking(method, results):
    for cell in results["cells"]:
        if cell["arm"] == "sam":
            del cell["merges"][method]


def diverged(method, results):
    for cell in results["cells"]:
        if cell["arm"] == "sam":
            for score in cell["merges"][method]["shared"]["test"].values():
                score["value"] = None


@pytest.mark.parametrize("without", [lacking, diverged])
def test_the_picture_is_over_the_methods_that_all_arms_have(without):
    results = mapping(arms=("adamw", "sam"), methods=("average", "ties"), gain=0.0, noise=0.0)
    without("average", results)  # the weaker method: over its own ones, sam would look better
    results = typed(results)
    (headline,) = headlines(results, summarize(results))
    assert headline.merged["sam"].mean == headline.merged["adamw"].mean
    for of_arms in headline.by_task.values():
        assert of_arms["sam"][1].mean == of_arms["adamw"][1].mean
    assert "Means are over ties, the merge methods that all arms have." in page(results)


def test_arms_without_a_method_in_common_are_over_their_own_and_it_is_told():
    results = mapping(arms=("adamw", "sam"), methods=("average", "ties"))
    lacking("average", results)
    for cell in results["cells"]:
        if cell["arm"] == "adamw":
            del cell["merges"]["ties"]
    results = typed(results)
    (headline,) = headlines(results, summarize(results))
    assert list(headline.merged) == ["adamw", "sam"]
    assert headline.over == "each arm’s own merge methods: the arms have none in common"


def test_what_the_intervals_are_over_is_told_as_it_is():
    results = mapping(arms=("adamw", "sam"), seeds=(0, 1, 2))
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert headline.over == ""
    assert headline.intervals("test") == "3 seeds"
    results["cells"] = [c for c in results["cells"] if c["arm"] == "adamw" or c["seed"] == 0]
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert headline.intervals("test") == "3 seeds, of one seed over the test examples"
    results["cells"] = [c for c in results["cells"] if c["seed"] == 0]
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert headline.intervals("test") == "the test examples"
    for cell in results["cells"]:
        for merge in cell["merges"].values():
            for score in merge["shared"]["test"].values():
                score["standard_error"] = None
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert headline.intervals("test") == ""
    assert "with its 95 % interval over" not in page(typed(results))


def test_of_long_names_fewer_gains_are_foremost():
    results = mapping(arms=("adamw", "sam"), gain=0.05)
    name = "sam with drift (five/run)"
    for i in range(4):
        results["arms"][f"{name}_{i}"] = results["arms"]["sam"]
        of_sam = [cell | {"arm": f"{name}_{i}"} for cell in results["cells"] if cell["arm"] == "sam"]
        results["cells"] += of_sam
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert (len(headline.gains), len(headline.foremost)) == (5, 3)


@pytest.mark.parametrize(
    ("passes", "equal"), [(156.7, True), (157, True), (155.5, True), (154, False), (157.5, False)]
)
def test_steps_are_whole_so_that_a_little_more_is_as_many_passes(passes, equal):
    results = mapping(arms=("adamw", "sam"), methods=("ties",))
    results["arms"]["adamw"]["passes"], results["arms"]["sam"]["passes"] = 157, passes
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert (headline.gains[0].equal_passes is not None) == equal
