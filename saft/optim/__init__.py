"""Sharpness-aware optimization: perturbations, the ascent that applies and undoes them, the optimizer."""

from saft.optim.ascent import Ascent
from saft.optim.perturbations.asam import ASAM
from saft.optim.perturbations.base import PERTURBATIONS, Perturbation, perturbation
from saft.optim.replay import is_replay
from saft.optim.sam import SAM

__all__ = ["ASAM", "Ascent", "PERTURBATIONS", "Perturbation", "SAM", "is_replay", "perturbation"]
