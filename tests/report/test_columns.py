"""Tables of figures whose names and figures are never cut."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from saft.report.columns import Column, stacked


def printed(tables, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(*tables)
    return file.getvalue()


def columns(n, figure="12.34 ± 0.05"):
    return [Column(f"method {i}", {"adamw": Text(figure)}) for i in range(n)]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("n", [1, 4, 5, 6, 13])
def test_each_column_is_there_once_and_whole(n, width):
    (parts,) = stacked(
        "Scores", "arm", ["adamw", "sam"], columns(n), [Column("experts", {"sam": Text("80.0")})]
    )
    text, tables = printed([parts], width), parts.tables(width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.count("12.34 ± 0.05") == n
    assert text.count("80.0") == len(tables)  # every table begins with what it always has
    assert text.count("Scores, continued") == len(tables) - 1
    assert text.count("–") == (n + len(tables))  # of sam, and the expert of adamw


def test_headings_break_between_words_only():
    many = [Column("a rather long heading", {"adamw": Text("1")}) for _ in range(8)]
    lines = printed(stacked("", "arm", ["adamw"], many)).split()
    assert {"a", "rather", "long", "heading"} <= set(lines)


def test_a_name_that_is_wider_than_the_terminal_is_folded_not_cut():
    name = "n" * 100
    text = printed(stacked("", "arm", [name], columns(1)))
    assert text.count("n") >= 100
    assert "…" not in text


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("letter", ["q", "名"])
def test_long_names_leave_the_figures_whole(width, letter):
    name = "_".join([letter * 9] * 8)
    (parts,) = stacked(
        "Scores", "arm", [name, "b"], [Column(str(i), {name: Text("12.34 ± 0.05")}) for i in range(4)]
    )
    text = printed([parts], width)
    assert text.count("12.34 ± 0.05") == 4
    assert text.count(letter) == 8 * 9 * len(parts.tables(width))
    assert max(map(cell_len, text.splitlines())) <= width
    assert len(parts.tables(width)) < 4


def test_nothing_makes_no_table():
    assert stacked("", "arm", [], columns(2)) == []
    assert stacked("", "arm", ["adamw"], []) == []
