"""A merge that was killed goes on at its last finished shard: whether what it has left is of this merge."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch

import saft
from saft.files.fingerprints import quick_fingerprint
from saft.files.finished_shards import FinishedShards
from saft.files.temporary_names import left_behind
from saft.files.weights_writer import shard_layouts
from saft.merging.outputs.whole_model import Weights
from saft.merging.plan import Plan

__all__ = ["can_resume", "is_repeatable", "mark", "shards_left"]


def can_resume(plan: Plan) -> bool:
    """Return whether a killed merge of this plan leaves something to go on with: weights in shards.

    A merge into one file has nothing that is finished before its end; one that reads examples would have to
    read them again; the code of a method or an output from outside may have changed.

    Args:
        plan: from `check`.
    """
    return plan.shard_size is not None and is_repeatable(plan)


def is_repeatable(plan: Plan) -> bool:
    """Return whether a merge of this plan gives weights that its mark tells all of.

    Args:
        plan: from `check`.
    """
    ours = ":" not in plan.config.method and type(plan.output) is Weights
    return ours and not plan.reads_examples


def mark(plan: Plan) -> str:
    """Return what tells a merge from any other: a digest of all that its bits depend on.

    Args:
        plan: from `check`.
    """
    files = dict.fromkeys(file for source in (plan.base, *plan.models.values()) for file in source.files)
    # Of what an earlier merge has made, or will make, its own mark tells.
    made = {earlier.folder for earlier in plan.earlier}
    settings = {
        "config": {key: value for key, value in dataclasses.asdict(plan.config).items() if key != "upload"},
        "scaling": plan.scaling,
        "merged": plan.merged,
        "layout": {name: (str(dtype), shape) for name, (dtype, shape) in plan.layout.items()},
        "files": {str(file): quick_fingerprint(file) for file in files if not made & {*file.parents}},
        "earlier": {earlier.name: earlier.mark for earlier in plan.earlier},
        "versions": [saft.__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def shards_left(plan: Plan, out: Path) -> tuple[int, int]:
    """Return how many shards a killed merge of this plan has left for a target, and how many there will be.

    Args:
        plan: from `check`.
        out: the target.
    """
    if not can_resume(plan):
        return 0, 0
    own, there_will_be = mark(plan), len(shard_layouts(plan.layout, plan.shard_size))
    left = [FinishedShards(folder) for folder in left_behind(out)]
    return next((len(shards.names) for shards in left if shards.owner == own), 0), there_will_be
