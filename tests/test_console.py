from __future__ import annotations

import pytest
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saft.console import show
from saft.report.columns import Column, stacked

NAMES = ["v[/2]", "v[red]", ":smile:", "a/very/long/path/" * 5 + "end"]


def table() -> Table:
    result = Table("checkpoint", box=None)
    for _ in range(4):
        result.add_column("accuracy", justify="right")
    for name in NAMES:
        result.add_row(name, *["100.0 ± 12.3"] * 4)
    return result


@pytest.mark.parametrize("columns", [20, 80])
@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: Group("a", Padding(x, (0, 2)))])
def test_figures_stay_whole_and_names_are_printed_as_they_are(
    columns: int, wrapped: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    show(wrapped(table()))  # type: ignore[operator]
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("100.0 ± 12.3") == 16
    for name in NAMES[:3]:
        assert name in printed


def test_a_pipe_gets_a_line_of_its_own_for_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show("x" * 100 + " y")
    assert capsys.readouterr().out == "x" * 100 + " y\n"


def test_headings_of_packed_columns_are_folded_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["sign conflict by chance", "sign conflict weighted trimmed", "largest eigenvalue of the Hessian"]
    columns = [Column(name, {"adamw": Text("12.5"), "sam": Text("11.0")}) for name in names * 2]
    for table in stacked("Measured", "arm", ["adamw", "sam"], columns):
        show(table)
    printed = capsys.readouterr().out.split()
    for name in names:
        for word in name.split():
            assert word in printed
