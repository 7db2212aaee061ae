"""The check before a merge: all that can be wrong, seen from configs and headers, and reported at once."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from saft import config as configs
from saft.errors import UserError, collecting, did_you_mean
from saft.files.sentence_modules import module_of
from saft.files.side_files import side_files
from saft.files.weights_writer import write_order
from saft.merging import layer_scaling
from saft.merging.carried import Carried, carried
from saft.merging.dtypes import ARITHMETIC, DTYPES
from saft.merging.inputs.alignment import beside_tower, differences, factors_differ, fitted
from saft.merging.inputs.config_differences import config_problems
from saft.merging.inputs.peft_adapter import read_input
from saft.merging.inputs.source import Source
from saft.merging.merge_config import VOCABULARIES, DataConfig, MergeConfig, size_in_bytes
from saft.merging.method import NO_WEIGHT, Method
from saft.merging.methods import METHODS
from saft.merging.outputs.output import OUTPUTS, Output
from saft.merging.outputs.target_folder import check_room, check_target
from saft.merging.outputs.whole_model import Weights
from saft.merging.plan import Plan
from saft.merging.varying import methods_by_tensor

__all__ = ["ReadInput", "check", "check_words", "output_of"]

ReadInput = Callable[[str, str, Source | None], Source]
"""Called with a location, its place in the merge file (`models.TASK`) and, of a model, the base."""


def output_of(config: MergeConfig, method: Method) -> Output:
    """Return the form of the result: the one place that asks what comes out of a merge.

    Raises:
        UserError: `output` names none, has a wrong option, or does not go with the other keys.
    """
    by_key = [form for _, kind in OUTPUTS.items() if (form := kind.asked_for(config, method)) is not None]
    wanted = max(by_key, key=lambda form: form.precedence, default=None)
    if config.output is None:
        return wanted or Weights()
    if wanted is not None:
        name = next(name for name, kind in OUTPUTS.items() if isinstance(wanted, kind))
        raise UserError(
            f"output: another key of this merge asks for '{name}' already; leave one of the two out"
        )
    options = dict(config.output)
    name = options.pop("name", None)
    named = [name for name, kind in OUTPUTS.items() if kind.by_name]
    if not isinstance(name, str):
        raise UserError(f"output.name: is required, but missing; choose from: {', '.join(named)}")
    try:
        kind = OUTPUTS.get(name)
    except UserError as error:
        raise UserError(f"output.name: {error}") from None
    if not kind.by_name:
        raise UserError(f"output.name: '{name}' is not asked for by name; choose from: {', '.join(named)}")
    return configs.parse(kind, options, "", "output")


def check(
    config: MergeConfig,
    out: str | Path | None = None,
    overwrite: bool = False,
    read: ReadInput = read_input,
) -> Plan:
    """Find everything that can be wrong with a merge, without reading a weight.

    Args:
        config: what to merge, and how.
        out: where the result will go, to check that place too.
        overwrite: whether a folder that is there and not empty may be replaced.
        read: finds the base and the models; default: in folders.

    Returns:
        The plan, for `engine.stream` and `write_merge`.

    Raises:
        UserError: with one message for each problem.
    """
    problems: list[str] = []
    method, output = _words(config, problems)
    if problem := _device_problem(config.device):
        problems.append(problem)
    base = None
    models: dict[str, Source] = {}
    with collecting(problems, "base: "):
        base = read(config.base, "base", None)
    for task, location in config.by_task().items():
        with collecting(problems, f"models.{task}: "):
            models[task] = read(location, f"models.{task}", base)
    along = Carried({}, {})
    with collecting(problems):
        along = carried(models)
    if base is not None:
        models = {task: fitted(base, source, config.vocabulary) for task, source in models.items()}
        excluded = _excluded(config.exclude, [base, *models.values()], problems)
        excluded |= beside_tower(base, models.values())
        for task, source in models.items():
            problems += differences(f"models.{task}", base, source, excluded)
            problems += config_problems(f"models.{task}", base, source, excluded)
        if method and method.needs_adapters:
            problems += factors_differ(config.method, base, models, excluded)
        if config.lines is not None:
            problems += layer_scaling.problems(config.lines, base.headers)
    if base is not None and base.folder.is_dir() and output and output.is_model:
        with collecting(problems):
            side_files(base.folder)  # a link out of the folder is told before the merge, not behind it
    if out is not None:
        with collecting(problems):
            check_target(Path(out), [*([base] if base else []), *models.values()], overwrite)
    if problems or method is None or base is None or output is None:
        raise UserError(*dict.fromkeys(problems))

    dtype = DTYPES[config.dtype] if config.dtype else None
    copied = {
        name
        for name, header in base.headers.items()
        if not header.dtype.is_floating_point or name in excluded
    }
    layout = {
        name: (dtype if dtype and header.dtype.is_floating_point else header.dtype, header.shape)
        for name, header in base.headers.items()
    }
    wanted = method.wanted({name: shape for name, (_, shape) in layout.items() if name not in copied})
    copied |= layout.keys() - set(wanted)
    merged = tuple(name for name in write_order(layout) if name not in copied)
    if not merged:
        cure = "exclude less" if excluded else f"`saft methods {config.method}` says what it is for"
        raise UserError(f"base: {base.folder}: no tensor is left that {config.method} merges; {cure}")
    if method.calibration and (modules := {module_of(name) for name in merged} - {""}):
        globs = ", ".join(f'"{module}/*"' for module in sorted(modules))
        raise UserError(
            f"method: '{config.method}' has examples go through the trunk, and not through the modules of "
            f"sentence-transformers; keep them out of the merge with exclude: [{globs}]"
        )
    by_tensor: dict[str, Method] = {}
    if config.varying:
        by_tensor = methods_by_tensor(method, config.varying, merged)
        method = by_tensor[merged[0]]
        if problems := list(_varying_problems(by_tensor, len(models))):
            raise UserError(*problems)
    default_scaling = method.scaling if config.lines is None else 1.0
    scaling = default_scaling if config.scaling is None else config.scaling
    plan = Plan(
        config, method, scaling, base, models, merged, tuple(sorted(copied)), layout, along, output, by_tensor
    )
    if problems := list(output.problems(plan)):
        raise UserError(*problems)
    if out is not None:
        check_room(Path(out), plan.bytes_out)
    return plan


def check_words(config: MergeConfig) -> None:
    """Find what is wrong with a merge without looking at a folder, or at the machine.

    Raises:
        UserError: with one message for each problem.
    """
    problems: list[str] = []
    method, _ = _words(config, problems)
    if method and config.varying:
        with collecting(problems):
            methods_by_tensor(method, config.varying, names=())
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _words(config: MergeConfig, problems: list[str]) -> tuple[Method | None, Output | None]:
    """Return the method and the form of the result, and put what is wrong with the file's words in a list."""
    method = output = None
    with collecting(problems):
        method = _method(config)
    with collecting(problems):
        output = output_of(config, method) if method else None
    problems += _value_problems(config, method, output)
    if output:
        problems += output.conflicts(config)
    if not config.models:
        problems.append("models: is empty; give a list of folders, or {task: folder}")
    elif method:
        problems += method.problems(len(config.models))
    return method, output


def _method(config: MergeConfig) -> Method:
    kind = METHODS.get(config.method)
    try:
        return kind.build(config.parameters)
    except UserError as error:
        raise UserError(*(f"parameters of {config.method}: {text}" for text in error.problems)) from error


def _value_problems(config: MergeConfig, method: Method | None, output: Output | None) -> Iterator[str]:
    words = {
        "dtype": (config.dtype, [None, *DTYPES]),
        "arithmetic": (config.arithmetic, ARITHMETIC),
        "vocabulary": (config.vocabulary, VOCABULARIES),
    }
    for key, (word, known) in words.items():
        if word not in known:
            yield f"{key}: unknown '{word}'" + did_you_mean(str(word), [name for name in known if name])
    for key, size in (("shard_size", config.shard_size), ("block_size", config.block_size)):
        if size is not None:
            try:
                size_in_bytes(key, size)
            except UserError as error:
                yield from error.problems
    if not re.fullmatch(r"cpu|cuda(:\d+)?", config.device):
        yield f"device: unknown '{config.device}'; use cpu or cuda"
    if method:
        reads = method.calibration or (output is not None and output.reads_examples)
        if not reads and config.data != DataConfig():
            yield f"data: '{config.method}' reads no examples; leave `data` out"
        if method.calibration and config.varying:
            yield f"varying: {config.method} has the same parameters for all tensors; leave it out"
    if method and len(method.scaling_grid) == 1 and config.scaling not in (None, method.scaling):
        yield (
            f"scaling: '{config.method}' has no scaling coefficient, but scaling is {config.scaling}; "
            "leave it out, or use task_arithmetic"
        )


def _varying_problems(by_tensor: Mapping[str, Method], tasks: int) -> Iterator[str]:
    """Yield what is wrong with the methods of tensors, and with which, where it is not with all."""
    places: dict[str, list[str]] = {}
    for name, method in by_tensor.items():
        for problem in method.problems(tasks):
            places.setdefault(problem, []).append(name)
    for problem, names in places.items():
        if len(names) == len(by_tensor):
            yield problem
        elif problem != NO_WEIGHT:  # where no model has a weight the base's tensor stays, which may be meant
            more = f" (and {len(names) - 1} more tensors)" if len(names) > 1 else ""
            yield f"varying, at '{names[0]}': {problem}{more}"


def _device_problem(name: str) -> str | None:
    """Return what is wrong with computing on the device called `name` on this machine, or None."""
    kind, _, number = name.partition(":")
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= n_devices:
        seen = f"{n_devices} CUDA devices" if n_devices else "no CUDA device"
        return f"device: '{name}' was asked for, but torch {torch.__version__} finds {seen}; use device: cpu"
    return None


def _excluded(patterns: Sequence[str], sources: Sequence[Source], problems: list[str]) -> set[str]:
    names = {name for source in sources for name in [*source.headers, *source.tied]}
    excluded: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            near = did_you_mean(pattern, {name.split(".")[0] + ".*" for name in names})
            problems.append(f"exclude: '{pattern}' matches no tensor{near}")
        excluded.update(matching)
    return excluded
