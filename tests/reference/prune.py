# SPDX-License-Identifier: Apache-2.0
"""Masks by sorting, one element at a time where that is clearest."""

from __future__ import annotations

import math

import numpy as np


def zero_count(n: int, sparsity: float) -> int:
    return round(float(n) * sparsity)  # Python rounds half to even


def keep_highest(ranking: np.ndarray, zeros: int) -> np.ndarray:
    """Prunes `zeros` of a vector, the lowest first, of equal ones the last first."""
    order = np.lexsort((-np.arange(ranking.size), ranking))
    mask = np.ones(ranking.size, bool)
    mask[order[:zeros]] = False
    return mask


def ranking_of(values: np.ndarray, nonfinite: str, magnitude: bool) -> np.ndarray:
    """Values as numbers that sort in the order of pruning; float64 holds them all exactly."""
    ranking = np.asarray(values).astype(np.float64).reshape(-1)
    ranking = np.abs(ranking) if magnitude else ranking + 0.0
    nan = np.isnan(ranking)
    # Infinities are ordinary, so NaN needs places beyond them.
    finite = np.unique(ranking[~nan])
    ranks = np.searchsorted(finite, ranking).astype(np.float64)
    ranks[nan] = {"prune_first": -1.0, "keep": finite.size + 1.0, "error": math.nan}[nonfinite]
    return ranks


def magnitude_mask(weights, sparsity, scores=None, nonfinite="keep", compat=None):
    ranking = ranking_of(weights if scores is None else scores, nonfinite, scores is None)
    n = ranking.size
    if compat == "tfmot":
        share = np.float32(1) - np.float32(sparsity)
        kept = int(max(np.rint(np.float32(n) * share), 1))
        threshold = np.sort(ranking)[::-1][kept - 1]
        mask = ranking >= threshold
    else:
        mask = keep_highest(ranking, zero_count(n, sparsity))
    return mask.reshape(np.shape(weights))


def global_mask(weights, sparsity, scores=None):
    ranked = weights if scores is None else scores
    flat = np.concatenate([np.asarray(x).astype(np.float64).reshape(-1) for x in ranked])
    mask = magnitude_mask(flat, sparsity, None if scores is None else flat)
    ends = np.cumsum([np.size(x) for x in weights])[:-1]
    return [
        part.reshape(np.shape(x)) for part, x in zip(np.split(mask, ends), weights, strict=True)
    ]


def structured_mask(weights, sparsity, axis=0, ord=2.0):
    slices = np.moveaxis(np.asarray(weights).astype(np.float64), axis, 0)
    norms = []
    for piece in slices:
        magnitudes = np.abs(piece).reshape(-1)
        if math.isinf(ord):
            norms.append(magnitudes.max(initial=0.0))
        else:
            norms.append(math.fsum(magnitudes**ord))
    return keep_highest(np.array(norms), zero_count(len(norms), sparsity))


def block_mask(weights, sparsity, block, pooling="mean", scores=None):
    ranked = np.abs(np.asarray(weights).astype(np.float64)) if scores is None else scores
    shape = np.shape(weights)
    matrices = ranked.reshape(-1, *shape[-2:])
    places, pooled = [], []
    for number, matrix in enumerate(matrices):
        for row in range(0, shape[-2], block[0]):
            for col in range(0, shape[-1], block[1]):
                place = (number, slice(row, row + block[0]), slice(col, col + block[1]))
                places.append(place)
                part = matrix[place[1:]]
                pooled.append(part.max() if pooling == "max" else math.fsum(part.flat) / part.size)
    mask = np.ones(matrices.shape, bool)
    for place, kept in zip(
        places, keep_highest(np.array(pooled), zero_count(len(pooled), sparsity)), strict=True
    ):
        mask[place] = kept
    return mask.reshape(shape)


def nm_mask(weights, n, m, axis=-1, scores=None):
    ranked = np.abs(np.asarray(weights).astype(np.float64)) if scores is None else scores
    rows = np.moveaxis(ranked, axis, -1)
    mask = np.ones(rows.shape, bool)
    for index in np.ndindex(rows.shape[:-1]):
        for start in range(0, rows.shape[-1] - m + 1, m):
            group = rows[index][start : start + m]
            mask[index][start : start + m] = keep_highest(group, m - n)
    return np.moveaxis(mask, -1, axis)


def row_mask(weights, sparsity, axis=0, scores=None):
    ranked = np.abs(np.asarray(weights).astype(np.float64)) if scores is None else scores
    mask = np.ones(np.shape(weights), bool)
    for index in range(np.shape(weights)[axis]):
        place = (slice(None),) * (axis % np.ndim(weights)) + (index,)
        row = np.asarray(ranked)[place]
        mask[place] = keep_highest(row.reshape(-1), zero_count(row.size, sparsity)).reshape(
            row.shape
        )
    return mask


def bounded_global_mask(ranked, sparsity, minimum, maximum):
    """Prunes one by one the lowest that the bounds let go, of equal ones the last."""
    flat = [np.asarray(x).astype(np.float64).reshape(-1) for x in ranked]
    least = [zero_count(x.size, share) for x, share in zip(flat, minimum, strict=True)]
    greatest = [zero_count(x.size, share) for x, share in zip(flat, maximum, strict=True)]
    masks = [keep_highest(x, zeros) for x, zeros in zip(flat, least, strict=True)]
    zeros = zero_count(sum(x.size for x in flat), sparsity)
    while sum(int((~mask).sum()) for mask in masks) < zeros:
        candidates = [
            (x[i], -t, -i)
            for t, x in enumerate(flat)
            if (~masks[t]).sum() < greatest[t]
            for i in np.flatnonzero(masks[t])
        ]
        _, t, i = min(candidates)
        masks[-t][-i] = False
    return [mask.reshape(np.shape(x)) for mask, x in zip(masks, ranked, strict=True)]


def lamp_score(weights):
    flat = np.asarray(weights).astype(np.float64).reshape(-1)
    # From the largest down, of equal ones the first; the score divides by the running sum.
    order = sorted(range(flat.size), key=lambda i: (-abs(flat[i]), i))
    scores = np.zeros(flat.size)
    for place, i in enumerate(order):
        total = math.fsum(flat[j] ** 2 for j in order[: place + 1])
        scores[i] = flat[i] ** 2 / total if total else 0.0
    return scores.reshape(np.shape(weights))


def fpgm_score(weights, axis=0):
    slices = np.moveaxis(np.asarray(weights).astype(np.float64), axis, 0)
    return np.array(
        [math.fsum(np.linalg.norm((a - b).reshape(-1)) for b in slices) for a in slices]
    )


def regrow(mask, weights, grad, fraction):
    kept = np.asarray(mask).reshape(-1).copy()
    magnitudes = np.abs(np.asarray(weights).astype(np.float64)).reshape(-1)
    wanted = np.abs(np.asarray(grad).astype(np.float64)).reshape(-1)
    count = zero_count(int(kept.sum()), fraction)
    drop = sorted(np.flatnonzero(kept), key=lambda i: (magnitudes[i], -i))[:count]
    kept[drop] = False
    grow = sorted(np.flatnonzero(~kept), key=lambda i: (-wanted[i], i))[:count]
    kept[grow] = True
    return kept.reshape(np.shape(mask))


def sparsegpt(
    weights, hessian, sparsity=None, n=None, m=None, mask=None, block_size=128, damping=0
):
    """Column by column with the inverse of what is left of the Hessian, taken anew each time."""
    w = np.asarray(weights).astype(np.float64).copy()
    h = np.asarray(hessian).astype(np.float64).copy()
    rows, cols = w.shape
    dead = np.diag(h) == 0
    h[np.diag_indices(cols)] += damping * np.diag(h).mean()
    h[dead, :] = h[:, dead] = 0
    h[dead, dead] = 1
    kept = np.ones((rows, cols), bool) if mask is None else np.asarray(mask).copy()
    left = [np.linalg.inv(h[q:, q:])[0] for q in range(cols)]

    def scores(first, last):
        result = w[:, first:last] ** 2 / np.array([left[q][0] for q in range(first, last)])
        result[:, dead[first:last]] = -1
        return result

    step = block_size if m is None else max(m, block_size // m * m)
    for first in range(0, cols, step):
        last = min(cols, first + step)
        if sparsity is not None:
            zeros = zero_count(rows * last, sparsity) - zero_count(rows * first, sparsity)
            ranked = scores(first, last)
            kept[:, first:last] = keep_highest(ranked.reshape(-1), zeros).reshape(ranked.shape)
        for q in range(first, last):
            if m is not None and (q - first) % m == 0 and q + m <= cols:
                for row, ranked in enumerate(scores(q, q + m)):
                    kept[row, q : q + m] = keep_highest(ranked, m - n)
            for row in np.flatnonzero(~kept[:, q]):
                w[row, q:] -= w[row, q] / left[q][0] * left[q]
                w[row, q] = 0
    return w, kept
