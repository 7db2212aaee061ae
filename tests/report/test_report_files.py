"""The files of a report."""

from __future__ import annotations

import json
import os

import pytest

from saft.cli import main
from saft.errors import UserError
from saft.report import read, rewrite, write
from tests.report.made_up import made_up, mapping, typed

TABLES = {f"tables/{name}.csv" for name in ("scores", "gains", "costs", "searches", "measured")} | {
    f"tables/{name}.tex" for name in ("scores", "tasks", "gains", "costs")
}
FILES = {"report.html", "results.json"} | TABLES
SMALL = {"seeds": (0,), "arms": ("adamw", "sam"), "methods": ("average", "ties")}  # drawn in less time


def files(folder):
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_writes_all_files_and_nothing_else(tmp_path):
    results = made_up(**SMALL)
    write(results, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert files(folder) == FILES
    assert read(folder) == results


def test_writing_again_gives_the_same_bytes(tmp_path):
    results = made_up(**SMALL | {"seeds": (0, 1)})
    write(results, tmp_path / "a")
    write(read(tmp_path / "a"), tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    results = mapping(**SMALL)
    results["cells"][0]["measured"]["sharpness"]["tweets"] = float("inf")
    write(typed(results), tmp_path)
    cell = json.loads((tmp_path / "results.json").read_text("utf-8"))["cells"][0]
    assert cell["measured"]["sharpness"]["tweets"] is None
    before = (tmp_path / "report.html").read_bytes()
    write(read(tmp_path), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(UserError, match=r"holds no results.json; give the `out` folder"):
        read(tmp_path)
    (tmp_path / "results.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "results.json").write_text('{"saft": "0.1.0"}')
    with pytest.raises(UserError, match=r"results.json: format: is 1"):
        read(tmp_path)


def test_each_folder_is_told_why_it_has_no_results(tmp_path, capsys):
    for name in ("runs", "runs/half/figures"):
        (tmp_path / name).mkdir(parents=True)
    write(made_up(**SMALL), tmp_path / "whole")
    (tmp_path / "run.yaml").write_text("out: runs")
    names = ["runs", "whol", "run.yaml", "runs/half", "whole/results.json"]
    assert main(["report", *(str(tmp_path / name) for name in names)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"saft: {tmp_path}/") for line in told] == [
        "runs: holds no results.json; give the `out` folder of a finished `saft run`",
        "whol: there is no such folder; did you mean 'whole'?; give the `out` folder of a finished `saft run`",
        "run.yaml: is a file; give the `out` folder of a finished `saft run`",
        "runs/half: holds no results.json yet: `saft run` with the same config goes on and writes it; "
        f"`saft run --status {tmp_path}/runs/half` says what is missing",
        "whole/results.json: is a file; give its folder",
    ]


def test_an_interruption_leaves_the_old_report(tmp_path, monkeypatch):
    write(made_up(**SMALL), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(made_up(**SMALL | {"seeds": (1,)}), tmp_path)
    assert files(tmp_path) == FILES
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


def test_pages_are_written_anew_from_the_results(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        write(made_up(**SMALL), tmp_path / name)
    page = (tmp_path / "a" / "report.html").read_bytes()
    (tmp_path / "a" / "report.html").unlink()
    assert main(["report", "~/a", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "report.html").read_bytes() == page
    assert read("~/a") == read(tmp_path / "a")
    assert capsys.readouterr().out.count("Verdict, limited") == 2


def test_all_folders_are_read_before_a_page_is_written(tmp_path, capsys):
    write(made_up(**SMALL), tmp_path / "a")
    (tmp_path / "a" / "report.html").unlink()
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert f"{tmp_path / 'b'}: there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "a" / "report.html").exists()
    with pytest.raises(UserError, match="FOLDER is missing"):
        rewrite([])


def test_a_comparison_is_never_written_over_a_run(tmp_path):
    for name in ("a", "b", "c"):
        write(made_up(**SMALL), tmp_path / name)  # as results.json is passed on, without the rest of the run
    before = {name: (tmp_path / name / "results.json").read_bytes() for name in ("a", "c")}
    folders = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(UserError, match=r"--out: .*a: is one of these folders, whose results would be lost"):
        rewrite(folders, tmp_path / "a")
    with pytest.raises(UserError, match=r"--out: .*c: holds something else than a report of several"):
        rewrite(folders, tmp_path / "c")
    assert before == {name: (tmp_path / name / "results.json").read_bytes() for name in before}


def test_a_table_that_is_no_more_is_not_left(tmp_path):
    results = mapping(**SMALL)
    figure = {"of": "ties", "value": 60.0, "tolerance": 1.0, "source": "a paper"}
    write(typed(results | {"config": {"expected": {"average": figure}}}), tmp_path)
    assert files(tmp_path) == FILES | {"tables/expected.csv"}
    (tmp_path / "tables" / "own.csv").write_text("of the user")
    write(typed(results), tmp_path)
    assert files(tmp_path) == FILES | {"tables/own.csv"}
