"""Pure measures of interference: of weights (norm, cosine, signs), of the loss (sharpness), of accuracy."""

from __future__ import annotations

from saft.interference.accuracy import MergedAccuracy, merged_accuracy
from saft.interference.sharpness import (
    AverageSharpness,
    WorstCaseSharpness,
    average_sharpness,
    worst_case_sharpness,
)
from saft.interference.weights import MEASURES, WeightInterference, WeightMeasure, WeightMeasurement

__all__ = [
    "MEASURES",
    "WeightMeasure",
    "WeightMeasurement",
    "WeightInterference",
    "WorstCaseSharpness",
    "worst_case_sharpness",
    "AverageSharpness",
    "average_sharpness",
    "MergedAccuracy",
    "merged_accuracy",
]
