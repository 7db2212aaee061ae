"""Several merges in one file of mergekit's: done in the order of their needs, checked before the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saft.cli import main
from saft.errors import UserError
from saft.merging.mergekit.multi_merge import stages

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit"
FILE = """\
# the last merge may come first
merge_method: linear
models:
  - model: first
    parameters: {weight: 0.25}
  - model: c
    parameters: {weight: 0.75}
dtype: float32
---
name: first
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: 0.25}}
dtype: float32
"""


@pytest.fixture(autouse=True)
def beside_the_models(monkeypatch):
    monkeypatch.chdir(GOLDEN)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "merges.yaml").write_text(FILE)
    return tmp_path / "merges.yaml"


@pytest.mark.parametrize("written", ["first", "{model: {path: first}}"])
def test_the_result_of_one_is_the_input_of_the_next(written, file, tmp_path, capsys):
    file.write_text(FILE.replace("model: first", f"model: {written}") + "slices: null\n")  # as if not there
    assert main(["merge", str(file), str(tmp_path / "out")]) == 0
    base, a, b, c, found = (
        load_file(Path(name) / "model.safetensors") for name in ("base", "a", "b", "c", tmp_path / "out")
    )
    for name, weight in found.items():
        first = base[name] + 0.5 * (a[name] - base[name]) + 0.25 * (b[name] - base[name])
        torch.testing.assert_close(weight, 0.25 * first + 0.75 * c[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.yaml", "out"]


def test_a_mistake_in_any_of_them_is_told_before_the_first(file, tmp_path, capsys):
    for wrong, message in (
        (FILE.replace("model: c", "model: nowhere"), "nowhere"),
        (
            FILE.replace("weight: 0.75", "wieght: 0.75"),
            "last merge: models[1].parameters.wieght: unknown to linear",
        ),
        (FILE.replace("{model: b", "{model: bb"), "bb"),
        (FILE.replace("name: first", "name: 2nd/../x"), "name:"),
        (FILE.replace("name: first\n", ""), "2 of its merges are without `name:`, but only one may be"),
        (FILE.replace("name: first\n", "nmae: first\n"), "is 'nmae' meant for `name`?"),
        (
            FILE.replace("name: first", "name: 3"),
            "name: 3 is not a word, by which others ask for the result; put it in quotes",
        ),
        (FILE.replace("name: first", "name: true"), "name: True is not a word"),
        (FILE.replace("name: first", "name: [x]"), "name: ['x'] is not a word"),
        (
            FILE + "---\n" + FILE.split("---")[1].replace("first", "other"),
            "no other merge takes the result of",
        ),
        (
            FILE.replace("model: first", "model: frist"),
            "the result of 'first' (is 'frist' meant for it?), and",
        ),
        (
            FILE.replace("base_model: base", "base_model: first"),
            "the merge 'first' takes its own result; if the folder 'first' is meant, give the merge another `name:`",
        ),
        (
            FILE.replace("model: a", "model: other")
            + "---\n"
            + FILE.split("---")[1].replace("first", "other").replace("model: a", "model: first"),
            "the merges 'first', 'other' need each other's results",
        ),
        (FILE.replace("dtype: float32\n---", "dtype: [\n---"), "not valid YAML"),
    ):
        file.write_text(wrong)
        assert main(["merge", str(file), str(tmp_path / "out")]) == 2, message
        assert message in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["merges.yaml"]


def test_all_of_them_may_have_names(file, tmp_path):
    assert main(["merge", str(file), str(tmp_path / "out")]) == 0
    file.write_text(FILE.replace("# the last", "name: last\n# the last"))
    assert main(["merge", str(file), str(tmp_path / "named")]) == 0
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert tensor.equal(load_file(tmp_path / "named" / "model.safetensors")[name])


def test_a_file_of_one_merge_may_have_a_name(file, tmp_path, capsys):
    document = FILE.split("---\n")[1]
    for text, code, message in (
        (document, 0, ""),
        (
            document.replace("first", "3"),
            2,
            "name: 3 is not a word, by which others ask for the result; put it in quotes",
        ),
        (document.replace("model: a", "model: first"), 2, "the merge 'first' takes its own result"),
        (document.replace("merge_method", "method"), 2, "name: unknown key"),
    ):
        file.write_text(text)
        assert main(["merge", str(file), str(tmp_path / "out"), "--dtype=bfloat16"]) == code, text
        assert message in capsys.readouterr().err


def test_a_check_writes_nothing(file, tmp_path, capsys):
    assert main(["merge", "--check", str(file), str(tmp_path / "out")]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_names_are_unique_and_no_other_verb_takes_such_a_file(file, capsys):
    document = {"name": "x", "merge_method": "linear"}
    with pytest.raises(UserError, match=r"m.yaml: name: 'x' is given twice"):
        stages([document, document, {}], "m.yaml")
    with pytest.raises(UserError, match="document 2: must hold"):
        stages([document, 3], "m.yaml")
    assert main(["train", str(file), "--check"]) == 2
