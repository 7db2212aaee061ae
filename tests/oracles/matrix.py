"""Slow merges of whole tensors, straight from the papers' equations, in float64."""

from __future__ import annotations

import itertools

import numpy as np

from tests.oracles import merging

norm = np.linalg.norm


# On the sphere


def slerp(first, second, t):
    if min(norm(first), norm(second)) <= 1e-8:
        return (1 - t) * first + t * second
    cosine = (first * second).sum() / norm(first) / norm(second)
    if abs(cosine) > 0.9995:
        return (1 - t) * first + t * second
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)


def karcher_gradient(mean, units):
    """The sum of the logarithms of the units at the mean: zero at the Karcher mean."""
    logarithms = []
    for unit in units:
        cosine = np.clip((mean * unit).sum(), -1, 1)
        angle = np.arccos(cosine)
        logarithms.append((unit - cosine * mean) * (angle / np.sin(angle) if angle > 1e-12 else 1))
    return sum(logarithms) / len(units)


def karcher(weights, iterations):
    """The iteration on whole vectors; none of them zero."""
    units = [weight / norm(weight) for weight in weights]
    mean = sum(units) / norm(sum(units))
    for _ in range(iterations):
        tangent = karcher_gradient(mean, units)
        length = norm(tangent)
        if length > 0:
            mean = np.cos(length) * mean + np.sin(length) * tangent / length
    return mean * np.mean([norm(weight) for weight in weights])


def model_stock(task_vectors, mean_of):
    """The merged task vector; no task vector is zero."""
    tasks = len(task_vectors)
    cosines = [(a * b).sum() / norm(a) / norm(b) for a, b in itertools.combinations(task_vectors, 2)]
    cosine = np.mean(cosines) if mean_of == "cosines" else np.cos(np.mean(np.arccos(cosines)))
    share = tasks * cosine / (1 + (tasks - 1) * cosine)
    return share * np.mean(task_vectors, axis=0)


# On singular vectors: matrices of full rank


def svd(matrix):
    return np.linalg.svd(matrix, full_matrices=False)


def orthogonal(matrix):
    left, _, right = svd(matrix)
    return left @ right


def tsv_m(task_vectors):
    tasks, rows, columns = task_vectors.shape
    k = min(rows, columns) // tasks
    left, values, right = zip(*map(svd, task_vectors), strict=True)
    u = np.concatenate([x[:, :k] for x in left], axis=1)
    v = np.concatenate([x[:k] for x in right], axis=0)
    sigma = np.concatenate([x[:k] for x in values])
    return orthogonal(u) @ np.diag(sigma) @ orthogonal(v)


def iso_c(task_vectors):
    left, values, right = svd(task_vectors.sum(axis=0))
    return left @ np.diag(np.full(len(values), values.mean())) @ right


def iso_cts(task_vectors, fraction):
    tasks, rows, columns = task_vectors.shape
    size = min(rows, columns)
    each = round((size - int(size * fraction)) / tasks)
    common = size - each * tasks
    left, values, right = svd(task_vectors.sum(axis=0))
    u, sigma, v = [left[:, :common]], [values[:common]], [right[:common]]
    projection = np.eye(rows) - u[0] @ u[0].T
    for task_vector in task_vectors:
        left, values, right = svd(projection @ task_vector)
        u, sigma, v = [*u, left[:, :each]], [*sigma, values[:each]], [*v, right[:each]]
    mean = np.concatenate(sigma).mean()
    return mean * orthogonal(np.concatenate(u, axis=1)) @ orthogonal(np.concatenate(v, axis=0))


# By descent


def adam(start, gradient, steps, learning_rate):
    point, mean, square = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(point)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        rate = learning_rate / (1 - 0.9**step)
        point = point - rate * mean / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return point


def wudi_gradient(point, task_vectors):
    """Of the sum over the tasks of |(tau - tau_t) tau_t^T|^2 / |tau_t|^2, no task being zero."""
    return sum(2 * (point - tau) @ tau.T @ tau / norm(tau) ** 2 for tau in task_vectors)


def wudi(task_vectors, steps, learning_rate):
    return adam(
        task_vectors.sum(axis=0), lambda point: wudi_gradient(point, task_vectors), steps, learning_rate
    )


# DOGE


def doge_errors(change, task_vectors, scales):
    """<tau_t, tau_t - sum of lambda_j (tau_j + change)> of each task and row."""
    added = sum(scale * (tau + change) for scale, tau in zip(scales, task_vectors, strict=True))
    return [(tau * (tau - added)).sum(axis=1) for tau in task_vectors]


def doge_gradient(change, task_vectors, scales):
    errors = doge_errors(change, task_vectors, scales)
    return sum(-2 * sum(scales) * e[:, None] * tau for e, tau in zip(errors, task_vectors, strict=True))


def doge(model, density, length, subspace, steps, learning_rate):
    """The merged task vector of a model of matrices, [n_tasks, m, n] each, that are trimmed together."""
    flat = np.abs(np.concatenate([tau.reshape(len(tau), -1) for tau in model], axis=1))
    rank = flat.shape[1] - int(flat.shape[1] * density)
    thresholds = np.sort(flat, axis=1)[:, max(rank - 1, 0)]
    merged = []
    for task_vectors in model:
        tasks, rows, columns = task_vectors.shape
        size = min(rows, columns)
        scales = [length / norm(tau) for tau in task_vectors]
        leading = np.concatenate([svd(tau)[0][:, : size // tasks] for tau in task_vectors], axis=1)
        shared = svd(leading)[0][:, : size // subspace] if leading.size else leading
        project = np.eye(rows) - shared @ shared.T
        change = adam(
            np.zeros((rows, columns)),
            lambda x, project=project, tau=task_vectors, scales=scales: (
                project @ doge_gradient(x, tau, scales)
            ),
            steps,
            learning_rate,
        )
        parts = zip(scales, task_vectors, thresholds, strict=True)
        merged.append(sum(scale * (abs(tau) >= least) * (tau + change) for scale, tau, least in parts))
    return merged


# OPCM


def opcm(model, alpha):
    """The merged task vector of a model of tensors, [n_tasks, *shape] each: scaled at each step, as in the paper."""

    def model_norm(tensors):
        return np.sqrt(sum(norm(tensor) ** 2 for tensor in tensors))

    tasks = len(model[0])
    merged, scale = [tau[0] for tau in model], 1.0
    norms = [model_norm(merged)]
    for task in range(1, tasks):
        norms.append(model_norm([tau[task] for tau in model]))
        raw = []
        for before, tau in zip(merged, (tensor[task] for tensor in model), strict=True):
            rest = tau
            if tau.ndim == 2:
                left, values, right = np.linalg.svd(before)
                leading = int(np.argmax(np.cumsum(values) / values.sum() > alpha))
                inner = left.T @ tau @ right.T
                np.fill_diagonal(inner, 0)
                inner[:leading, :leading] = 0
                rest = left @ inner @ right
            raw.append(scale * before + rest)
        scale = model_norm(raw) / np.mean(norms)
        merged = [tensor / scale for tensor in raw]
    return merged


# Others


def multi_slerp(vectors, weights):
    """By way of the tangent space, as mergekit describes it; no vector and no mean is zero."""
    units = [vector / norm(vector) for vector in vectors]
    mean = sum(weight * unit for weight, unit in zip(weights, units, strict=True))
    mean = mean / norm(mean)
    tangents = [unit - (unit * mean).sum() * mean for unit in units]
    tangent = sum(weight * vector for weight, vector in zip(weights, tangents, strict=True))
    length = norm(tangent)
    point = np.cos(length) * mean + np.sinc(length / np.pi) * tangent
    return point * sum(weight * norm(vector) for weight, vector in zip(weights, vectors, strict=True))


def knots(model, density, combine):
    """The merged task vector of a model of matrices, [n_tasks, m, n] each, whose coordinates are trimmed together."""
    bases, coordinates = [], []
    for task_vectors in model:
        left, values, right = svd(np.concatenate(list(task_vectors), axis=1))
        kept = values > 1e-5
        bases.append(left[:, kept])
        coordinates.append(np.stack(np.split(values[kept, None] * right[kept], len(task_vectors), axis=1)))
    flat = np.concatenate([found.reshape(len(found), -1) for found in coordinates], axis=1)
    merged, start, result = merging.ties(flat.astype(np.float32), density, combine), 0, []
    for basis, found in zip(bases, coordinates, strict=True):
        part = merged[start : start + found[0].size]
        start += found[0].size
        result.append(basis @ part.reshape(found[0].shape))
    return result
