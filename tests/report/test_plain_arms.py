"""Which arms are the baselines: an arm that differs from the others in what it trains is none."""

from __future__ import annotations

import pytest

from saft.report import summarize
from saft.report.csv_tables import csv_tables
from saft.report.headline import headlines
from saft.report.html import page
from saft.report.latex_tables import latex_tables
from saft.report.plain_arms import plain_arms
from saft.report.results import ArmFacts
from saft.report.terminal import table
from tests.report.made_up import mapping, moved, typed

LORA, WIDE = {"parametrization": "lora (rank 8)"}, {"parametrization": "lora (rank 64)"}
SGD = {"optimizer": "torch.optim:SGD (momentum 0.9)"}


def arm(perturbation=None, **extras):
    return ArmFacts("", perturbation, None, 10, 10, extras=extras)


@pytest.mark.parametrize(
    ("arms", "plain"),
    [
        ({"adamw": arm(), "longer": arm(), "sam": arm("sam")}, ["adamw", "longer"]),
        ({"drift": arm(penalty="drift"), "ema": arm(averaging="ema"), "start": arm(start="merged")}, []),
        ({"sgd": arm(**SGD), "adamw": arm()}, ["adamw"]),
        ({"attention": arm(parametrization="attention"), "adamw": arm()}, ["adamw"]),
        ({"full": arm(parametrization="full"), "adamw": arm()}, ["full", "adamw"]),
        ({"lora": arm(**LORA), "sam": arm("sam", **LORA)}, ["lora"]),
        ({"lora": arm(**LORA), "sam": arm("sam", **LORA), "all": arm()}, ["lora"]),
        ({"lora": arm(**LORA), "wide": arm(**WIDE), "sam": arm("sam", **WIDE)}, ["wide"]),
        ({"sgd": arm(**SGD), "sam": arm("sam", **SGD), "lora": arm(**SGD, **LORA)}, ["sgd"]),
        ({"sam": arm("sam", **LORA), "drift": arm(penalty="drift", **LORA), "adamw": arm()}, ["adamw"]),
        ({}, []),
    ],
)
def test_a_baseline_adds_nothing_and_trains_as_most_do(arms, plain):
    assert plain_arms(arms) == plain


@pytest.mark.parametrize("extras", [LORA, {"parametrization": "sparse (share 0.1)"}, SGD])
def test_an_arm_that_trains_something_else_has_a_gain_and_is_no_baseline(extras):
    results = mapping(arms=("adamw", "adamw_passes", "sam"))
    results["arms"]["adamw_passes"]["extras"] = extras
    moved(results, "adamw_passes", 0.1)
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert {gain.arm: gain.over_best.baseline for gain in headline.gains} == {
        "adamw_passes": "adamw",
        "sam": "adamw",
    }


def test_an_experiment_that_is_wholly_lora_has_its_baseline():
    results = mapping(arms=("adamw", "adamw_passes", "sam"))
    for facts in results["arms"].values():
        facts["extras"] = LORA
    (headline,) = headlines(typed(results), summarize(typed(results)))
    assert [gain.arm for gain in headline.gains] == ["sam"]


def test_experts_that_were_given_are_no_baseline_and_their_passes_are_not_known():
    results = mapping(arms=("adamw", "adamw_passes", "sam"), seeds=(0, 1))
    given = results["arms"]["adamw_passes"]
    given |= {"steps": None, "passes": None, "extras": {"experts": "given"}}
    results["cells"] = [c for c in results["cells"] if (c["arm"], c["seed"]) != ("adamw_passes", 1)]
    for cell in results["cells"]:
        if cell["arm"] == "adamw_passes":
            cell["seconds"] = None
            for expert in cell["experts"].values():
                expert |= {"steps": None, "seconds": None}
    results = typed(results)
    summary = summarize(results)
    assert summary.missing == []  # of a second seed there is nothing to miss
    (headline,) = headlines(results, summary)
    assert [gain.equal_passes for gain in headline.gains if gain.arm == "adamw_passes"] == [None]
    assert {gain.over_best.baseline for gain in headline.gains} == {"adamw"}
    told = next(c.relation for c in summary.comparisons if c.arm == "adamw_passes")
    assert told == "trained elsewhere, in passes that are not known"
    assert csv_tables(results, summary)["costs.csv"].splitlines()[2] == "limited,adamw_passes,,,,,"
    assert "adamw\\_passes & -- & -- & --" in latex_tables(results, summary)["costs.tex"]
    html = page(results)
    assert "Does sharpness-aware fine-tuning merge better?" in html
    assert "<small>given</small>" in html
    table(results)
