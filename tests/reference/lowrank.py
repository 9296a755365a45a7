# SPDX-License-Identifier: Apache-2.0
"""Low-rank approximation in plain NumPy, by full decompositions and exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np


def optimal_error(w, rank):
    """The least Frobenius error of any matrix of this rank (Eckart and Young)."""
    s = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    return float(np.sqrt(np.sum(s[rank:] ** 2)))


def optimal_output_error(w, x, rank):
    """The least error of x @ w.T over all replacements of w that have this rank.

    The best approximation of the output itself, w x.T, has columns in the span of its leading
    left singular vectors, and projecting w on them gives such a replacement: nothing is better.
    """
    return optimal_error(np.asarray(w, np.float64) @ np.asarray(x, np.float64).T, rank)


def unfold_spatial(w):
    """[out, in, kh, kw] as [in kh, out kw]."""
    out, inputs, kh, kw = w.shape
    return np.transpose(w, (1, 2, 0, 3)).reshape(inputs * kh, out * kw)


def convolution(x, w):
    """x [in, h, w] correlated with w [out, in, kh, kw], without padding, by the definition."""
    out, _, kh, kw = w.shape
    height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    y = np.zeros((out, height, width))
    for row, column in itertools.product(range(height), range(width)):
        patch = x[:, row : row + kh, column : column + kw]
        y[:, row, column] = np.tensordot(w, patch, axes=3)
    return y


def hosvd_energy(w):
    """energy[a, b]: what projecting on a and b leading directions of the channel axes keeps."""
    w = np.asarray(w, np.float64)
    out, inputs = w.shape[:2]
    left = np.linalg.svd(w.reshape(out, -1))[0]
    right = np.linalg.svd(np.moveaxis(w, 1, 0).reshape(inputs, -1))[0]
    core = np.einsum("oikl,oa,ib->abkl", w, left, right)
    return np.cumsum(np.cumsum((core**2).sum((2, 3)), 0), 1)


def tucker_parameters(shape, r_out, r_in):
    out, inputs, kh, kw = shape
    return out * r_out + r_out * r_in * kh * kw + inputs * r_in


def svd_options(w):
    """(parameters, share of the squared norm lost) of each rank."""
    s = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    return [(r * sum(w.shape), np.sum(s[r:] ** 2) / np.sum(s**2)) for r in range(1, len(s) + 1)]


def best_choice(choices, sizes, most):
    """The least sum of losses of all combinations of at most so many parameters."""
    tables = [[*table, (size, 0.0)] for table, size in zip(choices, sizes, strict=True)]
    combinations = itertools.product(*tables)
    return min(
        sum(loss for _, loss in each) for each in combinations if sum(p for p, _ in each) <= most
    )


def allocation(singular_values, shapes, choice):
    """(parameters, error) of one choice of ranks; None keeps a matrix."""
    cost, loss = 0, 0.0
    for s, (m, n), rank in zip(singular_values, shapes, choice, strict=True):
        cost += m * n if rank is None else rank * (m + n)
        loss += 0.0 if rank is None else np.sum(s[rank:] ** 2) / np.sum(s**2)
    return cost, np.sqrt(loss / len(shapes))


def all_allocations(singular_values, shapes):
    """Every choice of useful ranks with its parameters and error."""
    options = [[*range(1, (m * n - 1) // (m + n) + 1), None] for m, n in shapes]
    for choice in itertools.product(*options):
        yield choice, *allocation(singular_values, shapes, choice)
