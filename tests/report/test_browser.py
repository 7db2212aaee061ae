"""The page in a real browser, headless Chromium: nothing leaves it, nothing fails in it, its tables sort.

It is read at 1280 and at 400 pixels, drawn at three widths and in the dark, and printed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import zlib
from html import escape, unescape

import numpy as np
import pytest
from PIL import Image

from saft.report.html import page
from tests.report.made_up import mapping, typed
from tests.report.printed_text import pages

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]

# Clicks as a reader would, and leaves what came of it in the page.
READER = """
<script>
const came = { refused: [], saved: [], orders: {} };
addEventListener("securitypolicyviolation", (event) => came.refused.push(event.blockedURI));
HTMLAnchorElement.prototype.click = function () { came.saved.push(this.download); };
const column = (table, index) => [...table.tBodies[0].rows].map((row) => row.cells[index].firstChild.textContent);
const table = [...document.querySelectorAll("table")].find((t) => t.tHead.textContent.includes("experts") &&
  t.tHead.textContent.includes("ties"));
const index = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === "ties");
const heading = table.tHead.rows[0].cells[index];
came.orders.first = column(table, index);
heading.querySelector("button").click();
came.orders.ascending = column(table, index);
came.sorted = heading.getAttribute("aria-sort");
heading.querySelector("button").click();
came.orders.descending = column(table, index);
const byArm = [...document.querySelectorAll("table")].find((t) => t.tHead.textContent.startsWith("armexperts"));
byArm.tHead.rows[0].cells[0].querySelector("button").click();
came.arms = [...byArm.tBodies[0].rows].map((row) => row.cells[0].textContent);
for (const button of document.querySelectorAll("figure .save")[0].querySelectorAll("button")) button.click();
came.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
came.unlabelled = [...document.querySelectorAll("svg")].filter((svg) => !svg.getAttribute("aria-label")).length;
setTimeout(() => {
  came.requests = performance.getEntriesByType("resource").map((entry) => entry.name)
    .filter((name) => !name.startsWith("data:") && !name.startsWith("blob:"));
  const told = document.createElement("pre");
  told.id = "came";
  told.textContent = JSON.stringify(came);
  (window.frameElement ? parent.document : document).body.append(told);
}, 2000);
</script>
"""


LEAST = 500  # pixels: Chromium opens no narrower window, so a narrower page is shown in a frame


def browsed(html, folder, width, *what):
    """Return the finished browser, which has shown the page at a width, and done one thing with it."""
    if width < LEAST:
        style = f"body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: 900px }}"
        html = f'<!doctype html><style>{style}</style><body><iframe srcdoc="{escape(html)}"></iframe></body>'
    file = folder / "page.html"
    file.write_text(html, "utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        f"--window-size={max(width, LEAST)},900", "--disable-background-networking",
        "--disable-component-update", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
        "--virtual-time-budget=6000", *what, file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def drawn(html, folder, width):
    """Return the grey values of a screenshot, 0 is black, [rows, columns]: the page's own columns."""
    file = folder / "page.png"
    done = browsed(html, folder, width, f"--screenshot={file}")
    assert file.exists(), done.stderr[-2000:]
    with Image.open(file) as image:
        return np.asarray(image.convert("L"))[:, :width]


def opened(html, folder, width):
    """Return what came of reading the page, and what the browser's console said."""
    done = browsed(html.replace("</body>", f"{READER}</body>"), folder, width, "--dump-dom")
    told = re.search(r'<pre id="came">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    return json.loads(unescape(told[1])), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture(scope="module")
def html():
    results = mapping(
        arms=("adamw", "adamw_passes", "sam"), seeds=(0, 1), methods=("average", "ties"), gain=0.05
    )
    for cell in results["cells"]:
        cell["measured"]["line"] = {t: {"0": 0.5, "1": 1.5} for t in cell["experts"]}
    line = {"meaning": "loss", "per": "grid", "axes": ["task", "coefficient"]}
    results["quantities"] = results["quantities"] | {"line": line}
    return page(typed(results))


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_leaves_nothing_fails_and_tables_sort(html, tmp_path, width):
    came, console = opened(html, tmp_path, width)
    assert console == []
    assert came["refused"] == came["requests"] == []
    numbers = {name: [float(text.split()[0]) for text in order] for name, order in came["orders"].items()}
    assert numbers["ascending"] == sorted(numbers["first"])
    assert numbers["descending"] == sorted(numbers["first"], reverse=True)
    assert len(set(numbers["first"])) > 1
    assert came["sorted"] == "ascending"
    assert [arm[1:] for arm in came["arms"]] == ["adamw", "adamw_passes", "sam"]  # not by the sign before it
    assert came["saved"] == ["answer0-figure.svg", "answer0-figure.png"]
    assert came["unlabelled"] == 0
    assert came["wide"] == 0  # the page itself is never scrolled sideways, only what is wide in it


# Pages in frames of both widths, so that one browser shows all: where question, answer and picture end.
FRAMES = """
<script>addEventListener("load", () => {
  const told = document.createElement("pre");
  told.id = "came";
  told.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map((frame) =>
    ["h1", ".told", ".answer figure svg"].map((part) =>
      frame.contentDocument.querySelector(part).getBoundingClientRect().bottom)));
  document.body.append(told);
});</script>
"""


def test_the_first_screen_holds_question_answer_and_picture(tmp_path):
    frames = []
    for arms, name in (
        (1, "sam"),
        (2, "sam"),
        (3, "sam"),
        (5, "sam"),
        (8, "sam with drift (five/run)"),
        (16, "sam"),
        (16, "sam with drift (five/run)"),
    ):
        results = mapping(arms=("adamw", "sam")[:arms], seeds=(0, 1), methods=("average", "ties"), gain=0.02)
        of_sam = [cell for cell in results["cells"] if cell["arm"] == "sam"]
        for i in range(2, arms):
            results["arms"][f"{name}_{i}"] = results["arms"]["sam"]
            results["cells"] += [cell | {"arm": f"{name}_{i}"} for cell in of_sam]
        html = escape(page(typed(results)))
        frames += [f'<iframe width="{width}" height="900" srcdoc="{html}"></iframe>' for width in (1280, 400)]
    done = browsed(f"<!doctype html><body>{''.join(frames)}{FRAMES}</body>", tmp_path, 1400, "--dump-dom")
    came = json.loads(unescape(re.search(r'<pre id="came">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert len(came) == 14
    for question, answer, picture in came:
        assert question < answer < 900
        assert question < picture < 900
    assert all(answer < picture for _, answer, picture in came[1::2])  # below each other on a telephone


def test_a_long_name_of_a_train_size_scrolls_nothing_sideways(tmp_path):
    sizes = ("limited", "a_name_of_a_train_size_that_goes_on_and_on")
    long = page(typed(mapping(arms=("adamw", "sam"), sizes=sizes, seeds=(0, 1), methods=("ties",))))
    came, _ = opened(long, tmp_path, 400)
    assert came["wide"] == 0


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_a_screenshot_shows_a_light_page_that_is_not_empty(html, tmp_path, width):
    grey = drawn(html, tmp_path, width)
    assert grey.shape[1] == width
    assert np.median(grey) > 200
    assert (grey < 100).mean() > 0.005  # its text


def test_a_dark_page_is_dark_and_its_text_light(html, tmp_path):
    dark = "@media (prefers-color-scheme: dark)"
    assert dark in html
    grey = drawn(html.replace(dark, "@media all"), tmp_path, 800)
    assert np.median(grey) < 60
    assert (grey > 150).mean() > 0.005


def test_it_prints(html, tmp_path):
    file = tmp_path / "page.pdf"
    done = browsed(html, tmp_path, 1280, f"--print-to-pdf={file}", "--no-pdf-header-footer")
    assert file.exists(), done.stderr[-2000:]
    assert file.read_bytes().startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", file.read_bytes())) > 1


# The first table goes on over several pages.
LONGER = """
<script>
const rows = document.querySelector(".wide > table").tBodies[0];
for (const row of [...Array(60)].flatMap(() => [...rows.rows])) rows.append(row.cloneNode(true));
</script>
"""


def test_a_long_table_has_its_heading_on_each_page(html, tmp_path):
    file = tmp_path / "page.pdf"
    longer = html.replace("</body>", f"{LONGER}</body>")
    browsed(longer, tmp_path, 1280, f"--print-to-pdf={file}", "--no-pdf-header-footer")
    of_table = [text for text in pages(file.read_bytes()) if text.count("within the noise") > 9]
    assert len(of_table) > 2
    assert all("outcome" in text and "interval" in text for text in of_table)


# The page as on A4, its sheets side by side: columns break where pages do, and can be asked what they cut.
SHEETS = """
<style>main { max-width: none !important; height: 1016px; width: 20000px; columns: auto; column-width: 688px;
  column-gap: 76px; column-fill: auto; padding: 0 !important }</style>
<script>
const parts = [...document.querySelectorAll("table, tbody tr, figure, .answer, h2, h3")];
const cut = parts.filter((part) => part.getClientRects().length > 1).map((part) => part.textContent.slice(0, 60));
const sheets = new Set(parts.map((part) => part.getClientRects()[0]?.left).filter((left) => left !== undefined));
const told = document.createElement("pre");
told.id = "came";
told.textContent = JSON.stringify({ cut, sheets: sheets.size });
document.body.append(told);
</script>
"""


def test_on_paper_no_table_row_or_figure_is_cut(tmp_path):
    tasks = [f"task_{i}" for i in range(6)]
    many = page(typed(mapping(arms=("adamw", "sam"), tasks=tasks, seeds=(0, 1))))
    assert "@media print" in many
    printed = many.replace("@media print", "@media all").replace("</body>", f"{SHEETS}</body>")
    done = browsed(printed, tmp_path, 1280, "--dump-dom")
    came = json.loads(unescape(re.search(r'<pre id="came">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert came["cut"] == []
    assert came["sheets"] > 3


def test_what_is_printed_in_the_dark_is_light(html, tmp_path):
    dark = html.replace("@media (prefers-color-scheme: dark)", "@media all")
    grey = drawn(dark.replace("@media print", "@media all"), tmp_path, 800)
    assert np.median(grey) > 200
    assert (grey < 100).mean() > 0.005


def scales_on_paper(html, folder):
    """Return by how much each page of the print was made smaller: as far as something on it is too wide."""
    file = folder / "page.pdf"
    browsed(html, folder, 1280, f"--print-to-pdf={file}", "--no-pdf-header-footer")
    streams = re.findall(rb"stream\r?\n(.*?)endstream", file.read_bytes(), re.DOTALL)
    texts = []
    for stream in streams:
        with contextlib.suppress(zlib.error):  # fonts are in other streams
            texts.append(zlib.decompress(stream))
    return {scale for text in texts for scale in re.findall(rb"^\S+ 0 0 -\S+ 0 \S+ cm\s+q\s+(\S+) 0 0", text)}


def test_tables_of_many_columns_and_long_names_fit_on_paper_and_on_a_telephone(html, tmp_path):
    name = "_".join(["long"] * 18)
    many = mapping(
        arms=("adamw", "adamw_passes", "sam"), seeds=(0,), methods=[f"a_method_{i}" for i in range(13)],
        tasks=[f"a_task_with_a_longer_name_{i}" for i in range(9)],
    )  # fmt: skip
    many["arms"] = {name if arm == "sam" else arm: facts for arm, facts in many["arms"].items()}
    for cell in many["cells"]:
        cell["arm"] = name if cell["arm"] == "sam" else cell["arm"]
    text = page(typed(many))
    assert scales_on_paper(text, tmp_path) == scales_on_paper(html, tmp_path)
    came, _ = opened(text.replace(">a method 1<", ">ties<"), tmp_path, 400)
    assert came["wide"] == 0


def test_numbers_are_sorted_as_numbers_with_a_minus_as_a_power_and_where_one_is_missing(tmp_path):
    results = mapping(arms=("adamw", "adamw_passes", "adamw_selected"), seeds=(0,), methods=("ties",))
    correlation = {"name": "correlation", "unit": "", "higher_is_better": True, "scale": 1.0, "digits": 2}
    for facts in results["protocol"]["tasks"].values():
        facts["metric"] = correlation
    for cell, value in zip(results["cells"], (-0.2, -0.9, None), strict=True):
        for score in cell["merges"]["ties"]["shared"]["test"].values():
            score["value"] = value
    html = page(typed(results))
    came, _ = opened(html, tmp_path, 1280)
    assert came["orders"]["ascending"] == ["−0.90", "−0.20", "–"]
    assert came["orders"]["descending"] == ["−0.20", "−0.90", "–"]
    assert "– % of experts" not in html
    came, _ = opened(html.replace("−0.20<", "1e-05<").replace("−0.90<", "2e-06<"), tmp_path, 1280)
    assert came["orders"]["ascending"] == ["2e-06", "1e-05", "–"]


def test_a_request_and_an_error_would_be_seen(html, tmp_path):
    broken = '<img src="http://127.0.0.1:9/x.png"><script>throw new Error("on purpose")</script>'
    _, console = opened(html.replace("<main>", f"<main>{broken}"), tmp_path, 1280)
    assert any("on purpose" in line for line in console)
    assert any("127.0.0.1" in line for line in console)  # refused by the page's own policy
