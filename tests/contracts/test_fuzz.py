"""Whatever a config or a checkpoint folder holds: exit 0 or 2, no traceback, and no file outside the target.

A few hundred cases by default; SAFT_FUZZ=10000 tries so many of each.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saft import config
from saft.cli import VERBS, main
from saft.cli.verbs import imported
from saft.experiment.run_config import RunConfig
from saft.run import run
from saft.train import train
from saft.training.train_config import TrainConfig

pytestmark = pytest.mark.slow  # hundreds of commands

CASES = int(os.environ.get("SAFT_FUZZ", "0"))


def cases(fast: int) -> Any:
    return settings(
        max_examples=CASES or fast,
        deadline=None,
        derandomize=not CASES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 10**9, 10**12, 10**400, 0.5, -0.0, 1e-300, 1e300]),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.sampled_from(
        ["", ".", "..", "../../x", "/", "~", "a/b", "yes", "null", "1", "{}", "{x}", "a:b", "os:abort"]
    ),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.just([None, {"a": [1]}]),
    st.just({"": {"": None}}),
    st.just({"kind": "os:abort"}),
)


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """Return plain values with one of them, at any depth, replaced, removed, or given another name."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 9)):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, draw(st.text(max_size=6)): draw(JUNK)}
            case _:
                return {**value, key: draw(damaged(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(damaged(value[index])), *value[index + 1 :]]
    return draw(JUNK)


def ends(words: list[str], inside: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command; it ends with 0 or 2, in a few lines, and makes nothing but `inside`/out; return which."""

    def files() -> dict[Path, bytes | bool]:
        return {
            path: path.is_file() and path.read_bytes()
            for path in inside.parent.rglob("*")
            if inside / "out" not in (path, *path.parents)
        }

    before = files()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main(words)
    printed = capsys.readouterr()
    assert code in (0, 2)
    assert "Traceback" not in printed.err
    assert len(printed.err.splitlines()) < 60
    assert files() == before
    return code


TASK = {
    "kind": "text_classification",
    "data": {"path": "csv", "files": {"train": "a.csv", "test": "b.csv"}, "text": "text", "label": "label"},
    "labels": {"a": "x", "b": "y"},
    "prompts": ["a {} thing"],
    "max_length": 16,
}
TRAINING = {"steps": 2, "batch_size": 4, "betas": [0.9, 0.99], "perturbation": {"name": "sam", "rho": 0.1}}
CONFIGS: dict[str, dict[str, Any]] = {
    "train": {
        "model": {"path": "m"},
        "task": TASK,
        "out": "o",
        "training": TRAINING,
        "trainer": {"devices": 1},
    },
    "run": {
        "out": "o",
        "model": {"path": "m", "pooling": "mean"},
        "tasks": {"one": TASK, "two": TASK},
        "arms": {"adamw": {}, "sam": {"perturbation": {"name": "sam"}, "description": "d"}},
        "merges": {"ties": {"parameters": {"density": 0.2}, "scaling": [0.5, 1.0]}},
        "seeds": [0, 1],
        "regimes": {"few": 10, "all": None},
        "training": TRAINING,
    },
    "merge": {
        "method": "ties",
        "base": "m",
        "models": {"a": "x", "b": "y"},
        "parameters": {"density": 0.2, "weights": [1, 2]},
        "scaling": 0.5,
        "exclude": ["*.bias"],
        "shard_size": "1GB",
        "lines": {"alpha": 0.5, "beta": 1.0},
    },
    "evaluate": {"checkpoints": ["a", "b"], "tasks": {"one": TASK}, "examples": 3, "batch_size": 2},
    "measure": {"base": "m", "checkpoints": {"a": "x"}, "tasks": {"a": TASK}, "density": 0.2, "rho": 0.1},
    "suggest": {"base": "m", "checkpoints": {"a": "x", "b": "y"}, "tasks": {"a": TASK}, "budget": 8},
    "summarize": {"model": {"path": "m"}, "task": TASK, "out": "s.safetensors", "name": "a", "examples": 8},
}


def test_every_verb_with_a_config_is_here() -> None:
    assert set(CONFIGS) == {name for name, verb in VERBS.items() if verb.config}


@pytest.mark.parametrize("verb", CONFIGS)
def test_a_damaged_config(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of the values alone: the verb itself is not called."""
    file = tmp_path / "inside" / "config.yaml"
    file.parent.mkdir()
    done = VERBS[verb].function
    monkeypatch.setattr(
        "saft.cli.words.imported", lambda path: (lambda *_, **__: "done") if path == done else imported(path)
    )

    @cases(40)
    @given(damaged(CONFIGS[verb]))
    def case(mapping: Any) -> None:
        file.write_text(yaml.safe_dump(mapping, allow_unicode=True), "utf-8", errors="surrogatepass")
        ends([verb, str(file), *(["out"] if verb == "merge" else [])], file.parent, capsys)

    case()


@pytest.mark.parametrize("verb", ["train", "merge"])
def test_a_damaged_yaml_text(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "inside" / "config.yaml"
    file.parent.mkdir()
    done = VERBS[verb].function
    monkeypatch.setattr(
        "saft.cli.words.imported", lambda path: (lambda *_, **__: "done") if path == done else imported(path)
    )
    text = yaml.safe_dump(CONFIGS[verb])
    pieces = st.sampled_from(
        [
            "&a ",
            "*a",
            "<<: ",
            "{",
            "}",
            "[",
            "]",
            "- ",
            ": ",
            "!!int ",
            "!x ",
            "|",
            ">",
            "'",
            '"',
            "\t",
            "\0",
            "---\n",
            "? ",
            "#",
            "%",
            "\ufeff",
            "é",
            "\\x",
        ]
    )

    @cases(60)
    @given(
        st.lists(st.tuples(st.integers(0, len(text)), pieces | st.binary(max_size=3)), min_size=1, max_size=4)
    )
    def case(changes: list[tuple[int, str | bytes]]) -> None:
        content = text.encode()
        for place, piece in changes:
            new = piece.encode() if isinstance(piece, str) else piece
            content = content[:place] + new + content[place:]
        file.write_bytes(content)
        ends([verb, str(file), *(["out"] if verb == "merge" else [])], file.parent, capsys)

    case()


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_tasks: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("expert") / "size"
    train(
        TrainConfig(
            model={"path": str(tiny_model)},  # type: ignore[arg-type]
            task=tiny_tasks["size"],
            out=str(folder),
            name="size",
            training={"steps": 1, "batch_size": 2},  # type: ignore[arg-type]
            train_examples=4,
            validation_examples=2,
        )
    )
    return folder


@st.composite
def damage(draw: st.DrawFn, folder: Path, pattern: str = "*") -> Callable[[Path], None]:
    """Return what damages one file of a copy of the folder."""
    files = (file for file in folder.rglob(pattern) if file.is_file())
    name = draw(st.sampled_from(sorted(str(file.relative_to(folder)) for file in files)))
    content = (folder / name).read_bytes()
    if draw(st.booleans()):
        if name.endswith(".json"):
            new = json.dumps(draw(damaged(json.loads(content)))).encode()
            return lambda copy: _replace(copy / name, new)
        if name.endswith(".safetensors"):
            (length,) = struct.unpack("<Q", content[:8])
            header = json.dumps(draw(damaged(json.loads(content[8 : 8 + length])))).encode()
            new = struct.pack("<Q", len(header)) + header + content[8 + length :]
            return lambda copy: _replace(copy / name, new)
    kind = draw(st.sampled_from(["cut", "flip", "insert", "empty", "gone", "folder", "link", "length"]))
    place = draw(st.integers(0, len(content)))
    noise = draw(st.binary(min_size=1, max_size=8))
    match kind:
        case "cut":
            return lambda copy: _replace(copy / name, content[:place])
        case "flip":
            return lambda copy: _replace(copy / name, content[:place] + noise + content[place + len(noise) :])
        case "insert":
            return lambda copy: _replace(copy / name, content[:place] + noise + content[place:])
        case "empty":
            return lambda copy: _replace(copy / name, b"")
        case "length":
            return lambda copy: _replace(copy / name, noise.ljust(8, b"\0") + content[8:])
        case "gone":
            return lambda copy: (copy / name).unlink()
        case "folder":
            return lambda copy: ((copy / name).unlink(), (copy / name).mkdir())[0]
        case _:
            return lambda copy: ((copy / name).unlink(), (copy / name).symlink_to("/etc/hostname"))[0]


@pytest.fixture(scope="module")
def experiment(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_tasks: dict[str, Any]
) -> Path:
    folder = tmp_path_factory.mktemp("experiment") / "run"
    mapping = {
        "out": str(folder),
        "model": {"path": str(tiny_model)},
        "tasks": tiny_tasks,
        "arms": {"adamw": {"steps": 1, "batch_size": 2}},
        "merges": {"average": {}},
        "regimes": {"few": 8},
        "validation_examples": 4,
        "test_examples": 4,
        "sharpness_examples": 4,
    }
    run(config.parse(RunConfig, mapping, "run.yaml"))
    return folder


def _replace(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def words(command: str, base: Path, copy: Path, inside: Path) -> list[str]:
    """Return a command that reads the damaged copy of an expert, and what it writes is inside/out."""
    match command:
        case "merge" | "base":
            first, other = (base, copy) if command == "merge" else (copy, base)
            file = inside / "merge.yaml"
            file.write_text(
                yaml.safe_dump({"method": "ties", "base": str(first), "models": {"a": str(other)}})
            )
            return ["merge", str(file), str(inside / "out")]
        case "measure":
            return ["measure", f"--base={base}", f"--checkpoints={{size: {copy}}}", "--examples=2"]
        case "suggest":
            twice = f"--checkpoints={{size: {copy}, other: {copy}}}"
            few = [
                "--methods={average: {}, ties: {}}",
                "--budget=2",
                "--examples=4",
                f"--out={inside / 'out'}",
            ]
            return ["suggest", f"--base={base}", twice, *few]
        case _:
            return ["evaluate", f"--checkpoints=[{copy}]", "--examples=2"]


@pytest.mark.parametrize(
    "command",
    [
        "merge",
        "base",
        "measure",
        "evaluate",
        "suggest",
    ],
)
def test_a_damaged_checkpoint(
    command: str, expert: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "inside"
        copy = inside / "copy"
        codes: list[int] = []

        @cases(40 if command in ("merge", "base") else 20)  # the others load a model each time
        @given(damage(expert))
        def case(change: Callable[[Path], None]) -> None:
            shutil.rmtree(inside, ignore_errors=True)
            shutil.copytree(expert, copy)
            change(copy)
            codes.append(ends(words(command, tiny_model, copy, inside), inside, capsys))

        case()
    assert set(codes) == {0, 2}, "a damage that hurts nothing, and one that does, are both among the cases"


@pytest.mark.parametrize("command", ["report", "status", "check", "run"])
def test_a_damaged_run(command: str, experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `report` and `run` write lies in the folder that they read; the other two write nothing."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "inside"
        copy = inside / ("out" if command in ("report", "run") else "run")
        codes: list[int] = []

        @cases(12 if command in ("report", "run") else 20)  # which draw all figures each time
        @given(damage(experiment, "re*" if command == "report" else "*.json"))
        def case(change: Callable[[Path], None]) -> None:
            shutil.rmtree(inside, ignore_errors=True)
            shutil.copytree(experiment, copy)
            change(copy)
            words = (
                [command, str(copy)] if command in ("report", "run") else ["run", str(copy), f"--{command}"]
            )
            codes.append(ends(words, inside, capsys))

        case()
    assert 0 in codes, "some damage hurts nothing"
