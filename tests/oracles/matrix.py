"""Slow merges of whole tensors, straight from the papers' equations, in float64."""

from __future__ import annotations

import itertools

import numpy as np

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
