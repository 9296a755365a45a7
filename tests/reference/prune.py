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
