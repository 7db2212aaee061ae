"""Penalties: what is added to the loss so that an expert leaves alone what the other tasks need."""

from saft.penalties.penalty import PENALTIES, BoundPenalty, Penalty, Setting, penalty
from saft.penalties.unlabelled import Unlabelled

__all__ = ["PENALTIES", "BoundPenalty", "Penalty", "Setting", "Unlabelled", "penalty"]
