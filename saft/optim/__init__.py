"""Sharpness-aware optimization: perturbations, the ascent that applies and undoes them, the optimizer."""

from saft.optim.ascent import Ascent
from saft.optim.perturbations.asam import ASAM
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation, perturbation
from saft.optim.perturbations.friendly_sam import FriendlySAM
from saft.optim.perturbations.gsam import GSAM
from saft.optim.perturbations.looksam import LookSAM
from saft.optim.perturbations.momentum_sam import MomentumSAM
from saft.optim.perturbations.norm_only import NormOnly
from saft.optim.perturbations.sam import PlainSAM
from saft.optim.perturbations.sampled_shift import SampledShift
from saft.optim.replay import is_replay
from saft.optim.sam import SAM

__all__ = [
    "SAM",
    "Ascent",
    "is_replay",
    "PERTURBATIONS",
    "Perturbation",
    "perturbation",
    "ASAM",
    "FriendlySAM",
    "GSAM",
    "LookSAM",
    "MomentumSAM",
    "NormOnly",
    "PlainSAM",
    "SampledShift",
]
