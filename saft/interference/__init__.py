"""Pure measures of interference: of the weights, of the loss around them, of the scores that are kept."""

from __future__ import annotations

from saft.interference.cosine import cosine
from saft.interference.norm import norm
from saft.interference.quantity import MEASURES, Measure, Quantity
from saft.interference.retained import gain_kept, normalized
from saft.interference.sharpness import (
    AverageSharpness,
    WorstCaseSharpness,
    average_sharpness,
    worst_case_sharpness,
)
from saft.interference.sign_conflict import sign_conflict
from saft.interference.weights import InterferenceAccumulator, InterferenceResult, WeightMeasure

__all__ = [
    "AverageSharpness",
    "InterferenceAccumulator",
    "InterferenceResult",
    "MEASURES",
    "Measure",
    "Quantity",
    "WeightMeasure",
    "WorstCaseSharpness",
    "average_sharpness",
    "cosine",
    "gain_kept",
    "norm",
    "normalized",
    "sign_conflict",
    "worst_case_sharpness",
]
