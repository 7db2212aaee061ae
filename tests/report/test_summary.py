"""Aggregation of made-up results."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest

from saft.report import summarize
from saft.tasks.metric import Metric
from tests.report.made_up import ACCURACY, ARMS, PERPLEXITY, TASKS, made_up, mapping, typed

METRIC, OTHER = Metric(**ACCURACY), Metric(**PERPLEXITY)
MIXED = (*TASKS, "stories")


def cells(results, arm, size="limited"):
    return [cell for cell in results["cells"] if (cell["train_size"], cell["arm"]) == (size, arm)]


def values(scores):
    return {task: score["value"] for task, score in scores.items()}


def test_figures_are_means_over_tasks_then_over_seeds():
    results = mapping()
    row = summarize(typed(results)).rows["limited", "sam"]
    of = row.by_metric[METRIC]
    experts = [fmean(e["test"]["value"] for e in cell["experts"].values()) for cell in cells(results, "sam")]
    ties = [
        fmean(values(cell["merges"]["ties"]["shared"]["test"]).values()) for cell in cells(results, "sam")
    ]
    assert row.seeds == [0, 1, 2]
    assert of.experts.mean.mean == pytest.approx(fmean(experts))
    assert of.experts.mean.deviation == pytest.approx(stdev(experts))
    assert of.merges["ties"].shared.mean.mean == pytest.approx(fmean(ties))
    assert of.merges["ties"].shared.mean.deviation == pytest.approx(stdev(ties))
    normalized, gains = [], []
    for cell in cells(results, "sam"):
        merged = values(cell["merges"]["ties"]["shared"]["test"])
        own = {t: e["test"]["value"] for t, e in cell["experts"].items()}
        base = {t: b["test"]["value"] for t, b in results["base"].items()}
        normalized.append(fmean(merged[t] / own[t] for t in TASKS))
        gains.append(fmean((merged[t] - base[t]) / (own[t] - base[t]) for t in TASKS))
    assert of.merges["ties"].shared.normalized.mean == pytest.approx(fmean(normalized))
    assert of.merges["ties"].shared.gain_kept.mean == pytest.approx(fmean(gains))


def test_both_protocols_with_their_coefficients():
    results = mapping(seeds=(0, 1))
    merge = summarize(typed(results)).rows["limited", "adamw"].by_metric[METRIC].merges["pcb"]
    chosen = cells(results, "adamw")[1]["merges"]["pcb"]["per_task"]["coefficients"]
    assert merge.shared_coefficients == {0: 0.5, 1: 0.5}
    assert merge.task_coefficients[1] == chosen
    assert list(merge.curve) == [0.1, 0.3, 0.5, 0.7, 1.0]
    assert merge.per_task.mean.mean >= merge.shared.mean.mean


def test_order_is_that_of_the_results():
    summary = summarize(made_up(sizes=("plenty", "limited")))
    assert list(summary.rows) == [(size, arm) for size in ("plenty", "limited") for arm in ARMS]
    assert [row.arm for row in summary.of_size("limited")] == list(ARMS)
    assert summary.split == "test"
    assert summary.missing == []


def test_a_mean_is_over_the_tasks_of_one_metric():
    results = mapping(tasks=MIXED)
    summary = summarize(typed(results))
    assert summary.tasks_of == {METRIC: list(TASKS), OTHER: ["stories"]}
    of = summary.rows["limited", "sam"].by_metric
    own = [cell["experts"]["stories"]["test"]["value"] for cell in cells(results, "sam")]
    assert of[OTHER].experts.mean.mean == pytest.approx(fmean(own))
    alone = summarize(made_up()).rows["limited", "sam"].by_metric[METRIC]
    assert of[METRIC].experts == alone.experts
    assert of[METRIC].merges["ties"].shared == alone.merges["ties"].shared


def test_lower_is_better_where_the_metric_says_so():
    results = mapping(tasks=("stories",), arms=("adamw", "sam"), gain=0.05)
    summary = summarize(typed(results))
    of = {
        arm: summary.rows["limited", arm].by_metric[OTHER].merges["ties"].shared for arm in ("adamw", "sam")
    }
    assert of["sam"].mean.mean < of["adamw"].mean.mean
    assert summary.best("limited", OTHER, "ties", "shared") == of["sam"].mean.mean
    assert 0 < of["sam"].normalized.mean < 1  # perplexity of the expert over that of the merged model
    (comparison,) = summary.comparisons
    assert comparison.merged.values.mean < 0
    assert comparison.merged.outcome == "better"


def test_measured_quantities_whatever_they_are():
    results = mapping()
    for cell in results["cells"]:
        cell["measured"]["drift"] = dict.fromkeys(TASKS, 0.25)
    results["quantities"] = results["quantities"] | {"drift": {"meaning": "of outputs", "per": "task"}}
    row = summarize(typed(results)).rows["limited", "asam"]
    first = cells(results, "asam")[0]["measured"]
    pairs = [first["cosine"][s][t] for s in TASKS for t in TASKS if s != t]
    assert row.measured["cosine"].mean.mean == pytest.approx(fmean(pairs))
    assert row.measured["cosine"].numbers["reuters", "tweets"].mean == pytest.approx(
        first["cosine"]["reuters"]["tweets"]
    )
    assert row.measured["norm"].mean.by_seed[0] == pytest.approx(fmean(first["norm"].values()))
    assert row.measured["sign_conflict"].mean.mean == pytest.approx(0.83)
    assert row.measured["sharpness"].mean.mean == pytest.approx(0.06)
    assert row.measured["drift"].mean.mean == 0.25


def test_memory_is_the_most_of_any_expert():
    results = mapping(seeds=(0, 1), arms=("adamw", "sam"))
    for n, cell in enumerate(cells(results, "sam")):
        for i, expert in enumerate(cell["experts"].values()):
            expert["memory"] = 1e9 * (i + n)
    del cells(results, "sam")[1]["experts"]["tweets"]["memory"]
    rows = summarize(typed(results)).rows
    assert rows["limited", "sam"].memory.by_seed == {0: 3e9}  # of the other seed, one is not known
    assert rows["limited", "adamw"].memory is None


def test_seconds_are_those_of_an_expert_and_its_share_of_the_merge_it_starts_from():
    results = mapping(seeds=(0, 1), arms=("adamw", "sam"))
    assert summarize(typed(results)).rows["limited", "sam"].seconds.mean == 24.0
    next(c for c in results["cells"] if (c["arm"], c["seed"]) == ("sam", 0))["seconds"] += 4 * len(TASKS)
    assert summarize(typed(results)).rows["limited", "sam"].seconds.by_seed == {0: 28.0, 1: 24.0}
    results["cells"][-1]["seconds"] = None
    assert set(summarize(typed(results)).rows["limited", "sam"].seconds.by_seed) == {0}


def test_validation_figures_are_read_off_the_curve():
    results = mapping(test=False)
    summary = summarize(typed(results))
    assert summary.split == "validation"
    merge = cells(results, "sam")[0]["merges"]["ties"]
    at = {point["coefficient"]: values(point["validation"]) for point in merge["curve"]}
    of = summary.rows["limited", "sam"].by_metric[METRIC].merges["ties"]
    assert of.shared.mean.by_seed[0] == pytest.approx(fmean(at[0.5].values()))
    best = {task: at[chosen][task] for task, chosen in merge["per_task"]["coefficients"].items()}
    assert of.per_task.mean.by_seed[0] == pytest.approx(fmean(best.values()))
    assert set(summary.base) == set(TASKS)


def test_an_unfinished_grid_is_summarized_and_says_what_is_missing():
    results = mapping(sizes=("limited", "plenty"))
    results["cells"] = [
        cell
        for cell in results["cells"]
        if (cell["train_size"], cell["arm"]) != ("plenty", "asam")
        and (cell["arm"], cell["seed"]) != ("sam", 2)
    ]
    summary = summarize(typed(results))
    assert ("plenty", "asam") not in summary.rows
    assert summary.rows["plenty", "sam"].seeds == [0, 1]
    assert "plenty, asam: no result for seed 0, 1, 2" in summary.missing
    assert "limited, sam: no result for seed 2" in summary.missing
    (against_adamw,) = [
        c for c in summary.comparisons if (c.train_size, c.arm, c.baseline) == ("limited", "sam", "adamw")
    ]
    assert set(against_adamw.merged.values.by_seed) == {0, 1}


def test_nothing_yet():
    results = mapping()
    results["cells"] = []
    summary = summarize(typed(results))
    assert summary.rows == {}
    assert len(summary.missing) == len(ARMS)


@pytest.mark.parametrize("absent", ["measured", "seconds", "merges", "base"])
def test_optional_parts_may_be_absent(absent):
    results = mapping(seeds=(0, 1))
    for cell in results["cells"]:
        if absent in ("measured", "merges"):
            cell[absent] = {}
        elif absent == "seconds":
            del cell["seconds"]
    if absent == "base":
        results["base"] = {}
    summary = summarize(typed(results))
    row = summary.rows["limited", "sam"]
    of = row.by_metric[METRIC]
    assert of.experts.mean.n == 2
    assert (row.measured["cosine"].mean is None) == (absent == "measured")
    assert (row.seconds is None) == (absent == "seconds")
    assert (of.merges == {}) == (absent == "merges")
    assert (summary.comparisons == []) == (absent == "merges")
    assert (summary.base_mean(METRIC) is None) == (absent == "base")


def test_a_base_that_lacks_a_task_has_no_mean():
    results = mapping(seeds=(0,))
    del results["base"]["tweets"]
    summary = summarize(typed(results))
    assert summary.base_mean(METRIC) is None
    assert summary.rows["limited", "sam"].by_metric[METRIC].merges["ties"].shared.gain_kept is None


def test_what_is_not_finite_is_in_no_mean_and_is_told():
    results = mapping(seeds=(0, 1), arms=("adamw", "sam"))
    first, second = cells(results, "sam")
    first["measured"]["sharpness"]["tweets"] = float("inf")
    second["measured"]["sharpness"]["tweets"] = None  # as written to results.json
    second["merges"]["ties"]["shared"]["test"]["tweets"]["value"] = None
    summary = summarize(typed(results))
    row = summary.rows["limited", "sam"]
    assert row.measured["sharpness"].mean is None
    assert ("tweets",) not in row.measured["sharpness"].numbers
    assert row.measured["sharpness"].numbers["reuters",].n == 2
    assert set(row.by_metric[METRIC].merges["ties"].shared.mean.by_seed) == {0}
    assert set(row.by_metric[METRIC].merges["ties"].shared.tasks["reuters"].by_seed) == {0, 1}
    assert summary.missing == [
        "limited, sam: not finite: sharpness on tweets (seed 0, 1); score of ties on tweets (seed 1)"
    ]


def test_an_arm_that_has_nothing_finite_is_told_in_a_line():
    results = mapping(seeds=(0, 1), arms=("adamw", "sam"))
    for cell in cells(results, "sam"):
        for merge in cell["merges"].values():
            merge["shared"]["test"]["tweets"]["value"] = None
        for of_tasks in cell["measured"].values():
            if isinstance(of_tasks, dict) and isinstance(of_tasks.get("tweets"), float):
                of_tasks["tweets"] = None
    (line,) = summarize(typed(results)).missing
    assert line == (
        "limited, sam, seed 0, 1: not finite: score of average on tweets; score of task_arithmetic on tweets; "
        "score of ties on tweets; and 3 more figures"
    )


def test_what_has_failed_is_told_once_in_its_own_words():
    results = mapping(seeds=(0, 1), arms=("adamw", "sam", "asam"))
    results["cells"] = [cell for cell in results["cells"] if cell["arm"] == "adamw"]
    failed = {"train_size": "limited", "problems": ["train on tweets: training diverged; lower rho"]}
    results["failed"] = [failed | {"arm": "sam", "seed": 1}, failed | {"arm": "asam", "seed": None}]
    assert summarize(typed(results)).missing == [
        "limited, sam, seed 1: train on tweets: training diverged; lower rho",
        "limited, asam: train on tweets: training diverged; lower rho",
        "limited, sam: no result for seed 0",
    ]


def test_arms_are_compared_over_the_methods_and_seeds_that_both_have():
    results = mapping(arms=("adamw", "sam"), noise=0.0, gain=0.01)
    for cell in cells(results, "sam"):
        del cell["merges"]["average"]  # the weakest method: without it, the arm's own mean is higher
    cells(results, "adamw")[0]["merges"]["pcb"]["shared"]["test"]["tweets"]["value"] = None
    (comparison,) = summarize(typed(results)).comparisons
    assert comparison.methods == ["task_arithmetic", "ties", "pcb"]
    assert set(comparison.merged.values.by_seed) == {1, 2}
    assert comparison.merged.values.mean == pytest.approx(0.01)
    assert "limited, sam: no average for seed 0, 1, 2" in summarize(typed(results)).missing
