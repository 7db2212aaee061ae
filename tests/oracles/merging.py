"""Slow merges from the papers' equations: whole vectors in memory, one coordinate at a time where that is clearer."""

from __future__ import annotations

import math

import numpy as np

FLOAT = np.float32


def average(task_vectors):
    return in_order(task_vectors) / FLOAT(len(task_vectors))


def task_arithmetic(task_vectors):
    return in_order(task_vectors)


def in_order(rows):
    result = np.zeros(rows.shape[1], rows.dtype)
    for row in rows:
        result = result + row
    return result


def trim(task_vectors, density):
    """Keep what is at least as large as the k-th smallest magnitude, k = N - int(N * density) counted from 1."""
    count = task_vectors.shape[1]
    k = count - int(count * density)
    if k == 0:
        return task_vectors
    kept = []
    for row in task_vectors:
        threshold = sorted(abs(row))[k - 1]
        kept.append([value if abs(value) >= threshold else FLOAT(0) for value in row])
    return np.array(kept, FLOAT)


def sign(value):
    return 1 if value > 0 else -1 if value < 0 else 0


def ties(task_vectors, density, combine="mean", elect="mass"):
    trimmed = trim(task_vectors, density)
    columns = trimmed.T
    elected = [sign(vote) for vote in votes(trimmed, elect)]
    majority = sign(sum(elected))
    merged = []
    for column, gamma in zip(columns, elected, strict=True):
        gamma = gamma or majority
        agreeing = [value for value in column if (value > 0 if gamma > 0 else value < 0)]
        if not agreeing:
            merged.append(FLOAT(0))
        elif combine == "max":
            merged.append(FLOAT(gamma * max(abs(value) for value in agreeing)))
        else:
            total = in_order(np.array(agreeing, FLOAT).reshape(-1, 1))[0]
            merged.append(total if combine == "sum" else total / FLOAT(len(agreeing)))
    return np.array(merged, FLOAT)


def votes(trimmed, elect):
    if elect == "mass":
        return in_order(trimmed)
    norms = np.sqrt((trimmed.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    shares = np.sign(trimmed) * np.divide(trimmed, norms, out=np.zeros_like(trimmed), where=norms > 0) ** 2
    if elect == "normmass":
        return in_order(shares)
    return [column[np.argmax(abs(column))] for column in shares.T]


# PCB, in float64


def clamp(row, low, high):
    """Clip to the values at two positions of the sorted row, as the authors count them."""
    ordered = np.sort(row)
    count = len(row)
    return np.clip(row, ordered[int(count * low)], ordered[int(count * (1 - high) - 1)])


def norm(row):
    span = row.max() - row.min()
    return (row - row.min()) / span if span > 0 else np.zeros_like(row)


def pcb(task_vectors, density, variant):
    tau = task_vectors.astype(np.float64)
    tasks, count = tau.shape
    clipped = 0.0001 if variant == "root" else 0.01
    magnitude = np.stack([clamp(abs(row), clipped, clipped) for row in tau])
    normal = np.stack([norm(row) for row in magnitude])
    signed = np.sign(tau) * normal
    weights = []
    for task in range(tasks):
        if variant in ("root", "nlp"):
            inter = np.tanh(tau[task] * tau.sum(axis=0))
        elif variant == "vision":
            inter = np.tanh(tau[task] * signed.sum(axis=0))
        else:
            inter = sum(np.tanh(signed[task] * signed[other]) for other in range(tasks))
        scores = np.exp(tasks * normal[task] ** 2) * inter
        threshold = np.sort(scores)[min(int(count * (1 - density)), count - 1)]
        if threshold == scores.max():  # the authors' norm has no range here
            weights.append(((scores == threshold) & (threshold > 0)).astype(np.float64))
        else:
            weights.append(norm(np.maximum(scores, threshold)))
    return weighted_mean(np.sign(tau) * magnitude, np.stack(weights))


def pcb_paper(task_vectors, density):
    """The formula of the paper: softmax over all coordinates, masked below the quantile, normalized."""
    tau = task_vectors.astype(np.float64)
    tasks, count = tau.shape

    def softmax(row):
        exponentials = np.exp(row - row.max())
        return exponentials / math.fsum(exponentials)

    weights = []
    for task in range(tasks):
        intra = softmax(tasks * norm(tau[task] ** 2))
        inter = sum(softmax(norm(tau[task] * tau[other])) for other in range(tasks))
        scores = intra * inter
        threshold = np.sort(scores)[min(int(count * (1 - density)), count - 1)]
        weights.append(norm(np.where(scores >= threshold, scores, 0)))
    return weighted_mean(tau, np.stack(weights))


def weighted_mean(rows, weights):
    return (rows * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-12)
