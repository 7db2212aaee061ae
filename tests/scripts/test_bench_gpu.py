"""scripts/bench gpu: that a part lost costs that part alone, that it goes on, and that it says so without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "scripts/benchmarks"
WHERE = {"device": "a GPU", "torch": "2"}


@pytest.fixture
def bench(load_bench):
    return load_bench("gpu")


@pytest.fixture
def part(bench):
    def make(program, *arguments, seconds=60):
        return bench.Part("a part", ("-c", program, *arguments), seconds, bench.tests)

    return make


COUNTS = "import sys; from pathlib import Path; f = Path(sys.argv[1]); f.write_text(f.read_text() + 'x'); "


@pytest.fixture
def count(tmp_path):
    file = tmp_path / "count"
    file.write_text("")
    return file


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"scripts/bench gpu: torch {torch.__version__} finds no CUDA device\n"
    assert not (tmp_path / "out").exists()


def test_a_part_that_is_done_is_not_run_again_on_the_same_machine(bench, part, count, tmp_path):
    once = part(COUNTS + "print('said')", str(count))
    first = bench.run("one", once, WHERE, tmp_path, 60)
    assert (first["returncode"], first["output"], first["figures"]) == (0, "said\n", None)
    assert bench.run("one", once, WHERE, tmp_path, 60) == first
    assert count.read_text() == "x"
    bench.run("one", once, {**WHERE, "torch": "3"}, tmp_path, 60)
    assert count.read_text() == "xx"
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["count", "one.json"]


def test_what_other_code_measured_is_measured_again(bench, tmp_path):
    assert bench.code(bench.ROOT) == bench.code(bench.ROOT)
    codes = [bench.code(tmp_path)]
    for name, text in (("a.py", ""), ("a.py", "x = 1\n"), ("b.py", "")):
        (tmp_path / "saft").mkdir(exist_ok=True)
        (tmp_path / "saft" / name).write_text(text)
        codes.append(bench.code(tmp_path))
    assert len(set(codes)) == 4


def test_a_part_that_failed_is_run_again(bench, part, count, tmp_path):
    fails = part(COUNTS + "sys.exit('why')", str(count))
    for _ in range(2):
        found = bench.run("one", fails, WHERE, tmp_path, 60)
        assert (found["returncode"], found["output"]) == (1, "why\n")
    assert count.read_text() == "xx"


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_and_its_output_kept(bench, part, tmp_path):
    hangs = part("import time; print('so far', flush=True); time.sleep(600)", seconds=5)
    found = bench.run("one", hangs, WHERE, tmp_path, 60)
    assert (found["returncode"], found["output"]) == (None, "so far\n")


def test_figures_are_read_from_where_the_part_wrote_them(bench, part, tmp_path):
    writes = part("import sys; open(sys.argv[1], 'w').write('[1]')", bench.JSON)
    assert bench.run("one", writes, WHERE, tmp_path, 60)["figures"] == [1]
    assert json.loads((tmp_path / "one.json").read_text())["figures"] == [1]


def test_the_report_has_a_row_for_each_part(bench, part):
    known = {name: part("") for name in ("done", "failed", "hung", "late")}
    results = {
        "done": {"returncode": 0, "seconds": 3.2, "figures": None, "output": "...\n== 5 passed ==\n"},
        "failed": {"returncode": 1, "seconds": 1.0, "figures": None, "output": "why"},
        "hung": {"returncode": None, "seconds": 60.0, "figures": None, "output": ""},
    }
    text = bench.report(WHERE, known, results)
    assert text.startswith("device a GPU, torch 2\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert rows[2:] == [
        ["a part", "3", "5 passed"],
        ["a part", "1", "failed: exit code 1"],
        ["a part", "60", "failed: it took too long"],
        ["a part", "", "not run: no time left"],
    ]
    assert "```\nwhy\n```" in text


def test_one_line_of_the_figures_of_each_kind(bench):
    def row(name, ratio, waits):
        return {"name": name, "label": name, "ratio_median": ratio, "host_waits": waits} | {
            "milliseconds_median": 10.0
        }

    results = {"figures": [row("adamw", 1.0, 0), row("floor", 2.0, 0), row("davda54", 2.5, 3)]}
    told = "AdamW 10.0 ms; / AdamW: floor 2.00, davda54 2.50; host waits: davda54 3"
    assert bench.steps(results) == told
    results["figures"].pop()
    assert bench.steps(results).endswith("host waits: none")
    trained = {"label": "saft train, sam", "examples_per_second": 812.4, "ratio": 2.0, "data_share": 0.031}
    assert bench.trainings({"figures": [trained]}) == "saft train, sam 812/s (× 2.00, 3 % waiting)"
    assert bench.merges({"figures": [{"name": "ties", "merge_seconds_min": 1.25}]}) == "ties 1.25 s"


def test_an_unknown_part_is_named(bench, capsys):
    assert bench.parse(["--parts", "tests,sam-bert"]).parts == ["tests", "sam-bert"]
    with pytest.raises(SystemExit):
        bench.parse(["--parts", "test"])
    assert (
        "unknown parts: test; known: tests, train-minilm, train-vit-b32, train-0.5b, merge-elementwise"
        in capsys.readouterr().err
    )


def test_every_part_is_a_command_that_the_benchmarks_accept(bench, load_bench):
    for name, of in bench.parts(lambda package: False).items():
        script, *options = of.command
        assert "pytorch-optimizer" not in of.command
        if script != "-m":
            assert bench.ROOT / script == BENCHMARKS / Path(script).name
            module = load_bench(Path(script).stem)
            assert module.parse(options).device == ("cpu" if name.endswith("cpu") else "cuda")
