"""Which methods the merges are that have a name of their own."""

from __future__ import annotations

import pytest
from rich.console import Console

from saft.report.html import page
from saft.report.named_merges import named_merges
from saft.report.terminal import table
from tests.report.made_up import mapping, typed

NAMED = {"merges": {"ties": {"method": "ties"}, "wide_grid": {"method": "task_arithmetic", "parameters": {}}}}


@pytest.mark.parametrize("config", [NAMED, {"folders": {"a": NAMED, "b": {"merges": {}}, "c": NAMED}}])
def test_only_another_name_is_told_and_once(config):
    assert named_merges(config) == ["wide grid is task arithmetic."]


@pytest.mark.parametrize(
    "config", [{}, {"merges": "damaged"}, {"merges": {"a": None}}, {"folders": {"a": None}}]
)
def test_a_config_that_says_nothing_of_it(config):
    assert named_merges(config) == []


def test_page_and_terminal_tell_it():
    results = typed(mapping(seeds=(0,), methods=("ties", "wide_grid")) | {"config": NAMED})
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(results))
    assert all("wide grid is task arithmetic." in text for text in (page(results), capture.get()))
