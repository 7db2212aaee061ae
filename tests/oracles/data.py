"""Slow oracles of the merges that read data, from the papers' equations."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from tests.oracles import merging

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


def gram(classifier, examples, weight_of, batches=None):
    """The mean of x xᵀ over the tokens of each example, one example at a time and so without padding.

    weight_of: name -> linear module; returns name -> [inputs, inputs]. batches: lists of places; each is padded
    to its longest example, and what is padding counts.
    """
    seen = {name: [] for name in weight_of}
    hooks = [
        module.register_forward_hook(
            lambda m, i, o, name=name: seen[name].append(i[0].double().flatten(0, -2))
        )
        for name, module in weight_of.items()
    ]
    with torch.no_grad():
        for batch in batches or [[index] for index in range(len(examples))]:
            classifier(examples.collate(batch).inputs)
    for hook in hooks:
        hook.remove()
    rows = {name: torch.cat(parts) for name, parts in seen.items() if parts}
    return {name: sum(x.outer(x) for x in found) / len(found) for name, found in rows.items()}


def regmean(models, products, off_diagonal):
    """The normal equations of whole models, [n_tasks, outputs, inputs], where they have a solution."""
    left, right = 0, 0
    for weight, product in zip(models.astype(FLOAT), products.astype(FLOAT), strict=True):
        scaled = product * off_diagonal
        np.fill_diagonal(scaled, product.diagonal())
        left, right = left + scaled, right + scaled @ weight.T
    return (np.linalg.inv(left) @ right).T


def ties_kept(vectors, density):
    """What TIES keeps of each task vector, over the whole model: {name: [n_tasks, *shape]}."""
    names = sorted(vectors)
    flat = torch.cat([vectors[name].flatten(1) for name in names], dim=1).numpy()
    trimmed = merging.trim(flat, density)
    signs = np.array([merging.sign(column.sum()) for column in trimmed.T])
    signs[signs == 0] = merging.sign(signs.sum())
    kept = torch.from_numpy(np.where(np.sign(trimmed) == signs, trimmed, 0))
    parts = kept.split([vectors[name][0].numel() for name in names], dim=1)
    return {name: part.view(vectors[name].shape) for name, part in zip(names, parts, strict=True)}
