"""Several runs beside each other."""

from __future__ import annotations

import pytest

from saft.errors import UserError
from saft.report import summarize, table
from saft.report.report_files import rewrite, write
from saft.report.side_by_side import labels, side_by_side
from tests.report.made_up import mapping, typed
from tests.report.test_terminal import printed

SMALL = {"seeds": (0, 1), "methods": ("average", "ties")}


def runs(change=lambda results: None):
    one, other = mapping(arms=("adamw",), **SMALL), mapping(arms=("adamw", "sam"), gain=0.05, **SMALL)
    change(other)
    return {"a": typed(one), "b": typed(other)}


def test_arms_of_all_runs_are_compared():
    results = side_by_side(runs())
    assert list(results.arms) == ["adamw (a)", "adamw (b)", "sam (b)"]
    assert len(results.cells) == 6
    compared = summarize(results).comparisons
    assert [(c.arm, c.baseline) for c in compared] == [("sam (b)", "adamw (a)"), ("sam (b)", "adamw (b)")]
    assert all(c.merged.outcome == "better" for c in compared)
    assert "sam (b)" in printed(table(results))


def test_a_run_of_other_seeds_train_sizes_and_methods_can_be_compared():
    one = typed(mapping(arms=("adamw",), seeds=(0,), methods=("ties",)))
    other = typed(mapping(arms=("sam",), seeds=(0, 1), sizes=("limited", "plenty"), methods=("ties", "pcb")))
    results = side_by_side({"a": one, "b": other})
    assert results.protocol.seeds == [0, 1]
    assert results.protocol.tasks["tweets"].train == {"limited": 400, "plenty": 9000}
    assert "limited, adamw (a): no result for seed 1" in summarize(results).missing


def test_what_was_measured_in_two_ways_stays_apart():
    def change(results):
        results["quantities"] = results["quantities"] | {"sharpness": {"meaning": "rho = 0.1", "per": "task"}}

    results = side_by_side(runs(change))
    assert {"sharpness (a)", "sharpness (b)", "norm"} <= set(results.quantities)
    row = summarize(results).rows["limited", "sam (b)"]
    assert row.measured["sharpness (a)"].mean is None
    assert row.measured["sharpness (b)"].mean is not None


def task(results):
    return results["protocol"]["tasks"]["tweets"]


REASONS = {
    "tasks.tweets.metric: F1 in b, accuracy in a": lambda r: task(r)["metric"].update(name="F1"),
    "tasks.tweets.test: 999 in b, 2000 in a": lambda r: task(r).update(test=999),
    "tasks.tweets.head: linear in b, zero_shot in a": lambda r: task(r)["facts"].update(head="linear"),
    "tasks.tweets.train, limited: 7 in b, 400 in a": lambda r: task(r)["train"].update(limited=7),
    "train size limited: 500 in b, 400 in a": lambda r: r["protocol"]["train_sizes"].update(limited=500),
    "examples: accuracy on tweets: 70.0 in b, 60.0 in a": lambda r: r["base"]["tweets"]["test"].update(value=0.7),
    "merges.ties.parameters: {'density': 0.1} in b, {} in a": lambda r: r["config"].update(
        merges={"ties": {"parameters": {"density": 0.1}}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_be_compared_is_told_with_the_reason(reason):
    def change(results):
        results["config"]["merges"] = {"ties": {}}
        REASONS[reason](results)

    pair = runs(change)
    pair["a"].config["merges"] = {"ties": {}}
    with pytest.raises(UserError) as raised:
        side_by_side(pair)
    assert [str(problem) for problem in raised.value.problems] == [
        f"b cannot stand beside a: {_whole(reason)}"
    ]


def _whole(reason):
    return f"the pretrained model or its {reason}" if reason.startswith("examples") else reason


def test_other_tasks_splits_and_models_are_told():
    other = typed(mapping(arms=("sam",), tasks=("tweets", "stories"), test=False, **SMALL))
    with pytest.raises(UserError) as raised:
        side_by_side({"a": runs()["a"], "b": other})
    text = str(raised.value)
    assert "b cannot stand beside a: tasks: tweets, stories in b, reuters, newsgroups, tweets" in text
    assert "scores are of: validation in b, test in a" in text

    def change(results):
        results["base"], results["config"]["model"] = {}, "other"

    with pytest.raises(UserError, match="model: other in b, package://"):
        side_by_side(runs(change))


def test_scores_of_another_metric_are_not_compared():
    def another(results):
        task(results)["metric"].update(name="Matthews")
        results["base"]["tweets"]["validation"]["value"] = -0.4

    with pytest.raises(UserError) as refused:
        side_by_side(runs(another))
    (problem,) = refused.value.problems
    assert problem.endswith("tasks.tweets.metric: Matthews in b, accuracy in a")


def test_the_same_model_on_another_device_can_be_compared():
    side_by_side(runs(lambda results: results["base"]["tweets"]["test"].update(value=0.601)))


def test_folders_are_called_by_what_tells_them_apart():
    assert list(labels(["runs/one", "runs/two"])) == ["one", "two"]
    assert list(labels(["one/run", "two/run"])) == ["one/run", "two/run"]
    with pytest.raises(UserError, match="runs/one is given twice"):
        labels(["runs/one", "runs/two", "runs/../runs/one"])


@pytest.mark.slow
def test_a_page_of_both(tmp_path):
    for name, results in runs().items():
        write(results, tmp_path / name)
    before = (tmp_path / "a" / "report.html").read_bytes()
    folders = [tmp_path / "a", tmp_path / "b"]
    text = printed(rewrite(folders, tmp_path / "both"))
    assert "sam (b)" in text
    assert str(tmp_path / "both" / "report.html") in "".join(text.split("\n"))
    assert "adamw (a)" in (tmp_path / "both" / "report.html").read_text("utf-8")
    assert (tmp_path / "a" / "report.html").read_bytes() == before
    rewrite(folders, tmp_path / "both")  # once more, over the earlier one
    rewrite([tmp_path / "both"])
    with pytest.raises(UserError, match=r"without it .*a is written"):
        rewrite(folders[:1], tmp_path / "one")
    (tmp_path / "both" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"--out: .*both: holds something else than a report"):
        rewrite(folders, tmp_path / "both")


def of_size(size, examples):
    """Return a run of one arm at one train size."""
    results = mapping(arms=("adamw",), seeds=(0,), sizes=(size,), methods=("ties",))
    results["protocol"]["train_sizes"][size] = examples
    for facts in results["protocol"]["tasks"].values():
        facts["train"] = {size: examples or 9000}
    return typed(results)


def test_what_the_first_run_lacks_is_compared_among_the_others():
    """The third run's 1000 examples stood in the protocol for the second one's 100."""
    with pytest.raises(UserError, match="c cannot stand beside b: train size few: 1000 in c, 100 in b"):
        side_by_side({"a": of_size("all", None), "b": of_size("few", 100), "c": of_size("few", 1000)})


def test_a_name_of_two_methods_is_told():
    one, other = of_size("few", 9), of_size("few", 9)
    one.config["merges"], other.config["merges"] = {"mine": {"method": "ties"}}, {"mine": {"method": "pcb"}}
    with pytest.raises(UserError, match=r"b cannot stand beside a: merges.mine.method: pcb in b, ties in a"):
        side_by_side({"a": one, "b": other})
    of_one = side_by_side({"a": one, "b": one})  # which may stand beside others itself
    with pytest.raises(UserError, match=r"merges.mine.method: pcb in b, ties in both"):
        side_by_side({"both": of_one, "b": other})
