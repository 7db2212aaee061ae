"""Slow forms of the methods that keep a part per task, from the papers' equations, one coordinate at a time."""

from __future__ import annotations

import math

import numpy as np

FLOAT = np.float32


def sums(task_vectors):
    result = np.zeros(task_vectors[0].shape, FLOAT)
    for row in task_vectors:
        result = result + row
    return result


def emr(tensors, variant):
    """EMR of tensors, each float32 [n_tasks, n]: the task vectors of every tensor, and the rescalers."""
    tasks = len(tensors[0])
    elected, masks = [], []
    for rows in tensors:
        vector, taken = [], []
        for column, total in zip(rows.T, sums(rows), strict=True):
            gamma = 1 if total > 0 else -1
            own = [value for value in column if value * gamma > 0]
            vector.append(gamma * max(map(abs, own), default=FLOAT(0)))
            taken.append([value * gamma > 0 for value in column])
        elected.append(np.array(vector, FLOAT))
        masks.append(np.array(taken, bool).reshape(rows.shape[1], tasks).T)
    rescalers = []
    for task in range(tasks):
        over = under = 0.0
        for rows, vector, mask in zip(tensors, elected, masks, strict=True):
            weight = 1 / rows.shape[1] if variant == "code" else 1
            over += weight * math.fsum(map(abs, rows[task].tolist()))
            under += weight * math.fsum(map(abs, vector[mask[task]].tolist()))
        rescalers.append(over / under if under else 1.0)
    found = [
        np.stack([np.where(mask[task], rescalers[task] * vector, 0) for task in range(tasks)]).astype(FLOAT)
        for vector, mask in zip(elected, masks, strict=True)
    ]
    return found, rescalers


def tall_masks(task_vectors, thresholds):
    """TALL masks of float32 [n_tasks, n], with a threshold for each task."""
    whole = sums(task_vectors)
    rows = []
    for row, threshold in zip(task_vectors, thresholds, strict=True):
        kept = [
            total if abs(own) > FLOAT(threshold) * abs(total - own) else FLOAT(0)
            for own, total in zip(row, whole, strict=True)
        ]
        rows.append(kept)
    return np.array(rows, FLOAT)


def smile_experts(task_vector, rank):
    """Return the best approximation of a matrix by one of this rank, float64."""
    left, values, right = np.linalg.svd(task_vector.astype(np.float64))
    kept = min(rank, len(values))
    return (left[:, :kept] * values[:kept]) @ right[:kept]


def smile(x, weight, bias, task_weights, task_biases, rank, gate_rank, top_k, scaling=1.0):
    """The output of one layer for one token x, in float64: y = W0 x + b0 + λ Σₜ wₜ (Eₜ x + bₜ - b0)."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    experts, logits = [], []
    for index, tuned in enumerate(task_weights):
        change = tuned.astype(np.float64) - weight
        expert = smile_experts(change, rank) @ x
        if bias is not None:
            expert = expert + task_biases[index] - bias
        experts.append(expert)
        _, values, right = np.linalg.svd(change)
        significant = values > values[0] * max(change.shape) * np.finfo(np.float32).eps
        rows = right[: len(values)][significant][:gate_rank]
        logits.append(math.sqrt(math.fsum((rows @ x) ** 2)))
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    chosen = sorted(range(len(logits)), key=lambda task: -logits[task])[:top_k]
    total = sum(exponentials[task] for task in chosen)
    y = weight @ x + (0 if bias is None else bias)
    return y + scaling * sum(exponentials[task] / total * experts[task] for task in chosen)
