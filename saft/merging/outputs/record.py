"""A merge as a folder: what its output writes, and around it side files, heads, manifest and model card."""

from __future__ import annotations

import dataclasses
import mmap
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import saft
from saft.errors import abbreviated
from saft.files.checkpoint import (
    HEADS,
    read_card,
    read_manifest,
    staged,
    state_dtype,
    write_card,
    write_manifest,
)
from saft.files.fingerprints import fingerprint
from saft.files.finished_shards import FinishedShards
from saft.files.locations import is_hub_id
from saft.files.side_files import copy_side_files
from saft.merging.inputs.source import Source
from saft.merging.methods import shown
from saft.merging.outputs.output import Output, Written
from saft.merging.outputs.resume import can_resume, mark
from saft.merging.outputs.target_folder import size_in_words
from saft.merging.plan import Plan
from saft.merging.stream.reader import Progress

__all__ = ["describe", "digests", "formula", "manifest", "write_merge"]


@contextmanager
def digests(
    plan: Plan, mapped: Mapping[Path, mmap.mmap] | None = None
) -> Iterator[Callable[[], dict[Path, str]]]:
    """Take the BLAKE3 of every file that a plan reads, beside the work in the block, which reads the same.

    Of large files that were read before, and have not changed, it is remembered. Where the work fails, the
    rest is given up.

    Args:
        plan: of the merge.
        mapped: its files, as far as they are mapped already.

    Yields:
        A function that waits for the digests, to be called when the work is done.
    """
    with ThreadPoolExecutor(plan.hashing_threads) as hasher:
        futures = {
            file: hasher.submit(fingerprint, file, "blake3", (mapped or {}).get(file))
            for file in _in_order_of_use(plan)
        }
        try:
            yield lambda: {file: digest.result() for file, digest in futures.items()}
        except BaseException:
            hasher.shutdown(wait=False, cancel_futures=True)
            raise


def _in_order_of_use(plan: Plan) -> list[Path]:
    """Return the files that a plan reads, those first that its first pass needs first.

    So digests and merge read the same at about the same time, which the system reads once from the disk.
    """
    sources = (plan.base, *plan.models.values())
    files = dict.fromkeys(file for source in sources for file in source.files)
    names = plan.merged if plan.passes == 1 else sorted(plan.merged)
    used = dict.fromkeys(source.headers[name].file for name in names for source in sources)
    return list(dict.fromkeys([*(file for file in used if file in files), *files]))


def write_merge(
    plan: Plan,
    out: str | Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    output: Output | None = None,
) -> Written:
    """Carry out a merge: what its output writes, and around it what every merge leaves; one complete folder.

    Of weights in shards, a merge that was killed (not interrupted) goes on at its last finished shard, to the
    same bits, where inputs, settings and versions are the same.

    Args:
        plan: from `check`.
        out: the folder; it appears when it is complete.
        overwrite: replace a folder that is there.
        progress: called with the bytes read.
        output: that writes; default: the plan's.

    Returns:
        What the output says of what it has written.

    Raises:
        UserError: an input is not finite, the result does not fit its dtype, or `out` is not empty.
    """
    output = output or plan.output
    resumes, own = output is plan.output and can_resume(plan), ""
    if resumes:
        own = mark(plan)
    goes_on = (lambda left: FinishedShards(left).owner == own) if resumes else None
    plan, mapped = plan.mapped()
    with staged(out, overwrite, goes_on) as folder, digests(plan, mapped) as known:
        shards = FinishedShards(folder)
        kept = len(shards.names)
        if shards.owner is not None:
            shards.clear_the_rest()
        elif resumes:
            shards.begin(own)
        written = output.write(plan, folder, progress)
        _write_record(plan, folder, known(), output, written)
        shards.forget()
    if kept:
        written = dataclasses.replace(
            written, summary=f"went on with {kept} shards of a merge that was killed"
        )
    return written


def _write_record(
    plan: Plan, folder: Path, digests: Mapping[Path, str], output: Output, written: Written
) -> None:
    """Write everything but the tensors into `folder`."""
    if output.is_model:
        copy_side_files(plan.base.folder, folder)
        state_dtype(folder, plan.layout)
    if plan.carried.heads:
        (folder / HEADS).mkdir()
    for task, file in plan.carried.heads.items():
        shutil.copyfile(file, folder / HEADS / f"{task}.safetensors")
    write_manifest(folder, manifest(plan, digests) | dict(written.manifest))
    write_card(
        folder,
        f"{' + '.join(plan.models)}, merged by {plan.config.method}",
        _body(plan) + written.card,
        base_model=_hub_ids(plan),
        relation="merge",
        tags=["merge", "saft", plan.config.method],
        library_name=written.library,
    )


def manifest(plan: Plan, digests: Mapping[Path, str]) -> dict[str, Any]:
    """Return what saft.json says of a merge: inputs, method, parameters, versions."""

    def described(source: Source) -> dict[str, Any]:
        alike = Counter(file.name for file in source.files)  # two adapters have files of the same names
        return {
            "location": source.location,
            "blake3": {
                file.name if alike[file.name] == 1 else str(file): digests[file] for file in source.files
            },
        }

    return {
        "kind": "merge",
        "base": described(plan.base),
        "models": [{"task": task} | described(source) for task, source in plan.models.items()],
        "method": plan.config.method,
        "parameters": plan.parameters,
        "scaling": plan.scaling,
        **({} if plan.config.lines is None else {"lines": dataclasses.asdict(plan.config.lines)}),
        "dtype": plan.config.dtype,
        "exclude": list(plan.config.exclude),
        "seed": plan.config.seed,
        **({"data": dict(plan.collected.data)} if plan.collected.data else {}),
        "vocabulary": plan.config.vocabulary,
        "arithmetic": plan.config.arithmetic,
        "device": plan.config.device,
        "formula": formula(plan),
        "tensors": {
            "merged": len(plan.merged),
            "copied from the base": list(plan.copied),
            "tied, written once": dict(plan.base.tied),
        },
        **({"stages": _stages(plan)} if plan.earlier else {}),
        "tasks": {**plan.carried.tasks, **plan.config.data.tasks},  # so that `saft evaluate` needs no config
        "versions": {
            "python": platform.python_version(),
            "saft": saft.__version__,
            "torch": torch.__version__,
        },
    }


def _stages(plan: Plan) -> list[dict[str, Any]]:
    """Return what the saft.json of each earlier merge says, since their folders are not kept."""
    return [
        {"name": earlier.name}
        | {key: value for key, value in read_manifest(earlier.folder).items() if key != "stages"}
        for earlier in plan.earlier
    ]


def formula(plan: Plan) -> str:
    """Return what was applied, in words and numbers."""
    words = plan.method.describe()
    if plan.by_tensor:
        words += f", as at '{plan.merged[0]}'; from tensor to tensor differ {', '.join(plan.config.varying)}"
    if plan.config.lines is not None:
        words += f"; {plan.config.lines.describe()}"
    return f"base + {plan.scaling:g} × ({words}), K = {len(plan.models)} tasks"


def describe(plan: Plan, notes: Iterable[str] = ()) -> str:
    """Return what will be read, merged, copied and written, for people, with notes on it."""
    parameters = "".join(f", {name} {shown(value)}" for name, value in plan.parameters.items())
    models = "".join(f"\n  {task}: {source.location}" for task, source in plan.models.items())
    copied = f", {len(plan.copied)} copied from the base ({abbreviated(plan.copied)})" if plan.copied else ""
    copied += f", {len(plan.base.tied)} tied ({abbreviated(plan.base.tied)})" if plan.base.tied else ""
    passes = "one pass" if plan.passes == 1 else f"each of {plan.passes} passes"
    return (
        f"{plan.config.method}{parameters}, scaling {plan.scaling:g}\n"
        f"  base: {plan.base.location}{models}\n"
        f"{len(plan.merged)} tensors merged{copied}\n"
        f"reads {size_in_words(plan.bytes_per_pass)} in {passes}, writes {size_in_words(plan.bytes_out)}, "
        f"needs at most about {plan.memory / 2**20:.0f} MiB of memory"
        + "".join(f"\nnote: {note}" for note in notes)
    )


def _body(plan: Plan) -> str:
    rows = "\n".join(f"| {task} | `{source.location}` |" for task, source in plan.models.items())
    values = ", ".join(f"{name} {shown(value)}" for name, value in plan.parameters.items()) or "none"
    return f"""\
Merged weights = {formula(plan)}.

In symbols: {plan.method.formula}, with λ = {plan.scaling:g}.
Parameters: {values}. Source of the method: {plan.method.source}.

Base: `{plan.base.location}`. Fine-tuned models, in the order of summation:

| task | model |
|---|---|
{rows}

{_stages_in_words(plan)}{_data(plan)}\
{len(plan.merged)} tensors were merged, {len(plan.copied)} copied from the base. `saft.json`
holds the BLAKE3 digest of every input, and the versions. Heads that belong to one task are in `heads/`,
unmerged.
"""


def _stages_in_words(plan: Plan) -> str:
    """Return the lines that say what the inputs are that are results of earlier merges."""
    if not plan.earlier:
        return ""
    lines = ["Results of earlier merges of the same file, which are not kept:\n"]
    for stage in _stages(plan):
        models = ", ".join(f"`{model['location']}`" for model in stage["models"])
        values = ", ".join(f"{name} {shown(value)}" for name, value in stage["parameters"].items()) or "none"
        lines.append(
            f"- `{stage['name']}` = {stage['formula']}. Method: {stage['method']}. Parameters: {values}. "
            f"Base: `{stage['base']['location']}`. Fine-tuned models: {models}."
        )
    return "\n".join(lines) + "\n\n"


def _data(plan: Plan) -> str:
    """Return the sentence that says which data were read."""
    data = plan.collected.data
    if not data:
        return ""
    counts = ", ".join(f"{count} of {task}" for task, count in data["examples"].items())
    return (
        f"Examples of the {data['split']} split were read, without their labels: {counts}. "
        "Test examples were not.\n\n"
    )


def _hub_ids(plan: Plan) -> list[str]:
    """Return the hub ids that the inputs are or come from; a local path is not one."""
    hub_ids: list[str] = []
    made = {earlier.name for earlier in plan.earlier}
    for source in (plan.base, *plan.models.values()):
        stated = (
            [source.location]
            if source.location not in made and is_hub_id(source.location)
            else read_card(source.folder).get("base_model", [])
        )
        several = stated if isinstance(stated, list) else [stated]
        hub_ids += [name for name in several if isinstance(name, str)]
    return list(dict.fromkeys(hub_ids))
