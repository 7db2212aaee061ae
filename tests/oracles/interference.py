"""Slow, plain-Python forms of the measures, written from their definitions, one coordinate at a time."""

from __future__ import annotations

import math

import torch


def norm(vectors):
    return {
        "norm": [math.sqrt(math.fsum(x * x for x in row)) for row in vectors],
    }


def norm_l1(vectors):
    return {"norm_l1": [math.fsum(abs(x) for x in row) for row in vectors]}


def cosine(vectors):
    lengths = norm(vectors)["norm"]

    def pair(s, t):
        if lengths[s] == 0 or lengths[t] == 0:
            return 0.0
        inner = math.fsum(a * b for a, b in zip(vectors[s], vectors[t], strict=True))
        return inner / (lengths[s] * lengths[t])

    return {"cosine": [[pair(s, t) for t in range(len(vectors))] for s in range(len(vectors))]}


def sign_conflict(vectors):
    shared = conflicts = 0
    by_chance, magnitude_of_sum, sum_of_magnitudes = [], [], []
    for column in zip(*vectors, strict=True):
        moved = [x for x in column if x != 0]
        magnitude_of_sum.append(abs(math.fsum(column)))
        sum_of_magnitudes.extend(abs(x) for x in column)
        if len(moved) >= 2:
            shared += 1
            conflicts += len({x > 0 for x in moved}) == 2
            by_chance.append(1 - 2.0 ** (1 - len(moved)))
    total = math.fsum(sum_of_magnitudes)
    return {
        "sign_conflict": conflicts / shared if shared else 0.0,
        "sign_conflict_by_chance": math.fsum(by_chance) / shared if shared else 0.0,
        "sign_conflict_weighted": 1 - math.fsum(magnitude_of_sum) / total if total else 0.0,
    }


def overlap(vectors):
    moved = [{i for i, x in enumerate(row) if x != 0} for row in vectors]

    def pair(s, t):
        fewer = min(len(moved[s]), len(moved[t]))
        return len(moved[s] & moved[t]) / fewer if fewer else 0.0

    return {"overlap": [[pair(s, t) for t in range(len(vectors))] for s in range(len(vectors))]}


def trimmed(vectors, thresholds):
    return [
        [x if abs(x) >= threshold else 0.0 for x in row]
        for row, threshold in zip(vectors, thresholds, strict=True)
    ]


def worst_of_many_directions(function, weights, rho, adaptive, n_directions=20_000, seed=0):
    """Return the largest increase of `function` over random points on the sphere of the metric."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(n_directions, weights.numel(), generator=generator, dtype=weights.dtype)
    directions = rho * directions / directions.norm(dim=1, keepdim=True)
    if adaptive:
        directions = directions * weights.abs()
    return max(float(function(weights + e)) for e in directions) - float(function(weights))


def dense_hessian(module, loss, batches, parameters=None):
    """Return the Hessian of the mean loss over all parameters, column by column: [n, n]."""
    moved = list(module.parameters() if parameters is None else parameters)
    mean = sum(loss(batch) for batch in batches) / len(batches)
    first = torch.cat([g.flatten() for g in torch.autograd.grad(mean, moved, create_graph=True)])
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(entry, moved, retain_graph=True)])
        for entry in first
    ]
    return torch.stack(rows)
