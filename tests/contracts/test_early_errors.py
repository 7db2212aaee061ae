"""A mistake in a config is told before torch is imported, which takes seconds: by every verb, at any depth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from saft.cli import VERBS

MODEL = {"path": "no/model"}
TRAINING = {"perturbation": {"name": "sam"}, "penalty": {"name": "l2_base"}, "averaging": {"name": "ema"}}
TRAIN = {
    "model": MODEL,
    "task": {"kind": "text_classification"},
    "out": "out",
    "training": TRAINING,
    "trainer": {"devices": 1},
}
RUN = {
    "model": MODEL,
    "tasks": {"a": {"kind": "text_classification"}},
    "arms": {"adamw": {}, "sam": {"perturbation": {"name": "sam"}}},
    "out": "out",
    "training": TRAINING,
    "trainer": {"devices": 1},
}
MERGE = {"method": "ties", "base": "no/model", "models": ["no/expert"], "device": "cuda", "dtype": "bfloat16"}
MERGEKIT = {"merge_method": "ties", "base_model": "no/model", "models": [{"model": "no/expert"}]}
EVALUATE = {"checkpoints": ["no/expert"], "device": "cuda"}
MEASURE = {"base": "no/model", "checkpoints": ["no/expert"], "device": "cuda"}
SUMMARIZE = {
    "model": MODEL,
    "task": {"kind": "text_classification"},
    "out": "out.safetensors",
    "device": "cuda",
}
# verb, a config in which nothing is wrong so far, what makes it wrong, part of the message
MISTAKES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("run", RUN, {"regime": {}}, "regime: unknown key; did you mean 'regimes'?"),
    ("run", RUN, {"training": TRAINING | {"stesp": 3}}, "training.stesp: unknown key"),
    ("run", RUN, {"arms": {"sam": {"perturbatoin": {}}}}, "arms.sam.perturbatoin: unknown key; did you mean"),
    ("run", RUN, {"density": 2}, "density: "),
    ("run", RUN, {"trainer": {"max_steps": 3}}, "trainer.max_steps: is set by saft"),
    ("train", TRAIN, {"sead": 1}, "sead: unknown key; did you mean 'seed'?"),
    (
        "train",
        TRAIN,
        {"model": MODEL | {"poling": "cls"}},
        "model.poling: unknown key; did you mean 'pooling'?",
    ),
    ("train", TRAIN, {"training": TRAINING | {"steps": "many"}}, "training.steps: "),
    ("train", TRAIN, {"training": TRAINING | {"batch_size": 0}}, "training.batch_size: "),
    ("train", TRAIN, {"training": {"penalty": {}}}, "training: penalty: `name` is missing"),
    ("merge", MERGE, {"exlude": []}, "exlude: unknown key; did you mean 'exclude'?"),
    ("merge", MERGE, {"lines": {"layers": "("}}, "layers: '(' is not a regular expression"),
    ("merge", MERGEKIT, {"base_modle": "b"}, "base_modle: unknown key; did you mean 'base_model'?"),
    ("evaluate", EVALUATE, {"exampels": 3}, "exampels: unknown key; did you mean 'examples'?"),
    ("evaluate", EVALUATE, {"split": "tset"}, "split: unknown value 'tset'; did you mean 'test'?"),
    ("measure", MEASURE, {"densty": 0.5}, "densty: unknown key; did you mean 'density'?"),
    ("measure", MEASURE, {"rho": -1}, "rho: "),
    ("summarize", SUMMARIZE, {"exampels": 3}, "exampels: unknown key; did you mean 'examples'?"),
]
SLOW = ("torch", "lightning", "transformers", "datasets")
TELL_ALL = f"""
import contextlib, io, json, sys
from saft.cli import main

for line in sys.stdin:
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(json.loads(line))
    print(json.dumps([code, told.getvalue(), [name for name in {SLOW} if name in sys.modules]]), flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each mistake is answered by: exit code, messages, what is imported by then; in one process."""
    folder = tmp_path_factory.mktemp("configs")
    lines = []
    for number, (verb, config, mistake, _) in enumerate(MISTAKES):
        file = Path(folder, f"{number}.yaml")
        file.write_text(yaml.safe_dump(config | mistake))
        lines.append(json.dumps([verb, str(file), *(["out"] if VERBS[verb].words else [])]))
    done = subprocess.run(
        [sys.executable, "-c", TELL_ALL], input="\n".join(lines), capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_verb_with_a_config_is_here() -> None:
    assert {verb for verb, *_ in MISTAKES} == {name for name, verb in VERBS.items() if verb.config}


@pytest.mark.parametrize(
    "number", range(len(MISTAKES)), ids=[f"{verb}-{' '.join(mistake)}" for verb, _, mistake, _ in MISTAKES]
)
def test_a_mistake_is_told_before_torch_is_imported(told: list[Any], number: int) -> None:
    code, messages, imported = told[number]
    assert code == 2
    assert MISTAKES[number][3] in messages
    assert len(messages.splitlines()) == 1, messages
    assert imported == []
