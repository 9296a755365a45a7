# SPDX-License-Identifier: Apache-2.0
"""Histograms and the ranges picked from them, written for reading: every candidate is tried."""

from __future__ import annotations

import math

import numpy as np

from . import quant as reference


def histogram(values, bins):
    """(counts, exponent, first bin) of float32 values on the grid k * 2^e."""
    x = np.asarray(values, np.float64).ravel()
    top = np.abs(x).max()
    exponent = -149 if top == 0 else max(math.frexp(top)[1] - 24, -149)
    while True:
        index = np.floor(np.ldexp(x, -exponent)).astype(np.int64)
        if index.max() - index.min() < bins:
            break
        exponent += 1
    counts = np.zeros(bins, np.int64)
    np.add.at(counts, index - index.min(), 1)
    return counts, exponent, int(index.min())


def edges_of(observer):
    """Counts of the bins in use, and their edges."""
    width = 2.0 ** int(observer.exponent[0])
    first = math.floor(observer.min[0] / width)
    last = math.floor(observer.max[0] / width)
    return observer.counts[0][: last - first + 1], np.arange(first, last + 2) * width


def step_error(a, b, scale, zero_point, qmin, qmax):
    """The mean squared error of values evenly spread over [a, b], by the pieces of the grid."""
    levels = (np.arange(qmin, qmax + 1) - zero_point) * float(np.float32(scale))
    borders = [-np.inf, *((levels[1:] + levels[:-1]) / 2), np.inf]
    if a == b:
        return float(np.min((levels - a) ** 2))
    total = 0.0
    for level, low, high in zip(levels, borders, borders[1:], strict=False):
        left, right = max(a, low), min(b, high)
        if left < right:
            total += ((right - level) ** 3 - (left - level) ** 3) / 3
    return total / (b - a)


def mean_error(counts, edges, low, high, grid):
    """Expected error of a histogram whose values lie in [low, high]."""
    edges = np.clip(edges, low, high)
    parts = [
        n * step_error(a, b, *grid) for n, a, b in zip(counts, edges, edges[1:], strict=False) if n
    ]
    return sum(parts) / counts.sum()


def divergence(counts, edges, low, high, grid):
    """KL(P || Q) of the bins in [low, high): what is outside goes to the end bins of P."""
    scale, zero_point, qmin, qmax = grid
    centers = (edges[1:] + edges[:-1]) / 2
    keep = (centers > low) & (centers < high)
    if not counts[keep].any():
        return np.inf
    p = counts[keep].astype(np.float64)
    inside = p.copy()
    p[0] += counts[centers < low].sum()
    p[-1] += counts[centers > high].sum()
    if np.any((p > 0) & (inside == 0)):
        return np.inf
    level = np.clip(np.rint(centers[keep] / float(scale)), qmin - zero_point, qmax - zero_point)
    q = np.zeros_like(p)
    for cell in np.unique(level[inside > 0]):
        members = (level == cell) & (inside > 0)
        q[members] = inside[members].sum() / members.sum()
    p, q = p[inside > 0] / p.sum(), q[inside > 0] / inside.sum()
    return float(np.sum(p * np.log(p / q)))


def fold(counts, edges):
    """Counts of |x|, whose edges mirror each other around 0."""
    width = edges[1] - edges[0]
    centers = np.abs((edges[1:] + edges[:-1]) / 2)
    index = np.rint(centers / width - 0.5).astype(np.int64)
    first = index.min()
    folded = np.zeros(index.max() - first + 1, np.int64)
    np.add.at(folded, index - first, counts)
    return folded, np.arange(first, index.max() + 2) * width


def grid_of(low, high, dtype, symmetric):
    return reference.qparams_from_range(np.float32(low), np.float32(high), dtype, symmetric)
