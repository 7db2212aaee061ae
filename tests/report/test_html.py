"""The page: complete, self-contained, the same bytes every time."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from xml.etree import ElementTree

import pytest

from saft.report.coloured_cells import STRONGEST
from saft.report.drawing import NAMED
from saft.report.html import page
from tests.report.made_up import ARMS, METHODS, TASKS, made_up, mapping, typed

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}


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


SMALL = {"seeds": (0, 1), "arms": ("adamw", "sam"), "methods": ("average", "ties")}  # drawn in less time
VARIANTS = [
    {},
    {"seeds": (0,)},
    {"sizes": ("limited", "plenty")},
    {"test": False},
    {"arms": ("adamw", "sam")},
    {"arms": ("sam",)},
    {"methods": ("average",)},
    {"methods": ("average", "task_arithmetic", "ties", "pcb", "dare", "della", "breadcrumbs")},
    {"methods": ()},
    {"tasks": (*TASKS, "stories")},
    {"tasks": ("stories",), "seeds": (0,)},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_is_well_formed_and_needs_nothing_from_outside(options):
    html = page(made_up(**(SMALL | options if options else {})))
    checker = checked(html)
    assert all(address.startswith("#") for address in checker.addresses)
    assert checker.elements.count("script") == 1  # its own, which has no address
    assert "url(http" not in html
    assert "@import" not in html
    assert "…" not in html  # nothing is cut off
    assert "text-overflow" not in html
    assert len(set(checker.identifiers)) == len(checker.identifiers)
    assert {address[1:] for address in checker.addresses} <= set(checker.identifiers)


def test_the_same_results_give_the_same_bytes_in_another_process():
    results = made_up(seeds=(0, 1), arms=("adamw", "sam"), methods=("ties",))
    program = (
        "from saft.report.html import page; from tests.report.made_up import made_up;"
        "import sys; results = made_up(seeds=(0, 1), arms=('adamw', 'sam'), methods=('ties',));"
        "sys.stdout.buffer.write(page(results).encode())"
    )
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert again.stdout.decode() == page(results)


def test_says_everything_in_order():
    html = page(made_up(sizes=("limited", "plenty")))
    text = " ".join(" ".join(checked(html).text).split())
    order = [
        "Does sharpness-aware fine-tuning merge better?",
        "the best plain arm",
        "Verdict",
        "Protocol",
    ]
    order += ["One shared coefficient", "One coefficient per task", "Task by task"]
    order += [
        "Validation scores over the coefficient",
        "Measured",
        "Task by task",
        "cosine, pair by pair",
    ]
    places, start = [], 0
    for heading in order:
        places.append(start := text.index(heading, start))
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
    results = mapping(arms=("adamw", "sam"), seeds=(0,))
    results["arms"]["sam"]["description"] = "<b>SAM</b> & co"
    html = page(typed(results))
    assert "&lt;b&gt;SAM&lt;/b&gt; &amp; co" in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html  # in the config


def test_names_from_the_results_are_escaped_in_figures():
    results = mapping(arms=("adamw", "sam"), seeds=(0,), sizes=("limited",))
    odd = 'a<b & "c" $x_1$'
    results["arms"] = {odd: results["arms"]["adamw"], "sam": results["arms"]["sam"]}
    results["protocol"]["train_sizes"] = {odd: None}
    for cell in results["cells"]:
        cell["train_size"] = odd
        cell["arm"] = odd if cell["arm"] == "adamw" else "sam"
    html = page(typed(results))
    assert odd in " ".join(checked(re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)).text)
    drawn = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    assert any(svg.get("aria-label").startswith(odd) for svg in drawn)
    assert all(odd in "".join(svg.itertext()) for svg in drawn[:2])


def test_figures_take_their_colours_from_the_page():
    html = page(made_up())
    assert not [shade for shade in NAMED.values() if shade in html]
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    defined = set(re.findall(r"--([\w-]+):", html))
    assert used <= defined
    assert len(re.findall(r"--sharp-0:", html)) == 3  # light, dark, and on paper


def test_coefficients_that_differ_between_seeds_are_all_shown():
    results = mapping(arms=("adamw", "sam"))
    results["cells"][1]["merges"]["ties"]["shared"]["coefficient"] = 0.7
    assert "λ 0.5, 0.7, 0.5" in page(typed(results))


def test_a_method_without_a_coefficient_has_a_curve_of_one_point():
    results = mapping(arms=("adamw", "sam"), methods=("average",))
    for cell in results["cells"]:
        merge = cell["merges"]["average"]
        merge["curve"] = merge["curve"][2:3]
        merge["per_task"]["coefficients"] = dict.fromkeys(TASKS, 0.5)
    checked(page(typed(results)))


def test_the_steps_that_were_taken_are_shown():
    results = mapping(arms=("adamw_selected", "sam"), seeds=(0, 1))
    results["cells"][0]["experts"]["tweets"]["steps"] = 50
    html = page(typed(results))
    assert "<small>50 to 100 steps</small>" in html
    assert "<small>100 steps</small>" in html


def test_sizes_that_are_not_known_are_dashes():
    results = mapping(arms=("adamw", "sam"), methods=("ties",), test=False)
    for task in results["protocol"]["tasks"].values():
        task.update(labels=None, test=None, train={})
    assert "None" not in " ".join(checked(page(typed(results))).text).split("Resolved config")[0]


def test_validation_figures_are_called_that():
    html = page(made_up(test=False, methods=("ties",)))
    assert "on the validation split" in html
    assert "The test split was not read" in html


@pytest.mark.parametrize("absent", ["measured", "seconds", "base", "cells", "one cell", "merges"])
def test_an_incomplete_result_still_makes_a_page(absent):
    results = mapping(seeds=(0, 1), arms=("adamw", "sam"), methods=("average", "ties"))
    if absent == "base":
        results["base"] = {}
    elif absent == "cells":
        results["cells"] = []
    elif absent == "one cell":
        results["cells"] = results["cells"][1:]
    for cell in results["cells"]:
        if absent in ("measured", "merges"):
            cell[absent] = {}
        elif absent == "seconds":
            del cell["seconds"]
    text = " ".join(checked(page(typed(results))).text)
    assert ("Not complete" in text) == (absent in ("cells", "one cell"))


def test_a_merge_that_diverged_is_a_dash_and_told():
    results = mapping(seeds=(0,), arms=("adamw", "sam"), methods=("ties",))
    merge = results["cells"][1]["merges"]["ties"]
    for scores in (*(point["validation"] for point in merge["curve"]), merge["shared"]["test"]):
        scores["tweets"]["value"] = None
    text = " ".join(checked(page(typed(results))).text)
    assert "limited, sam, seed 0: not finite: score of ties on tweets" in text
    assert "nan" not in text.lower().split("resolved config")[0]


def test_a_perplexity_beside_accuracies_has_tables_and_figures_of_its_own():
    html = page(made_up(tasks=(*TASKS, "stories"), gain=0.05, noise=0.001))
    text = " ".join(" ".join(checked(html).text).split())
    assert "A mean over tasks is over the tasks of one metric." in text
    assert "Arm against arm in perplexity: differences" in text
    assert "Below zero is better." in text
    assert "perplexity (lower is better): stories" in text
    labels = re.findall(r'aria-label="([^"]*)"', html)
    assert len([label for label in labels if "perplexity (lower is better)" in label]) == 5
    assert len([label for label in labels if "accuracy in percent" in label]) == 5
    row = re.search(r"stories.*?perplexity \(lower is better\)</td><td>([^<]*)</td>", html, re.DOTALL)
    assert row[1] == "13.00"  # raw, not times 100


def test_any_quantity_is_shown_by_its_own_name_unit_and_meaning():
    results = mapping(arms=("adamw", "sam"), methods=("ties",))
    for cell in results["cells"]:
        cell["measured"]["drift"] = {s: {t: 0.125 for t in TASKS if t != s} for s in TASKS}
        cell["measured"]["drift"]["tweets"]["reviews"] = 0.25
    results["quantities"] = results["quantities"] | {
        "drift": {"meaning": "of outputs on other inputs", "unit": "nats", "per": "pair", "decimals": 3}
    }
    html = page(typed(results))
    assert "<h3>drift, nats, pair by pair</h3>" in html
    assert "of outputs on other inputs" in html
    assert "0.125</text>" in html
    assert ">0.135 ± 0.000</td>" in html  # mean over pairs


def test_what_two_arms_have_in_common_and_what_they_cost():
    text = " ".join(" ".join(checked(page(made_up(methods=("ties",)))).text).split())
    assert "the same number of forward and backward passes" in text
    assert "the same number of steps, 2 times the passes" in text
    assert "24.0" in text


def test_figures_are_loaded_by_the_page_only():
    program = "import saft.report, sys; sys.exit('saft.report.figures' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_choice_of_steps_is_told_where_there_was_one():
    told = "Several numbers of steps are candidates"
    assert told in page(made_up(arms=("adamw_selected", "sam"), methods=("ties",)))
    assert told not in page(made_up(arms=("adamw", "sam"), methods=("ties",)))


def test_a_short_name_is_kept_whole_and_a_long_one_breaks():
    results = mapping(arms=("adamw", "sam"), seeds=(0, 1), methods=("ties",))
    for old, new in (("sam", "drift-2"), ("adamw", "adamw-with-a-long-name")):
        results["arms"][new] = results["arms"].pop(old)
        for cell in results["cells"]:
            cell["arm"] = new if cell["arm"] == old else cell["arm"]
    html = page(typed(results))
    assert '<span class="short">drift-2</span>' in html
    assert "adamw-<wbr>with-<wbr>a-<wbr>long-<wbr>name" in html


def luminance(colour):
    parts = [part / 255 for part in bytes.fromhex(colour.removeprefix("#"))]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def over(colour, paper, opacity):
    pairs = zip(bytes.fromhex(colour[1:]), bytes.fromhex(paper[1:]), strict=True)
    return "#" + bytes(round(opacity * a + (1 - opacity) * b) for a, b in pairs).hex()


@pytest.mark.parametrize("which", range(3), ids=("light", "dark", "print"))
def test_colours_are_told_from_the_paper_and_text_is_read_on_them(which):
    """As WCAG 2.2 asks: text at least 4.5 to 1, marks and lines 3 to 1."""
    style = files("saft.report").joinpath("templates/style.css").read_text("utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", style.split(":root")[which + 1].split("}")[0]))
    for ground in ("paper", "panel"):
        for text in ("ink", "muted", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for name in (name for name in colours if name.startswith(("plain", "sharp"))):
        assert contrast(colours[name], colours["paper"]) >= 3, name
    for name in ("warm", "cool"):  # the strongest cell, on which its number is written
        cell = over(colours[name], colours["paper"], STRONGEST)
        assert contrast(colours["ink"], cell) >= 4.5, name


def test_a_curve_of_some_seeds_only_is_told():
    told = "Not every seed has a score at every coefficient: a point is the mean of those that have one."
    results = mapping(**SMALL)
    assert told not in page(typed(results))
    for point in results["cells"][0]["merges"]["ties"]["curve"]:
        if point["coefficient"] != 0.5:  # what was chosen
            point["coefficient"] += 0.01
    results["cells"][0]["merges"]["ties"]["per_task"]["coefficients"] = dict.fromkeys(TASKS, 0.5)
    assert told in page(typed(results))
