"""Slow oracles of the merges that read data, from the papers' equations."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

FLOAT = np.float64


def fisher_information(classifier, examples, weights):
    """Jᵀ (diag p − p pᵀ) J of the logits, its diagonal, averaged over the examples."""
    found = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    for jacobian, p in _jacobians(classifier, examples, weights):
        middle = p.diag() - p.outer(p)
        for total, rows in zip(found, jacobian, strict=True):
            total += torch.einsum("c...,cd,d...->...", rows, middle, rows) / len(examples)
    return found


def squared_batch_gradient(classifier, examples, weights, batches):
    """The square of Σ over a batch of Jᵀ ∂/∂z Σ √p log p with √p constant, over the number of examples."""
    found = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    per_example = []
    for jacobian, p in _jacobians(classifier, examples, weights):
        slope = p.sqrt() - p * p.sqrt().sum()
        per_example.append([torch.einsum("c,c...->...", slope, rows) for rows in jacobian])
    for batch in batches:
        for at, total in enumerate(found):
            total += sum(per_example[index][at] for index in batch).square() / len(examples)
    return found


def _jacobians(classifier, examples, weights):
    for index in range(len(examples)):
        (logits,) = classifier(examples.collate([index]).inputs)
        rows = [torch.autograd.grad(z, weights, retain_graph=True, allow_unused=True) for z in logits]
        jacobian = [
            torch.stack([torch.zeros_like(w) if g is None else g for g in column]).double()
            for w, column in zip(weights, zip(*rows, strict=True), strict=True)
        ]
        yield jacobian, functional.softmax(logits.detach().double(), dim=0)


def fisher_merge(models, information, weights, floor, normalize, mergelm):
    """One coordinate at a time, of whole models: models and information [n_tasks, n]."""
    models, information = models.astype(FLOAT), information.astype(FLOAT)
    factors = np.array(weights, FLOAT)
    if normalize:
        norms = np.array([np.sqrt((row**2).sum()) for row in information])
        if mergelm:
            inverse = 1 / (norms + floor)
            factors = factors * inverse / inverse.sum()
        else:
            factors = factors / np.where(norms > 0, norms, 1)
    merged = []
    for theta, f in zip(models.T, information.T, strict=True):
        shares = [
            factor * (x + floor if mergelm else max(x, floor)) for factor, x in zip(factors, f, strict=True)
        ]
        merged.append(sum(s * t for s, t in zip(shares, theta, strict=True)) / sum(shares))
    return np.array(merged)
