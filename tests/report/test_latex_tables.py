"""The tables in LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from saft.report import summarize
from saft.report.latex_tables import escaped, latex_tables
from tests.report.made_up import METHODS, TASKS, mapping, typed

SPECIAL = re.compile(r"(?<!\\)[%#_{}~^]|[^\x00-\x7f]")


@pytest.fixture(scope="module")
def tables():
    results = mapping(
        arms=("adamw", "adamw_passes", "sam"), seeds=(0, 1), tasks=(*TASKS, "stories"), gain=0.05
    )
    results["arms"]["50% {#_1}"] = results["arms"].pop("sam")
    for cell in results["cells"]:
        cell["arm"] = "50% {#_1}" if cell["arm"] == "sam" else cell["arm"]
    results = typed(results)
    return latex_tables(results, summarize(results))


def body(text):
    """Return the rows of every tabular as lists of cells."""
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [line.removesuffix(r"\\").strip().split(" & ") for line in lines]


@pytest.mark.parametrize("name", ["scores.tex", "tasks.tex", "gains.tex", "costs.tex"])
def test_every_tabular_is_whole(tables, name):
    for text in tables[name].split("\n\n"):
        for part in text.split(r"\begin{tabular}")[1:]:
            columns = len(re.match(r"\{([lr]+)\}", part)[1])
            assert {len(cells) for cells in body(part)} == {columns}
            rules = [part.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
            assert rules == sorted(rules)
    for cells in body(tables[name]):
        for cell in cells:
            plain = re.sub(r"\\textbf\{(.*)\}$", r"\1", cell)
            assert not SPECIAL.search(plain), plain


def test_the_best_of_a_column_is_bold(tables):
    accuracies = tables["scores.tex"].split(r"\end{tabular}")[0]
    assert accuracies.count(r"\textbf") == len(METHODS)
    (row,) = [cells for cells in body(accuracies) if cells[0] == r"50\% \{\#\_1\}"]
    assert [cell.startswith(r"\textbf{") for cell in row[2:]] == [True] * len(METHODS)


def test_a_table_for_each_metric(tables):
    assert tables["scores.tex"].count(r"\begin{tabular}") == 2
    assert tables["scores.tex"].count("% limited: test perplexity (lower is better)") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_compiles_them_with_booktabs_alone(tables, tmp_path):
    names = {"a-b.c_d": "sam", "größe": "adamw"}
    results = mapping(arms=tuple(names.values()), seeds=(0, 1), tasks=("été_1", *TASKS))
    for name, arm in names.items():
        results["arms"][name] = results["arms"].pop(arm)
        for cell in results["cells"]:
            cell["arm"] = name if cell["arm"] == arm else cell["arm"]
    results = typed(results)
    for folder, some in (("odd", tables), ("names", latex_tables(results, summarize(results)))):
        (tmp_path / folder).mkdir()
        for name, text in some.items():
            (tmp_path / folder / name).write_text(text, "utf-8")
        whole = "\n\n".join(rf"\input{{{name}}}" for name in some)
        document = (
            rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{whole}\end{{document}}"
        )
        (tmp_path / folder / "paper.tex").write_text(document)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(
            command, cwd=tmp_path / folder, capture_output=True, text=True, errors="replace"
        )
        assert done.returncode == 0, [line for line in done.stdout.splitlines() if line.startswith("!")]
        assert "undefined" not in done.stdout


def test_a_backslash_is_printed():
    assert escaped(r"a\b") == r"a\textbackslash{}b"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("[0.1] x", "{[}0.1] x"),  # a bracket or a star behind the end of a row is an argument of that end
        ("*best*", "{*}best{*}"),
        ("ρ ≤ ½ τ → Δ", r"$\rho$ $\le$ ½ $\tau$ $\to$ $\Delta$"),
        ("lr<1e-4|b", "lr$<$1e-4$|$b"),  # OT1 prints others
        ("a--b", "a-{}-b"),
        ("a---b", "a-{}-{}-b"),  # three would be a long dash, as – and - are
        ("a–-b", "a--{}-b"),
        ("it''s ,,so", "it'{}'s ,{},so"),
        ("?`", "?{`}"),
        ('the "best"', "the ''best''"),
    ],
)
def test_names_are_printed_as_they_are(name, text):
    assert escaped(name) == text
