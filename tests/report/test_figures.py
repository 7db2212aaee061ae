"""The figures of the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from saft.report import summarize
from saft.report.drawing import colours
from saft.report.figures import curve_figure, headline_figure, score_figure, task_figure
from saft.report.headline import headlines
from saft.report.html import page
from saft.tasks.metric import Metric
from tests.report.made_up import ACCURACY, PERPLEXITY, TASKS, made_up, mapping, typed

pytestmark = pytest.mark.slow

METRIC, OTHER = Metric(**ACCURACY), Metric(**PERPLEXITY)


def drawn(figure, results, metric):
    svg = figure(summarize(results), "limited", metric, colours(results.arms), "name")
    return ElementTree.fromstring(svg), svg


def test_scores_are_drawn_as_their_metric_prints_them():
    results = made_up(tasks=(*TASKS, "stories"), arms=("adamw", "sam"), noise=0.0)
    accuracy, _ = drawn(score_figure, results, METRIC)
    perplexity, _ = drawn(score_figure, results, OTHER)
    assert "accuracy in percent" in accuracy.get("aria-label")
    assert "perplexity (lower is better)" in perplexity.get("aria-label")
    ticks = [float(text) for text in "".join(f"{t} " for t in accuracy.itertext()).split() if is_number(text)]
    assert ticks
    assert all(70 < tick < 95 for tick in ticks)
    ticks = [
        float(text) for text in "".join(f"{t} " for t in perplexity.itertext()).split() if is_number(text)
    ]
    assert all(10 < tick < 14 for tick in ticks)


def is_number(text):
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def test_a_curve_is_labelled_by_its_metric():
    figure, _ = drawn(curve_figure, made_up(tasks=("stories",), arms=("adamw", "sam")), OTHER)
    text = " ".join(figure.itertext())
    assert "validation perplexity" in text
    assert "scaling coefficient" in text


def test_identifiers_begin_with_the_name_of_the_figure():
    _, svg = drawn(score_figure, made_up(arms=("adamw", "sam"), seeds=(0,)), METRIC)
    assert {identifier.split("-")[0] for identifier in re.findall(r'id="([^"]+)"', svg)} == {"name"}


def test_without_a_finite_score_there_is_no_figure():
    results = mapping(arms=("adamw",), seeds=(0,), tasks=("tweets",))
    cell = results["cells"][0]
    cell["merges"] = {}
    cell["experts"]["tweets"]["test"]["value"] = None
    typed_results = typed(results)
    assert score_figure(summarize(typed_results), "limited", METRIC, colours(typed_results.arms), "n") == ""


def test_the_picture_of_the_answer_tells_its_figures_to_those_who_do_not_see_it():
    results = made_up(arms=("adamw", "sam"), seeds=(0,), noise=0.0)
    (headline,) = headlines(results, summarize(results))
    for figure in (headline_figure, task_figure):
        label = ElementTree.fromstring(figure(headline, colours(results.arms), "name")).get("aria-label")
        assert "adamw" in label
        assert headline.merged["sam"].written(METRIC) in label or figure is task_figure
        merged = headline.by_task["tweets"]["sam"][1].written(METRIC)
        assert merged in label or figure is headline_figure


def test_pictures_of_two_train_sizes_have_one_axis_which_ends_where_the_metric_does():
    """With two seeds an interval of Student's t is 13 deviations wide: an accuracy was drawn from -100 to 220 %."""
    results = mapping(arms=("adamw", "sam"), seeds=(0, 1), tasks=("tweets",), sizes=("few", "many"))
    for number, cell in enumerate(results["cells"]):
        for merge in cell["merges"].values():
            merge["shared"]["test"]["tweets"]["value"] = 0.9 if number % 2 else 0.3 + 0.1 * number
    results = typed(results)
    every, colour = headlines(results, summarize(results)), colours(results.arms)
    axes = []
    for headline in every:
        drawn = ElementTree.fromstring(headline_figure(headline, colour, "n", every))
        assert " (0.0 to 100.0)" in drawn.get("aria-label")
        axes.append([text for text in drawn.itertext() if re.fullmatch(r"−?\d+", text)])
    assert axes[0] == axes[1]
    assert 3 <= len(axes[0]) <= 7


def test_an_arm_without_merges_has_no_picture():
    results = mapping(arms=("adamw", "sam"), seeds=(0,))
    for cell in results["cells"]:
        cell["merges"] = {}
    results = typed(results)
    (headline,) = headlines(results, summarize(results))
    assert headline_figure(headline, colours(results.arms), "name") == ""
    assert task_figure(headline, colours(results.arms), "name") == ""


def test_names_of_a_hundred_letters_are_drawn_whole():
    name = "adamw_" * 16 + "last"
    results = mapping(arms=("adamw", "sam"), seeds=(0,), methods=("ties",))
    results["arms"] = {name if arm == "adamw" else arm: facts for arm, facts in results["arms"].items()}
    for cell in results["cells"]:
        cell["arm"] = name if cell["arm"] == "adamw" else cell["arm"]
    text = page(typed(results))
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        drawn = re.sub(r"[\s_]", "", "".join(ElementTree.fromstring(svg).itertext()))
        assert "adamw" not in drawn or name.replace("_", "") in drawn


def test_letters_that_matplotlib_has_not_are_left_to_the_page():
    results = mapping(arms=("adamw", "sam"), seeds=(0,), methods=("ties",), tasks=("tweets",))
    results["arms"]["漢字"] = results["arms"].pop("sam")
    results["cells"][1]["arm"] = "漢字"
    assert "漢字" in score_figure(
        summarize(typed(results)), "limited", METRIC, colours(typed(results).arms), "n"
    )
