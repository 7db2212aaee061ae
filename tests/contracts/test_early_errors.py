"""A mistake in a config is told before torch is imported, which takes seconds: by every verb, of every key."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from saft.cli import VERBS
from saft.cli.catalogue import ARMS
from saft.cli.verbs import imported
from saft.merging.methods import METHODS
from saft.merging.outputs.output import OUTPUTS
from saft.stand_ins import SLOW
from saft.tasks import TASKS

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(
    file for file in (ROOT / "configs").glob("*.yaml") if "\narms:" in file.read_text("utf-8")
)
REQUIRED = {  # what a part of an arm cannot be without
    "kfac_drift": {"summaries": ["a.safetensors"]},
    "only": {"tensors": ["encoder.*"]},
}

MODEL = {"path": "no/model"}
TASK = {
    "kind": "text_classification",
    "data": {"path": "csv", "files": {"train": "train.csv"}, "text": "text", "label": "label"},
    "labels": {"0": "bad", "1": "good"},
}
TRAINING = {"perturbation": {"name": "sam"}, "penalty": {"name": "l2_base"}, "averaging": {"name": "ema"}}
TRAIN = {
    "model": MODEL,
    "task": TASK,
    "out": "out",
    "training": TRAINING,
    "trainer": {"devices": 1},
}
RUN = {
    "model": MODEL,
    "tasks": {"a": TASK},
    "arms": {"adamw": {}, "sam": {"perturbation": {"name": "sam"}}},
    "out": "out",
    "training": TRAINING,
    "trainer": {"devices": 1},
}
MERGE = {"method": "ties", "base": "no/model", "models": ["no/expert"], "device": "cuda", "dtype": "bfloat16"}
MERGEKIT = {
    "merge_method": "ties",
    "base_model": "no/model",
    "models": [{"model": "no/expert"}],
    "parameters": {"weight": 1},
}
EVALUATE = {"checkpoints": ["no/expert"], "device": "cuda"}
MEASURE = {"base": "no/model", "checkpoints": ["no/expert"], "device": "cuda"}
SUGGEST = {"base": "no/model", "checkpoints": {"expert": "no/expert", "other": "no/other"}, "device": "cuda"}
SUMMARIZE = {
    "model": MODEL,
    "task": TASK,
    "out": "out.safetensors",
    "device": "cuda",
}
# verb, a config in which nothing is wrong so far, what makes it wrong, part of the message
MISTAKES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("run", RUN, {"regime": {}}, "regime: unknown key; did you mean 'regimes'?"),
    ("run", RUN, {"training": TRAINING | {"stesp": 3}}, "training.stesp: unknown key"),
    ("run", RUN, {"arms": {"sam": {"perturbatoin": {}}}}, "arms.sam.perturbatoin: unknown key; did you mean"),
    ("run", RUN, {"density": 2}, "density: "),
    ("run", RUN, {"arms": {"a": {"choices": {"stesp": [3]}}}}, "arms.a.choices.stesp: unknown key; did you"),
    ("run", RUN, {"arms": {"a": {"choices": {"steps": []}}}}, "arms.a.choices.steps: must not be empty"),
    ("run", RUN, {"arms": {"a": {"choices": {"steps": [3, 3]}}}}, "arms.a.choices.steps: holds 3 twice"),
    (
        "run",
        RUN,
        {"arms": {"a": {"steps": 3, "choices": {"steps": [3]}}}},
        "choices.steps: has a value beside",
    ),
    (
        "run",
        RUN,
        {"arms": {"a": {"choices": {"perturbation.rho": [0.1, -1]}}}},
        "arms.a.choices.perturbation.rho: must be at least 0, but is -1",
    ),
    (
        "run",
        RUN,
        {"arms": {"a": {"choices": {"steps": [7, 9]}}}, "selection": {"arm_passes": 5}},
        "selection.arm_passes: is 5, but one trial of the arm a takes ",
    ),
    ("run", RUN, {"trainer": {"max_steps": 3}}, "trainer.max_steps: is set by saft"),
    ("train", TRAIN, {"sead": 1}, "sead: unknown key; did you mean 'seed'?"),
    ("train", TRAIN, {"logger": "wandbb"}, "logger: unknown value 'wandbb'; did you mean 'wandb'?"),
    (
        "train",
        TRAIN,
        {"upload": "name"},
        "upload: must be a repository of the hub, OWNER/NAME, but is 'name'",
    ),
    (
        "merge",
        MERGE,
        {"upload": "a/b/c"},
        "upload: must be a repository of the hub, OWNER/NAME, but is 'a/b/c'",
    ),
    ("merge", MERGEKIT, {"uplaod": "a/b"}, "uplaod: unknown key; did you mean 'upload'?"),
    ("run", RUN, {"logger": "wandbb"}, "logger: unknown value 'wandbb'; did you mean 'wandb'?"),
    (
        "train",
        TRAIN,
        {"model": MODEL | {"poling": "cls"}},
        "model.poling: unknown key; did you mean 'pooling'?",
    ),
    ("train", TRAIN, {"training": TRAINING | {"steps": "many"}}, "training.steps: "),
    ("train", TRAIN, {"training": TRAINING | {"batch_size": 0}}, "training.batch_size: "),
    ("train", TRAIN, {"training": {"penalty": {}}}, "training: penalty: `name` is missing"),
    ("train", TRAIN, {"task": TASK | {"lables": {}}}, "task.lables: unknown key; did you mean 'labels'?"),
    ("train", TRAIN, {"reference": {"b": TASK | {"kind": "text"}}}, "reference.b.kind: unknown task kind"),
    ("train", TRAIN, {"training": {"perturbation": {"name": "asam", "eta": -1}}}, "eta: must be at least 0"),
    (
        "train",
        TRAIN,
        {"training": {"perturbation": {"name": "sam", "rise": 0.1}}},
        "rise: goes with rho: auto",
    ),
    ("train", TRAIN, {"training": {"perturbation": {"name": "smat", "rho": "auto"}}}, "rho: cannot be auto"),
    (
        "train",
        TRAIN,
        {"training": {"optimizer": {"name": "torch.optim:SGD", "momentun": 1}}},
        "did you mean 'momentum'",
    ),
    (
        "train",
        TRAIN,
        {"trainer": {"devcies": 1}},
        "trainer.devcies: unknown argument; did you mean 'devices'",
    ),
    ("train", TRAIN, {"trainer": {"precision": "bf15"}}, "trainer.precision: unknown value 'bf15'"),
    ("run", RUN, {"executor": "slrum"}, "executor: unknown executor 'slrum'; did you mean 'slurm'?"),
    ("run", RUN, {"merges": {"ties": {"parameters": {"density": 2}}}}, "merges.ties: density: must be in"),
    ("run", RUN, {"arms": {"a": {"averaging": {"name": "eam"}}}}, "did you mean 'ema'?"),
    ("run", RUN, {"tasks": {"a": TASK | {"head": "linaer"}}}, "tasks.a.head: unknown value 'linaer'"),
    ("merge", MERGE, {"method": "tise"}, "unknown merge method 'tise'; did you mean 'ties'?"),
    ("merge", MERGE, {"parameters": {"desnity": 1}}, "unknown parameter 'desnity'; did you mean 'density'?"),
    ("merge", MERGE, {"dtype": "float3"}, "dtype: unknown 'float3'"),
    ("merge", MERGE, {"device": "gpu"}, "device: unknown 'gpu'; use cpu or cuda"),
    ("merge", MERGE, {"output": {"name": "adaptor"}}, "unknown output 'adaptor'; did you mean 'adapter'?"),
    ("merge", MERGE, {"shard_size": "1 GX"}, "shard_size: '1 GX' is not a size"),
    (
        "merge",
        MERGE,
        {"method": "fisher", "data": {"tasks": {"expert": {"kind": "x"}}}},
        "data.tasks.expert.kind",
    ),
    ("merge", MERGEKIT, {"parameters": {"weight": 1, "densty": 1}}, "did you mean 'density'?"),
    ("merge", MERGE, {"exlude": []}, "exlude: unknown key; did you mean 'exclude'?"),
    ("merge", MERGE, {"lines": {"layers": "("}}, "layers: '(' is not a regular expression"),
    ("merge", MERGEKIT, {"base_modle": "b"}, "base_modle: unknown key; did you mean 'base_model'?"),
    ("evaluate", EVALUATE, {"exampels": 3}, "exampels: unknown key; did you mean 'examples'?"),
    ("evaluate", EVALUATE, {"device": "gpu"}, "device: 'gpu' is not a device of torch"),
    ("evaluate", EVALUATE, {"tasks": {"a": TASK | {"kind": "text"}}}, "tasks.a.kind: unknown task kind"),
    ("evaluate", EVALUATE, {"split": "tset"}, "split: unknown value 'tset'; did you mean 'test'?"),
    ("measure", MEASURE, {"densty": 0.5}, "densty: unknown key; did you mean 'density'?"),
    ("measure", MEASURE, {"rho": -1}, "rho: "),
    ("suggest", SUGGEST, {"budget": 0}, "budget: must be at least 1"),
    ("suggest", SUGGEST, {"budget": 2}, "budget: is 2, but 4 methods need an evaluation each"),
    (
        "suggest",
        SUGGEST,
        {"methods": {"tise": {}}},
        "methods.tise: unknown merge method 'tise'; did you mean",
    ),
    ("suggest", SUGGEST, {"methods": {"fisher": {}}}, "methods.fisher: reads examples"),
    ("suggest", SUGGEST, {"weights": "per_task", "methods": {"ties": {}}}, "weights: are those of task_arit"),
    (
        "suggest",
        SUGGEST,
        {"weights": "per_tusk"},
        "weights: unknown value 'per_tusk'; did you mean 'per_task'",
    ),
    ("suggest", SUGGEST, {"checkpoints": ["no/expert"]}, "checkpoints: a merge needs two or more"),
    ("suggest", SUGGEST, {"tasks": {"exprt": TASK}}, "tasks.exprt: there is no checkpoint of this name; did"),
    ("measure", MEASURE, {"tasks": {"expert": TASK | {"lables": {}}}}, "tasks.expert.lables: unknown key"),
    (
        "summarize",
        SUMMARIZE,
        {"task": TASK | {"promts": []}},
        "task.promts: unknown key; did you mean 'prompts'?",
    ),
    ("summarize", SUMMARIZE, {"exampels": 3}, "exampels: unknown key; did you mean 'examples'?"),
]
TELL_ALL = f"""
import contextlib, io, json, sys
from saft.cli import main

for line in sys.stdin:
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(json.loads(line))
    print(json.dumps([code, told.getvalue(), [name for name in {SLOW} if name in sys.modules]]), flush=True)
"""


def answers(program: str, questions: list[Any], folder: Path) -> list[Any]:
    """Return what a program answers, a line to each question."""
    lines = "\n".join(map(json.dumps, questions))
    done = subprocess.run(
        [sys.executable, "-c", program], input=lines, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each mistake is answered by: exit code, messages, what is imported by then; in one process."""
    folder = tmp_path_factory.mktemp("configs")
    lines = []
    for number, (verb, config, mistake, _) in enumerate(MISTAKES):
        file = Path(folder, f"{number}.yaml")
        file.write_text(yaml.safe_dump(config | mistake))
        lines.append([verb, str(file), *(["out"] if VERBS[verb].words else [])])
    return answers(TELL_ALL, lines, folder)


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


# Every key there is: an unknown one beside each, and a value that none can have.

WRONG = {"no": [{"such": "value"}]}


def keys(config_class: type[Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the place of every key of a config, nested ones included."""
    for name, hint in get_type_hints(config_class).items():
        if not any(field.name == name for field in dataclasses.fields(config_class)):
            continue
        yield (*place, name)
        for inner in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                named = ("ties",) if get_origin(hint) is dict else ()  # a name that is right for `merges`
                yield from keys(inner, (*place, name, *named))


def takes_anything(place: tuple[str, ...]) -> bool:
    """Return whether what is told of a value there, another library tells: datasets, or sbatch."""
    return place[-1] == "options" or place[-2:] == ("slurm", "more")


def changed(mapping: Any, place: tuple[str, ...], value: Any) -> Any:
    """Return a mapping with another value at a place."""
    first, *rest = place
    inner = mapping.get(first) if isinstance(mapping, dict) else None
    base = dict(mapping) if isinstance(mapping, dict) else {}
    return base | {first: changed(inner, tuple(rest), value) if rest else value}


def wrong_keys() -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Yield verb, config, and the place of what is wrong in it."""
    whole = {"run": RUN, "train": TRAIN, "merge": MERGE, "evaluate": EVALUATE, "measure": MEASURE}
    whole |= {"suggest": SUGGEST, "summarize": SUMMARIZE}
    for verb, config in whole.items():
        for place in keys(imported(VERBS[verb].config)):
            yield verb, changed(config, place, WRONG), place
            yield verb, changed(config, (*place[:-1], f"{place[-1]}_"), 1), (*place[:-1], f"{place[-1]}_")
    for _, kind in TASKS.items():
        for place in keys(kind):
            for last, value in ((place[-1], WRONG), (f"{place[-1]}_", 1)):
                name = next(name for name, other in TASKS.items() if other is kind)
                where = ("task", *place[:-1], last)
                yield "train", changed(TRAIN | {"task": {"kind": name}}, where, value), where
    for part, registry in ARMS.items():
        for name, kind in registry.items():
            yield "train", TRAIN | {"training": {part: {"name": f"{name}_"}}}, (part,)
            for field in dataclasses.fields(kind):
                for key, value in ((field.name, WRONG), (f"{field.name}_", 1)):
                    options = {part: {"name": name, key: value}}
                    yield "train", TRAIN | {"training": options}, ("training", part, key)
                    yield "run", RUN | {"arms": {"some": options}}, ("arms", "some", part, key)
    for name, method in METHODS.items():
        yield "merge", MERGE | {"method": f"{name}_"}, (f"{name}_",)
        for field in dataclasses.fields(method):
            for key, value in ((field.name, WRONG), (f"{field.name}_", 1)):
                parameters = {"parameters": {key: value}}
                yield "merge", MERGE | {"method": name} | parameters, ("parameters", key)
                yield "run", RUN | {"merges": {name: parameters}}, ("merges", name, key)
    for name, output in OUTPUTS.items():
        for field in dataclasses.fields(output) if output.by_name else ():
            options = {"output": {"name": name, f"{field.name}_": 1}}
            yield "merge", MERGE | options, ("output", f"{field.name}_")


CHECK_ALL = f"""
import json, sys
from saft.cli.verbs import VERBS
from saft.cli.words import settings
from saft.errors import UserError
from saft.stand_ins import stand_ins

with stand_ins():  # once for all, since each takes some tenths of a second
    for line in sys.stdin:
        verb, config = json.loads(line)
        try:
            settings(VERBS[verb], config, "f.yaml", "options")
            print("[]", flush=True)
        except UserError as error:
            print(json.dumps(error.problems), flush=True)
assert not [name for name in {SLOW} if name in sys.modules]
"""


def test_every_wrong_key_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    asked = [(verb, config, place) for verb, config, place in wrong_keys() if not takes_anything(place)]
    assert len(asked) > 1000
    told = answers(CHECK_ALL, [[verb, config] for verb, config, _ in asked], tmp_path)
    silent = []
    for (verb, _, place), problems in zip(asked, told, strict=True):
        own = [text for text in problems if text.startswith("f.yaml: ")]
        mine = [text for text in own if any(part in text for part in place[-2:])]
        if not mine or any("\n" in text for text in problems):
            silent.append(f"{verb}: {'.'.join(place)}: {problems}")
    assert not silent, "\n".join(silent)


def test_what_is_right_is_not_told(tmp_path: Path) -> None:
    right: list[Any] = [
        *(["run", RUN], ["train", TRAIN], ["merge", MERGE], ["merge", MERGEKIT], ["evaluate", EVALUATE]),
        *(["measure", MEASURE], ["suggest", SUGGEST], ["summarize", SUMMARIZE]),
    ]
    right += [
        [
            "train",
            TRAIN
            | {"reference": {"b": TASK}, "others": ["a"] if name == "task_vectors" else []}
            | {"training": {part: {"name": name} | REQUIRED.get(name, {})}},
        ]
        for part, registry in ARMS.items()
        for name in registry.names()
    ]
    right += [["train", TRAIN | {"training": {"perturbation": {"name": "a.module:Outside", "x": 1}}}]]
    right += [["run", yaml.safe_load(file.read_text("utf-8")) | {"out": "out"}] for file in EXPERIMENTS]
    told = answers(CHECK_ALL, right, ROOT)
    assert [item for item in zip(right, told, strict=True) if item[1]] == []
