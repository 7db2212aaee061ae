"""The page: complete, self-contained, the same bytes every time."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from saft.report.figures import NAMED
from saft.report.html import page
from tests.report.made_up import ARMS, METHODS, TASKS, made_up

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checker(HTMLParser):
    """Collects text, identifiers and addresses, and checks that every element is closed."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.text, self.identifiers, self.addresses, self.elements = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attributes)

    def handle_startendtag(self, tag, attributes):
        self.elements.append(tag)
        self._attributes(attributes)

    def _attributes(self, attributes):
        for name, value in attributes:
            if name == "id":
                self.identifiers.append(value)
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


VARIANTS = [
    {},
    {"seeds": (0,)},
    {"regimes": ("limited", "plenty")},
    {"test": False},
    {"arms": ("adamw", "sam")},
    {"arms": ("sam",)},
    {"methods": ("average",)},
    {"methods": ("average", "task_arithmetic", "ties", "pcb", "dare", "della", "breadcrumbs")},
    {"methods": ()},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_is_well_formed_and_needs_nothing_from_outside(options):
    html = page(made_up(**options))
    checker = checked(html)
    assert all(address.startswith("#") for address in checker.addresses)
    assert "script" not in checker.elements
    assert "url(http" not in html
    assert "@import" not in html
    assert len(set(checker.identifiers)) == len(checker.identifiers)
    assert {address[1:] for address in checker.addresses} <= set(checker.identifiers)


def test_the_same_results_give_the_same_bytes_in_another_process():
    program = (
        "from saft.report.html import page; from tests.report.made_up import made_up;"
        "import sys; sys.stdout.buffer.write(page(made_up()).encode())"
    )
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert again.stdout.decode() == page(made_up()) == page(made_up())


def test_says_everything_in_order():
    html = page(made_up(regimes=("limited", "plenty")))
    text = " ".join(" ".join(checked(html).text).split())
    order = ["Protocol", "Verdict", "One shared coefficient", "One coefficient per task", "Task by task"]
    order += ["Validation accuracy over the coefficient", "Interference", "Cosine between task vectors"]
    places = [text.index(heading) for heading in order]
    assert places == sorted(places)
    for word in [
        *ARMS,
        *TASKS,
        "cpu, 2 threads",
        "torch 2.13.0",
        "The test split is read once",
        "Seeds 0, 1, 2",
    ]:
        assert word in text
    for method in METHODS:
        assert method.replace("_", " ") in text
    assert "λ 0.5" in text


def test_text_from_the_results_is_escaped():
    results = made_up(arms=("adamw", "sam"), seeds=(0,))
    results["arms"]["sam"]["description"] = "<b>SAM</b> & co"
    html = page(results)
    assert "&lt;b&gt;SAM&lt;/b&gt; &amp; co" in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html  # in the config


def test_names_from_the_results_are_escaped_in_figures():
    results = made_up(arms=("adamw", "sam"), seeds=(0,), regimes=("limited",))
    odd = 'a<b & "c" $x_1$'
    results["arms"] = {odd: results["arms"]["adamw"], "sam": results["arms"]["sam"]}
    results["protocol"]["regimes"] = {odd: {"train_examples": None}}
    for cell in results["cells"]:
        cell["regime"] = odd
        cell["arm"] = odd if cell["arm"] == "adamw" else "sam"
    html = page(results)
    assert odd in " ".join(checked(html[: html.index("<svg")] + "</figure></main></body></html>").text)
    svg = html[html.index("<svg") : html.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).get("aria-label").startswith(odd)
    assert odd in "".join(ElementTree.fromstring(svg).itertext())


def test_figures_take_their_colours_from_the_page():
    html = page(made_up())
    assert not [shade for shade in NAMED.values() if shade in html]
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    defined = set(re.findall(r"--([\w-]+):", html))
    assert used <= defined
    assert len(re.findall(r"--sharp-0:", html)) == 2  # light and dark


def test_coefficients_that_differ_between_seeds_are_all_shown():
    results = made_up(arms=("adamw", "sam"))
    results["cells"][1]["merges"]["ties"]["shared"]["coefficient"] = 0.7
    assert "λ 0.5, 0.7, 0.5" in page(results)


def test_a_method_without_a_coefficient_has_a_curve_of_one_point():
    results = made_up(arms=("adamw", "sam"), methods=("average",))
    for cell in results["cells"]:
        cell["merges"]["average"]["curve"] = cell["merges"]["average"]["curve"][2:3]
    checked(page(results))


def test_the_steps_that_were_taken_are_shown():
    results = made_up(arms=("adamw_selected", "sam"), seeds=(0, 1))
    results["cells"][0]["experts"]["tweets"]["steps"] = 50
    html = page(results)
    assert "<small>50 to 100 steps</small>" in html
    assert "<small>100 steps</small>" in html


def test_sizes_that_are_not_known_are_dashes():
    results = made_up(arms=("adamw", "sam"), test=False)
    for task in results["protocol"]["tasks"].values():
        task.update(labels=None, test=None)
    assert "None" not in " ".join(checked(page(results)).text).split("Resolved config")[0]


def test_validation_figures_are_called_that():
    html = page(made_up(test=False))
    assert "on the validation split" in html
    assert "The test split was not read" in html


@pytest.mark.parametrize("absent", ["interference", "sharpness", "base", "cells", "one cell", "merges"])
def test_an_incomplete_result_still_makes_a_page(absent):
    results = made_up(seeds=(0, 1), arms=("adamw", "sam"))
    if absent == "base":
        results["base"] = {}
    elif absent == "cells":
        results["cells"] = []
    elif absent == "one cell":
        results["cells"] = results["cells"][1:]
    for cell in results["cells"]:
        if absent == "interference":
            cell["interference"] = None
        elif absent == "merges":
            cell["merges"] = {}
        elif absent == "sharpness":
            for expert in cell["experts"].values():
                del expert["sharpness"]
    text = " ".join(checked(page(results)).text)
    assert ("Not complete" in text) == (absent in ("cells", "one cell"))


def test_matplotlib_is_loaded_by_the_page_alone():
    program = "import saft.report, sys; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
