"""A config of `saft run` -> the same experiment, so small that it takes a minute, without a hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saft import config as configs
from saft.dry_run.left_out import (
    ARM_VALUES,
    COEFFICIENTS,
    LABELS,
    MACHINE,
    MERGE_VALUES,
    coefficients,
    left_out,
)
from saft.dry_run.tiny_data import ROWS, table_of
from saft.dry_run.tiny_model import architecture, write_model
from saft.experiment.arm_trials import dotted
from saft.experiment.merge_options import MergeOptions
from saft.experiment.run_config import RunConfig
from saft.merging.methods import METHODS
from saft.progress import note

__all__ = ["tiny_run"]

EXAMPLES = 8  # of each split
STEPS = 2
TOKENS = 96  # of a text: a token is a byte


def tiny_run(config: RunConfig) -> RunConfig:
    """Return a dry run of an experiment: its tasks, arms, merges and measures, each as small as can be.

    The model is a random one of two layers of the same architecture; the data are made up, in a table with
    the columns and labels that the config names, and read by the code that reads the hub's. What is left
    out, such as further seeds, is told on standard error. It goes to `out`-tiny, and nothing that comes out
    means anything: published figures stand beside it as not comparable.

    Args:
        config: of the experiment; neither its model nor its data need be there.

    Raises:
        UserError: there is no tiny model for its tasks.
    """
    if missing := left_out(config):
        note(f"--tiny runs every task, arm and merge; it leaves out {'; '.join(missing)}")
    out = f"{config.out}-tiny"
    inputs = Path(f"{out}-inputs")
    kind = architecture(config.model.path, config.tasks | config.held_out)
    model = write_model(inputs / kind / "model", kind)
    tasks, reference, held_out = (
        {name: _task(name, keys, inputs) for name, keys in named.items()}
        for named in (config.tasks, config.reference, config.held_out)
    )
    size = next(iter(config.regimes))
    merges = {name: _merge(name, options) for name, options in config.merges.items()}
    plain = dataclasses.asdict(config) | {
        "out": out,
        "model": {"path": str(model), "pooling": config.model.pooling},
        "tasks": tasks,
        "reference": reference,
        "held_out": held_out,
        "training": _training(dataclasses.asdict(config.training)),
        "arms": {
            name: _training(changes) if config.given(name) is None else _given(name, changes, inputs, kind)
            for name, changes in config.arms.items()
        },
        "merges": {name: dataclasses.asdict(options) for name, options in merges.items()},
        "selection": dataclasses.asdict(dataclasses.replace(config.selection, budget=2, arm_passes=None)),
        "seeds": config.seeds[:1],
        "regimes": {size: 2 * EXAMPLES},
        "validation_examples": EXAMPLES,
        "test_examples": EXAMPLES,
        "sharpness_examples": EXAMPLES,
        "expected": {
            name: dataclasses.asdict(figure) | {"comparable": False}
            for name, figure in config.expected.items()
        },
        "executor": "serial",
        "data_workers": None,
        "logger": None,
        "upload": None,
        "trainer": {key: value for key, value in config.trainer.items() if key not in MACHINE},
    }
    return configs.parse(RunConfig, plain, "--tiny")


def _given(arm: str, changes: Mapping[str, Any], folder: Path, kind: str) -> dict[str, Any]:
    """Return an arm whose experts are other random models."""
    experts = {
        task: str(write_model(folder / kind / "experts" / arm / task, kind, seed))
        for seed, task in enumerate(changes["experts"], 1)
    }
    return {**changes, "experts": experts}


def _merge(name: str, options: MergeOptions) -> MergeOptions:
    """Return how a method is tried: at few coefficients, with few iterations where it has any."""
    parameters = dict(options.parameters)
    if any(field.name == "iterations" for field in dataclasses.fields(METHODS.get(options.method_of(name)))):
        parameters["iterations"] = STEPS
    choices = {
        name: values[:MERGE_VALUES] for name, values in options.choices.items() if name not in parameters
    }
    scaling = coefficients(name, options)[:COEFFICIENTS]
    return dataclasses.replace(options, parameters=parameters, scaling=scaling, choices=choices)


def _training(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an arm says of its training, with as few steps and examples as it can have."""
    small: dict[str, Any] = {"steps": STEPS, "batch_size": 4, "micro_batch_size": None, "warmup_steps": 0}
    small |= {"select_steps": [1, STEPS] if changes.get("select_steps") else []}
    made = {key: small.get(key, value) for key, value in changes.items()}
    if made.get("penalty"):
        made["penalty"] = {**made["penalty"], "every": 1}
    if made.get("first_round"):
        made["first_round"] = _training(made["first_round"])
    if "choices" in made:
        fixed = {*small, "penalty.every"}
        options = {
            key: values[:ARM_VALUES] for key, values in dotted(made.pop("choices")) if key not in fixed
        }
        made |= {"choices": options} if options else {}
    return made


def _task(name: str, keys: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a task whose data are generated, with its first labels, and no sizes of its own."""
    small: dict[str, Any] = {"max_length": TOKENS, "text_model": None, "image_size": None}
    small |= {"max_new_tokens": 2, "max_target_length": 8, "prototype_images": 4, "drop_long": True}
    made = {key: small.get(key, value) for key, value in keys.items()}
    if "labels" in made:
        made["labels"] = dict(list(made["labels"].items())[:LABELS])
    data = {key: value for key, value in keys["data"].items() if key not in ("label_files", "options")}
    splits = [data.get("train", "train")]
    if (test := data.get("test", "test")) is not None:
        splits.append(test)
    files = {}
    for number, split in enumerate(splits):
        file = folder / "data" / f"{name}-{split}.parquet"
        table_of(made, seed=number, file=file)
        files[split] = str(file)
    made["data"] = data | {"path": "parquet", "files": files, "validation_fraction": 0.25}
    assert ROWS * 0.75 >= 2 * EXAMPLES
    return made
