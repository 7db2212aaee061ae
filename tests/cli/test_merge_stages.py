"""Merges in stages: what is recorded of them, told before them, and left of one that was killed."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saft.cli import main, merge_stages
from saft.files.fingerprints import fingerprint
from saft.files.lock import locked
from saft.merging.outputs import target_folder
from tests.forks import forked

MODELS = Path(__file__).parents[1] / "golden" / "mergekit"
FILE = """\
name: first
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: 0.25}}
dtype: float32
---
name: second
merge_method: ties
base_model: base
models: [{model: first}, {model: c}]
parameters: {density: 0.5, weight: 0.5}
dtype: float32
---
merge_method: linear
models:
  - {model: first, parameters: {weight: 0.25}}
  - {model: second, parameters: {weight: 0.75}}
dtype: float32
shard_size: 2000
"""
# Ends as a process does that is killed: at the second shard of a merge, or when that into a folder begins.
KILLED = """\
import os, signal, sys
from saft.cli import main, merge_stages
from saft.files.finished_shards import FinishedShards
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
carried_out, add = merge_stages.carried_out, FinishedShards.add
def stopping(plan, out, *rest):
    return kill() if os.path.basename(out) == sys.argv[1] else carried_out(plan, out, *rest)
def adding(self, name):
    add(self, name)
    if sys.argv[1] == "shards" and len(self.names) == 2: kill()
merge_stages.carried_out, FinishedShards.add = stopping, adding
main(["merge", *sys.argv[2:]])
"""


@pytest.fixture(autouse=True)
def beside_the_models(monkeypatch, tmp_path):
    for name in ("base", "a", "b", "c"):
        shutil.copytree(MODELS / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)


def merge(text, *flags):
    Path("m.yaml").write_text(text)
    return main(["merge", "m.yaml", "out", *flags])


def killed(where, text=FILE):
    Path("m.yaml").write_text(text)
    process = forked(KILLED, where, "m.yaml", "out")
    process.join()
    assert process.exitcode == -signal.SIGKILL


def files(folder):
    folder = Path(folder)
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def hidden():
    return sorted(path.name for path in Path().iterdir() if path.name.startswith("."))


@pytest.fixture
def begun(monkeypatch):
    """Return the names of the folders that are merged into."""
    names, carried_out = [], merge_stages.carried_out

    def noting(plan, out, *rest):
        names.append(Path(out).name)
        return carried_out(plan, out, *rest)

    monkeypatch.setattr(merge_stages, "carried_out", noting)
    return names


def test_the_result_records_every_stage_and_no_folder_that_is_gone():
    assert merge(FILE) == 0
    text = Path("out/saft.json").read_text()
    card = Path("out/README.md").read_text()
    assert ".stages" not in text + card
    assert str(Path.cwd()) not in text + card
    record = json.loads(text)
    first, second = record["stages"]
    assert (first["name"], second["name"]) == ("first", "second")
    digests = {entry["location"]: entry["blake3"] for entry in (first["base"], *first["models"])}
    assert digests == {
        name: {"model.safetensors": fingerprint(Path(name, "model.safetensors"), "blake3")}
        for name in ("base", "a", "b")
    }
    assert first["method"] == "mergekit"
    assert first["parameters"]["weights"] == [0.5, 0.25]
    assert [entry["location"] for entry in second["models"]] == ["first", "c"]
    assert [entry["location"] for entry in record["models"]] == ["first", "second"]
    assert second["models"][0]["blake3"] == record["models"][0]["blake3"]
    assert "stages" not in first | second
    assert "- `first` = base + 1 × (" in card
    assert "Base: `base`. Fine-tuned models: `a`, `b`." in card


def test_notes_are_told_though_the_stages_that_they_are_of_are_gone(capsys):
    for folder, mask in {"base": 0, "a": 0, "b": 1, "c": 0}.items():
        file = Path(folder, "model.safetensors")
        save_file(load_file(file) | {"mask": torch.tensor([mask])}, file)
    Path("merge.yaml").write_text(FILE.replace("base_model: base\nmodels: [", "base_model: first\nmodels: ["))
    assert main(["merge", "merge.yaml", "out"]) == 0
    told = capsys.readouterr().out
    assert told.count("note: 'mask': of whole numbers") == 1, told


def test_a_stage_whose_numbers_are_not_there_yet_is_not_said_to_be_the_base(capsys):
    Path("merge.yaml").write_text(FILE)
    assert main(["merge", "--check", "merge.yaml"]) == 0
    assert "note: " not in capsys.readouterr().out


def test_a_mistyped_stage_is_guessed_where_there_is_no_such_folder(capsys):
    Path("merge.yaml").write_text(FILE.replace("{model: first}, {model: c}", "{model: ./frist}, {model: c}"))
    assert main(["merge", "--check", "merge.yaml", "out"]) == 2
    assert "; did you mean the merge 'first'?" in capsys.readouterr().err


def test_a_check_sums_over_the_stages(capsys):
    assert merge(FILE, "--check") == 0
    told = capsys.readouterr().out
    assert "first: mergekit, " in told
    assert "last merge: linear, " in told
    assert "all 3 merges: 4 passes read 82.1 KiB, write 20.5 KiB, of which 13.7 KiB lie beside OUT" in told
    assert "takes about" in told
    assert hidden() == []
    assert main(["merge", "m.yaml", "--check"]) == 0


def test_room_is_needed_for_all_results_at_once(monkeypatch, capsys):
    usage = shutil.disk_usage(".")._replace(free=15_000)  # one takes 6.8 KiB
    monkeypatch.setattr(target_folder.shutil, "disk_usage", lambda _: usage)
    assert merge(FILE, "--check") == 2
    assert (
        "out: the results of all its merges take 20.5 KiB, but 14.6 KiB are left" in capsys.readouterr().err
    )
    assert merge(FILE) == 2
    assert not Path("out").exists()


def adapter_of_rank(text, at, rank="adapter_rank: 2\n"):
    parts = text.replace("shard_size: 2000\n", "").split("---\n")
    parts[at] += rank
    return "---\n".join(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            adapter_of_rank(FILE, 0),
            "m.yaml: first: adapter_rank: another merge takes the result, and takes only whole weights",
        ),
        (
            adapter_of_rank(FILE, 1, "output: {name: adapter, rank: 2}\n"),
            "m.yaml: second: output: another merge takes",
        ),
        (
            adapter_of_rank(FILE, 2),
            "m.yaml: last merge: adapter_rank: the result would need its base 'first', which is not kept",
        ),
        (FILE.replace("model: b,", "model: bb,"), "m.yaml: first: models.bb: "),
        (
            FILE.replace("dtype: float32\nshard", "exclude: [x.*]\nshard"),
            "m.yaml: last merge: exclude: 'x.*'",
        ),
    ],
)
def test_what_only_one_of_several_may_not_do_is_told_before_the_first(text, message, capsys, begun):
    for flags in ([], ["--check"]):
        assert merge(text, *flags) == 2
        told = capsys.readouterr().err
        assert message in told
        assert len(told.splitlines()) == 1
    assert not begun
    assert hidden() == []


def test_heads_that_differ_are_told_before_the_first(capsys, begun):
    for name, other in (("a", 0.0), ("c", 1.0)):
        Path(name, "heads").mkdir()
        for task in ("news", f"only of {name}"):
            head = {"w": load_file("a/model.safetensors").popitem()[1] + other}
            save_file(head, f"{name}/heads/{task}.safetensors")
    assert merge(FILE) == 2
    assert "m.yaml: second: models.c: " in capsys.readouterr().err
    assert not begun


def test_the_input_of_an_earlier_stage_is_not_replaced(capsys, begun):
    before = files("a")
    Path("m.yaml").write_text(FILE)
    assert main(["merge", "m.yaml", "a", "--overwrite"]) == 2
    assert "a: is one of the models to merge" in capsys.readouterr().err
    assert files("a") == before
    assert not begun


def test_a_stage_may_be_the_base_that_the_tokenizer_is_of():
    last = (
        "merge_method: ties\nbase_model: first\nmodels: [{model: c}]\nparameters: {weight: 1, density: 1}\n"
    )
    text = FILE.split("---")[0] + f"---\n{last}tokenizer_source: first\n"
    assert merge(text) == 0


def test_a_stage_of_another_dtype_is_counted_as_it_will_be(capsys):
    text = FILE.replace("dtype: float32\n---\nname: second", "dtype: float64\n---\nname: second")
    assert merge(text, "--check") == 0
    assert "82.1 KiB" not in capsys.readouterr().out
    assert merge(text) == 0


def test_an_adapter_may_be_on_a_stage():
    Path("one.yaml").write_text(
        "method: task_arithmetic\nbase: base\nmodels: [a]\nadapter_rank: 2\nscaling: 1.0\n"
    )
    assert main(["merge", "one.yaml", "lora"]) == 0
    text = FILE.replace("{model: c}", "{model: first+lora}")
    assert merge(text) == 0
    expected = files("out")
    one, other = json.loads(expected["saft.json"])["stages"][1]["models"]
    assert (one["location"], other["location"]) == ("first", "first+lora")
    shutil.rmtree("out")
    killed("out", text)
    assert merge(text) == 0
    assert files("out") == expected


@pytest.mark.parametrize(
    ("where", "left"), [("first", []), ("second", ["first"]), ("out", ["first", "second"])]
)
def test_a_merge_that_was_killed_goes_on_after_its_finished_stages(where, left, begun, capsys):
    assert merge(FILE) == 0
    expected = files("out")
    shutil.rmtree("out")
    begun.clear()
    killed(where)
    assert not Path("out").exists()
    capsys.readouterr()
    assert merge(FILE, "--check") == 0
    told = ", ".join(f"'{name}'" for name in left)
    assert (f"goes on after {told}, of a merge that was killed" in capsys.readouterr().out) == bool(left)
    assert merge(FILE) == 0
    assert begun == [name for name in ("first", "second", "out") if name not in left]
    assert files("out") == expected
    assert hidden() == []


def test_a_merge_that_was_killed_goes_on_at_its_last_finished_shard(begun, capsys):
    assert merge(FILE) == 0
    expected = files("out")
    shutil.rmtree("out")
    begun.clear()
    killed("shards")
    capsys.readouterr()
    assert merge(FILE, "--check") == 0
    assert "'last merge' goes on with 2 of 4 shards" in capsys.readouterr().out
    assert merge(FILE) == 0
    assert "last merge: went on with 2 shards" in capsys.readouterr().out
    assert begun == ["out"]
    assert files("out") == expected
    assert hidden() == []


def test_a_stage_goes_on_at_its_last_finished_shard(begun):
    text = FILE.replace("dtype: float32\n---\nname: second", "shard_size: 2000\n---\nname: second")
    assert merge(text) == 0
    expected = files("out")
    shutil.rmtree("out")
    killed("shards", text)
    (left,) = Path(".out.stages").glob(".first.saft-*")
    inodes = {shard.name: shard.stat().st_ino for shard in left.glob("*.safetensors")}
    killed("second", text)
    kept = {shard.name: shard.stat().st_ino for shard in Path(".out.stages/first").glob("*.safetensors")}
    assert len(inodes.items() & kept.items()) >= 2
    assert merge(text) == 0
    assert files("out") == expected
    assert hidden() == []


@pytest.mark.parametrize("change", ["settings", "input", "needs"])
def test_what_is_left_of_another_merge_is_not_taken(change, begun):
    killed("out")
    begun.clear()
    text, again = FILE, ["first", "second", "out"]
    if change == "settings":
        text, again = FILE.replace("density: 0.5", "density: 0.25"), ["second", "out"]
    elif change == "input":
        tensors = load_file("a/model.safetensors")
        save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, "a/model.safetensors")
    else:
        text = FILE.replace("weight: 0.5}", "weight: 0.75}")
    assert merge(text) == 0
    assert begun == again
    expected = files("out")
    shutil.rmtree("out")
    assert merge(text) == 0
    assert files("out") == expected
    assert hidden() == []


def test_a_single_merge_into_the_same_folder_removes_what_is_left():
    killed("out")
    assert hidden() == [".out.stages", ".out.stages.lock"]
    assert merge(FILE.split("---")[0].replace("name: first\n", "")) == 0
    assert hidden() == []


def test_one_process_at_a_time_works_towards_a_folder(capsys, begun):
    with locked(Path(".out.stages.lock"), "out"):
        assert merge(FILE) == 2
    assert "out: another saft works in it" in capsys.readouterr().err
    assert not begun
    assert merge(FILE) == 0


def test_what_is_finished_needs_no_room_again(monkeypatch):
    killed("out")
    usage = shutil.disk_usage(".")._replace(free=10_000)  # one takes 6.8 KiB, all three 20.5
    monkeypatch.setattr(target_folder.shutil, "disk_usage", lambda _: usage)
    assert merge(FILE) == 0


def test_an_interrupt_leaves_nothing(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    carried_out = merge_stages.carried_out
    monkeypatch.setattr(
        merge_stages,
        "carried_out",
        lambda plan, out, *rest: stop() if Path(out).name == "second" else carried_out(plan, out, *rest),
    )
    assert merge(FILE) == 130
    assert not Path("out").exists()
    assert hidden() == []
