"""Slow merges of LoRA adapters, straight from the papers' equations, in float64."""

from __future__ import annotations

import numpy as np


def pruned(matrix, density):
    """Zero what is smaller than the k-th smallest magnitude, k = (1 - density) of the entries, rounded down."""
    k = int(matrix.size * (1 - density))
    threshold = sorted(abs(entry) for entry in matrix.flat)[k - 1] if k else 0.0
    return np.array([[entry if abs(entry) >= threshold else 0.0 for entry in row] for row in matrix])


def scales(down, density, distinct):
    """What the pruning took from each row of A, the small ones raised to the quantile."""
    left = pruned(down, density)
    found = []
    for row, kept in zip(down, left, strict=True):
        found.append(np.abs(row).sum() / np.abs(kept).sum() if kept.any() else 0.0)
    least = sorted(found)[int(len(found) * (1 - distinct))]
    return [max(scale, least) for scale in found]


def robust_merge(downs, ups, density=0.2, distinct=0.2, coefficient=2.0):
    """A and B of the tasks' A [rank, inputs] and B [outputs, rank]."""
    merged_down = sum(coefficient * pruned(down, density) for down in downs)
    weights = [scales(down, density, distinct) for down in downs]
    merged_up = np.zeros_like(ups[0])
    for direction in range(len(downs[0])):
        shared = sum(weight[direction] for weight in weights)
        for weight, up in zip(weights, ups, strict=True):
            if shared:
                column = coefficient * weight[direction] * pruned(up, density)[:, direction]
                merged_up[:, direction] += column / shared
    return merged_down, merged_up
