"""Averages of the weights along one training, taken instead of its last weights."""

from saft.trajectory.averaging import AVERAGINGS, Averaging, RunningAverage, averaging

__all__ = ["AVERAGINGS", "Averaging", "RunningAverage", "averaging"]
