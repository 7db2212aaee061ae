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


def consensus(base, task_vectors, vector, thresholds, at_least):
    """The entries of a merged vector that help enough tasks, by the authors' form: in weights, strictly greater."""
    merged = []
    for theta0, column, tau in zip(base, task_vectors.T, vector, strict=True):
        models = [FLOAT(theta0 + entry) for entry in column]
        helped = [
            abs(entry) > FLOAT(threshold) * abs(FLOAT(theta0 + tau) - model)
            for entry, model, threshold in zip(column, models, thresholds, strict=True)
        ]
        merged.append(tau if sum(helped) >= at_least else FLOAT(0))
    return np.array(merged, FLOAT)


def drop(task_vectors, uniform, density, rescale):
    """DARE's first step, with the random numbers given."""
    kept = np.where(uniform < FLOAT(density), task_vectors, FLOAT(0)).astype(np.float64)
    if rescale == "probability":
        return kept / density
    if rescale == "norm":
        before, after = abs(task_vectors.astype(np.float64)).sum(axis=1), abs(kept).sum(axis=1)
        return kept * np.divide(before, after, out=np.ones_like(before), where=after > 0)[:, None]
    return kept


def breadcrumbs(row, density, outliers):
    """Sort the magnitudes of a row, drop the top, keep the next."""
    length = len(row)
    kept = max(int(length * density), 1)
    top = min(int(length * outliers), length - kept)
    inside = np.argsort(abs(row), kind="stable")[length - top - kept : length - top]
    masked = np.zeros_like(row)
    masked[inside] = row[inside]
    return masked


def della_probabilities(row, density, epsilon):
    """How probable it is that each entry of a row is kept."""
    length = len(row)
    if length == 1:
        return np.array([density])
    epsilon = min(epsilon, density, 1 - density)
    probabilities = np.zeros(length)
    for rank, place in enumerate(np.argsort(abs(row), kind="stable")):
        probabilities[place] = density - epsilon + 2 * epsilon * rank / (length - 1)
    return probabilities
