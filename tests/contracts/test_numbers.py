"""Every number of every config has its range: 0, -1, NaN, infinity, 10^12 and 10^400 are refused, or meant as told here."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import TypeAdapter, ValidationError

import saft
from saft.cli.verbs import VERBS, imported
from saft.config import Range
from saft.errors import UserError
from saft.interference.quantity import MEASURES
from saft.merging.methods import METHODS
from saft.optim.perturbations.base import PERTURBATIONS, make_perturbation
from saft.registry import Registry

VALUES = {"0": 0, "-1": -1, "NaN": math.nan, "infinity": math.inf, "10^12": 10**12, "10^400": 10**400}
# Options that are no fields of a config: the first two are walked below, a measure's are set by a config's own.
APART = (PERTURBATIONS, METHODS, MEASURES)
SIZES = {"MergeConfig.shard_size", "MergeConfig.block_size"}  # "1.5 GiB" or bytes: read by size_in_bytes
ZERO = {  # what 0 turns off, or what it is the first of
    "TrainingOptions.learning_rate": "a step that changes nothing, to measure the others by",
    "TrainingOptions.weight_decay": "none",
    "TrainingOptions.betas": "no memory",
    "TrainingOptions.warmup_steps": "none",
    "TrainConfig.checkpoint_every": "writes none",
    "TrainConfig.data_workers": "the training itself makes the batches",
    "RunConfig.data_workers": "the training itself makes the batches",
    "Expected.value": "a figure may be 0",
    "Expected.tolerance": "to the digit",
    "MergeToMeasure.scaling": "the base itself",
    "MergedStart.scaling": "the base itself",
    "InterventionConfig.iterations": "stays at its beginning",
    "LoRA.dropout": "none",
    "Drift.strength": "off",
    "TauJp.strength": "off",
    "KFACDrift.rank": "the diagonal alone",
    "SummarizeConfig.rank": "the diagonal alone",
    "KFACDrift.strength": "off",
    "L2Base.strength": "off",
    "EMA.decay": "the last weights",
    "MeasureConfig.rho": "no sharpness",
    "RunConfig.sharpness_rho": "no ascent",
    "RayOptions.gpus": "none",
    "SlurmOptions.gpus": "none",
    "MergeOptions.scaling": "the base itself",
    "MergeOptions.choices": "the method says, when its name is known",
    "MergeConfig.scaling": "the base itself",
    "TextRegression.center": "a number like any",
    "Lines.beta": "the shallowest layer is the base's",
    "Lines.alpha": "the shallowest layer is the base's",
} | dict.fromkeys(
    (
        "RunConfig.seeds",
        "TrainConfig.seed",
        "MergeConfig.seed",
        "MeasureConfig.seed",
        "SummarizeConfig.seed",
        "SelectionOptions.seed",
        "SuggestConfig.seed",
        "TableConfig.split_seed",
        "TableSource.split_seed",
        "ImageSource.split_seed",
    ),
    "seed",
)
NEGATIVE = {  # factors, where the other direction has a meaning
    "MergeOptions.scaling",
    "MergeOptions.choices",
    "MergeConfig.scaling",
    "MergeToMeasure.scaling",
    "MergedStart.scaling",
    "Expected.value",
    "Lines.beta",
    "TextRegression.center",
    "Lines.alpha",
    "friendly_sam.sigma",
    "gsam.lr_min",
    "sampled_shift.coefficients",
    "sampled_shift.seed",
    "smat.seed",
    "task_vectors.seed",
}


def classes() -> Iterator[type[Any]]:
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(saft.__path__, "saft.")
        if not module.name.endswith("__main__")
    ]
    registries = {id(v): v for m in modules for v in vars(m).values() if isinstance(v, Registry)}
    roots = [imported(verb.config) for verb in VERBS.values() if verb.config]
    roots += [kind for r in registries.values() if r not in APART for _, kind in r.items()]
    assert {r.noun for r in registries.values()} > {r.noun for r in APART}
    seen: set[type[Any]] = set()

    def walk(hint: Any) -> Iterator[type[Any]]:
        if inspect.isclass(hint) and dataclasses.is_dataclass(hint) and hint not in seen:
            seen.add(hint)
            yield hint
            for inner in get_type_hints(hint, include_extras=True).values():
                yield from walk(inner)
        for inner in get_args(hint):
            yield from walk(inner)

    for root in roots:
        yield from walk(root)


def is_numeric(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return is_numeric(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return False
    return hint in (int, float) or any(is_numeric(inner) for inner in get_args(hint))


def is_bare(hint: Any) -> bool:
    """Return whether a number in the type has no range."""
    if get_origin(hint) is Annotated:
        has_range = any(isinstance(item, Range) for item in get_args(hint)[1:])
        return not has_range and is_bare(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return False
    return hint in (int, float) or any(is_bare(inner) for inner in get_args(hint))


def shaped(hint: Any, value: float) -> Any:
    """Return the value as the type wants it: by itself, in a list, in a mapping."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return shaped(inner[0], value)
    if origin in (list, tuple):
        return [shaped(item, value) for item in inner if item is not ...]
    if origin is dict:
        return {"a": shaped(inner[1], value)}
    return shaped(next(item for item in inner if is_numeric(item)), value) if inner else value


FIELDS = [
    pytest.param(f"{kind.__name__}.{field.name}", hints[field.name], id=f"{kind.__name__}.{field.name}")
    for kind in classes()
    for hints in [get_type_hints(kind, include_extras=True)]
    for field in dataclasses.fields(kind)
    if is_numeric(hints[field.name])
]


def meant(name: str, label: str, is_whole: bool) -> bool:
    match label:
        case "0":
            return name in ZERO
        case "-1":
            return name in NEGATIVE
        case "10^12":
            return not is_whole  # a real number without an end: what it makes diverge is told when it does
        case _:
            return False


def test_there_are_configs() -> None:
    assert len(FIELDS) > 40


@pytest.mark.parametrize(("name", "hint"), FIELDS)
def test_every_number_of_a_config_has_its_range(name: str, hint: Any) -> None:
    assert name in SIZES or not is_bare(hint), f"{name}: give it a type of saft.config.ranges"


def refusal(build: Callable[[], object]) -> str | None:
    """Return the message that refuses to build, or None."""
    try:
        build()
    except (UserError, ValidationError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("label", VALUES)
@pytest.mark.parametrize(("name", "hint"), FIELDS)
def test_numbers_of_a_config(name: str, hint: Any, label: str) -> None:
    if name in SIZES:
        return
    value = shaped(hint, VALUES[label])
    if refusal(lambda: TypeAdapter(hint).validate_python(value)) is None:
        assert meant(name, label, "whole=True" in repr(hint)), f"{name}: {label} is accepted"
    else:
        assert not (label == "0" and name in ZERO), f"{name}: 0 is meant: {ZERO[name]}"


@pytest.mark.parametrize("label", VALUES)
@pytest.mark.parametrize("name", PERTURBATIONS.names())
def test_options_of_a_perturbation(name: str, label: str) -> None:
    for field in dataclasses.fields(PERTURBATIONS.get(name)):
        if isinstance(field.default, (bool, str)) or field.name == "schedule":
            continue
        value: Any = (VALUES[label],) * 2 if isinstance(field.default, tuple) else VALUES[label]
        options = {field.name: value}
        message = refusal(lambda options=options: make_perturbation(name, **options))
        if message is None:
            place = f"{name}.{field.name}"
            assert label == "0" or meant(place, label, isinstance(field.default, int)), f"{place}: {label}"
        else:
            assert field.name in message
            assert len(message.splitlines()) == 1


@pytest.mark.parametrize("label", VALUES)
@pytest.mark.parametrize("name", METHODS.names())
def test_parameters_of_a_merge_method(name: str, label: str) -> None:
    kind = METHODS.get(name)
    for field in dataclasses.fields(kind):
        if isinstance(field.default, (bool, str)):
            continue
        options = {field.name: [VALUES[label]] if isinstance(field.default, tuple) else VALUES[label]}
        message = refusal(lambda options=options: kind.build(options))
        if message is None:
            signed = label == "-1" and field.name == "weights"
            large = label == "10^12" and not isinstance(field.default, int)
            assert label == "0" or signed or large, f"{name}.{field.name}: {label}"
        else:
            assert message.startswith(f"{field.name}: must be")
            assert len(message.splitlines()) == 1
