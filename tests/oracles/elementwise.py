"""Slow merges from the papers' equations, one coordinate at a time, for the methods that look at each by itself."""

from __future__ import annotations

import numpy as np

from tests.oracles import merging

FLOAT = np.float32


def linear(models, weights, normalize):
    """The weighted average of models, not of task vectors: [n]."""
    merged = sum(weight * model.astype(np.float64) for weight, model in zip(weights, models, strict=True))
    return merged / sum(weights) if normalize else merged


def magmax(task_vectors):
    """The later of two entries of the same magnitude counts."""
    return np.array([max(reversed(column), key=abs) for column in task_vectors.T], FLOAT)


def weighted_ties(task_vectors, density, weights):
    """What is kept, times the weights; the sum of what has the elected sign, over the weights of that."""
    kept = merging.trim(task_vectors, density) * np.array(weights, FLOAT)[:, None]
    merged = []
    elected = [merging.sign(column.sum()) for column in kept.T]
    majority = merging.sign(sum(elected))
    for column, gamma in zip(kept.T, elected, strict=True):
        gamma = gamma or majority
        agree = [t for t, value in enumerate(column) if (value > 0 if gamma > 0 else value < 0)]
        share = sum(weights[t] for t in agree)
        merged.append(sum(column[t] for t in agree) / (share or 1))
    return np.array(merged, FLOAT)
