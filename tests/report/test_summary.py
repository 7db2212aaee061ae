"""Aggregation of made-up results."""

from __future__ import annotations

import copy
import json
from statistics import fmean, stdev

import pytest

from saft.report import summarize
from tests.report.made_up import ARMS, TASKS, made_up


def cells(results, arm, regime="limited"):
    return [cell for cell in results["cells"] if (cell["regime"], cell["arm"]) == (regime, arm)]


def test_figures_are_means_over_tasks_then_over_seeds():
    results = made_up()
    row = summarize(results).rows["limited", "sam"]
    experts = [fmean(e["test"] for e in cell["experts"].values()) for cell in cells(results, "sam")]
    ties = [fmean(cell["merges"]["ties"]["shared"]["test"].values()) for cell in cells(results, "sam")]
    assert row.seeds == [0, 1, 2]
    assert row.experts.mean == pytest.approx(fmean(experts))
    assert row.experts.deviation == pytest.approx(stdev(experts))
    assert row.merges["ties"].shared.absolute.mean == pytest.approx(fmean(ties))
    assert row.merges["ties"].shared.absolute.deviation == pytest.approx(stdev(ties))
    normalized = [
        fmean(cell["merges"]["ties"]["shared"]["test"][t] / cell["experts"][t]["test"] for t in TASKS)
        for cell in cells(results, "sam")
    ]
    assert row.merges["ties"].shared.normalized.mean == pytest.approx(fmean(normalized))


def test_both_protocols_with_their_coefficients():
    results = made_up(seeds=(0, 1))
    merge = summarize(results).rows["limited", "adamw"].merges["pcb"]
    assert merge.shared.coefficients == {0: 0.5, 1: 0.5}
    assert (
        merge.per_task.coefficients[1]
        == cells(results, "adamw")[1]["merges"]["pcb"]["per_task"]["coefficients"]
    )
    assert list(merge.curve) == [0.1, 0.3, 0.5, 0.7, 1.0]
    assert merge.per_task.absolute.mean >= merge.shared.absolute.mean


def test_order_is_that_of_the_results():
    summary = summarize(made_up(regimes=("plenty", "limited")))
    assert list(summary.rows) == [(regime, arm) for regime in ("plenty", "limited") for arm in ARMS]
    assert [row.arm for row in summary.of_regime("limited")] == list(ARMS)
    assert summary.split == "test"
    assert summary.missing == []


def test_interference_and_sharpness():
    results = made_up()
    row = summarize(results).rows["limited", "asam"]
    first = cells(results, "asam")[0]["interference"]["whole"]
    assert row.cosine.mean == pytest.approx(
        fmean(first["cosine"][s][t] for s in range(4) for t in range(4) if s != t)
    )
    assert row.norm.by_seed[0] == pytest.approx(fmean(first["norm"]["l2"]))
    assert row.sign_conflict["rate"].mean == pytest.approx(0.83)
    assert row.sign_conflict["trimmed_rate"].mean == pytest.approx(0.4)
    assert row.sharpness.mean == pytest.approx(0.06)
    assert row.sharpness_rho == 0.05


def test_interference_follows_its_own_order_of_tasks():
    results = made_up(seeds=(0,))
    expected = summarize(results).rows["limited", "sam"]
    for cell in results["cells"]:
        order = list(range(4))[::-1]
        part = cell["interference"]
        part["tasks"] = [part["tasks"][i] for i in order]
        part["whole"]["norm"]["l2"] = [part["whole"]["norm"]["l2"][i] for i in order]
        part["whole"]["cosine"] = [[part["whole"]["cosine"][s][t] for t in order] for s in order]
    row = summarize(results).rows["limited", "sam"]
    assert row.norm_tasks == expected.norm_tasks
    assert row.cosine_matrix == expected.cosine_matrix


def test_without_a_test_split_the_figures_are_validation_at_the_chosen_coefficients():
    results = made_up(test=False)
    with_test = summarize(made_up(test=True))
    summary = summarize(results)
    assert summary.split == "validation"
    assert summary.base == {task: scores["validation"] for task, scores in results["base"].items()}
    # In the made-up results both splits hold the same numbers, so reading the curve must give them back.
    for key, row in summary.rows.items():
        assert row.merges == with_test.rows[key].merges
    assert "test split was not read" in summary.verdict["limited"][0].conclusion


def test_test_accuracies_may_be_null_one_by_one():
    results = made_up(test=False, seeds=(0,))
    for cell in results["cells"]:
        for merge in cell["merges"].values():
            for protocol in ("shared", "per_task"):
                merge[protocol]["test"] = dict.fromkeys(TASKS)
    assert summarize(results).split == "validation"


def test_an_unfinished_grid_is_summarized_and_says_what_is_missing():
    results = made_up(regimes=("limited", "plenty"))
    results["cells"] = [
        cell
        for cell in results["cells"]
        if (cell["regime"], cell["arm"]) != ("plenty", "asam") and (cell["arm"], cell["seed"]) != ("sam", 2)
    ]
    summary = summarize(results)
    assert ("plenty", "asam") not in summary.rows
    assert summary.rows["plenty", "sam"].seeds == [0, 1]
    assert "plenty, asam: no result for seed 0, 1, 2" in summary.missing
    assert "limited, sam: no result for seed 2" in summary.missing
    (against_adamw,) = [
        c for c in summary.comparisons if (c.regime, c.arm, c.baseline) == ("limited", "sam", "adamw")
    ]
    assert set(against_adamw.difference.by_seed) == {0, 1}


def test_nothing_yet():
    results = made_up()
    results["cells"] = []
    summary = summarize(results)
    assert summary.rows == {}
    assert len(summary.missing) == len(ARMS)


@pytest.mark.parametrize("absent", ["interference", "sharpness", "trimmed", "merges", "base"])
def test_optional_parts_may_be_absent(absent):
    results = made_up(seeds=(0, 1))
    for cell in results["cells"]:
        if absent == "interference":
            del cell["interference"]
        elif absent == "trimmed":
            cell["interference"]["trimmed"] = None
        elif absent == "merges":
            cell["merges"] = {}
        elif absent == "sharpness":
            for expert in cell["experts"].values():
                expert["sharpness"] = None
    if absent == "base":
        del results["base"]
    row = summarize(results).rows["limited", "sam"]
    assert row.experts.n == 2
    assert (row.cosine is None) == (absent == "interference")
    assert ("trimmed_rate" in row.sign_conflict) == (absent not in ("interference", "trimmed"))
    assert (row.sharpness is None) == (absent == "sharpness")
    assert (row.merged is None) == (absent == "merges")


def test_an_infinite_sharpness_is_left_out_not_averaged():
    results = made_up(seeds=(0, 1))
    cells(results, "sam")[0]["experts"]["tweets"]["sharpness"]["worst_case"] = float("inf")
    cells(results, "sam")[1]["experts"]["tweets"]["sharpness"]["worst_case"] = (
        None  # as written to results.json
    )
    row = summarize(results).rows["limited", "sam"]
    assert row.sharpness is None
    assert "tweets" not in row.sharpness_tasks
    assert row.sharpness_tasks["reuters"].n == 2


def test_the_results_may_have_been_through_json():
    results = made_up(regimes=("limited", "plenty"))
    before = copy.deepcopy(results)
    assert summarize(json.loads(json.dumps(results))) == summarize(results)
    assert results == before
