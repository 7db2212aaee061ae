"""Sharpness-aware optimization: perturbations, the ascent that applies and undoes them, the optimizer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from saft.optim.ascent import Ascent
from saft.optim.ascent_options import AscentOptions
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation, make_perturbation
from saft.optim.replay_flag import is_replay
from saft.optim.sam import SAM

if TYPE_CHECKING:
    from saft.optim.perturbations.asam import ASAM
    from saft.optim.perturbations.friendly_sam import FriendlySAM
    from saft.optim.perturbations.gsam import GSAM
    from saft.optim.perturbations.looksam import LookSAM
    from saft.optim.perturbations.momentum_sam import MomentumSAM
    from saft.optim.perturbations.norm_only import NormOnly
    from saft.optim.perturbations.sam import PlainSAM
    from saft.optim.perturbations.sampled_shift import SampledShift
    from saft.optim.perturbations.smat import SMAT
    from saft.optim.perturbations.task_vectors import TaskVectors

__all__ = [
    "SAM",
    "Ascent",
    "AscentOptions",
    "is_replay",
    "PERTURBATIONS",
    "Perturbation",
    "make_perturbation",
    "ASAM",
    "FriendlySAM",
    "GSAM",
    "LookSAM",
    "MomentumSAM",
    "NormOnly",
    "PlainSAM",
    "SMAT",
    "SampledShift",
    "TaskVectors",
]

# Imported when first asked for: a perturbation's file imports this package, which must not import it back.
_FILES = {
    "ASAM": "asam",
    "FriendlySAM": "friendly_sam",
    "GSAM": "gsam",
    "LookSAM": "looksam",
    "MomentumSAM": "momentum_sam",
    "NormOnly": "norm_only",
    "PlainSAM": "sam",
    "SMAT": "smat",
    "SampledShift": "sampled_shift",
    "TaskVectors": "task_vectors",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"saft.optim.perturbations.{_FILES[name]}"), name)
