# SPDX-License-Identifier: Apache-2.0
"""One-dimensional k-means by trying everything, and the other primitives one group at a time."""

from __future__ import annotations

import itertools

import numpy as np


def squared_error(weights: np.ndarray, clustered: np.ndarray) -> float:
    return float(((weights.astype(np.float64) - clustered.astype(np.float64)) ** 2).sum())


def least_error(values: np.ndarray, k: int) -> float:
    """Of all partitions of the sorted values into at most k runs."""
    values = np.sort(np.asarray(values, np.float64).reshape(-1))
    least = np.inf
    for clusters in range(1, min(k, values.size) + 1):
        for cuts in itertools.combinations(range(1, values.size), clusters - 1):
            runs = np.split(values, cuts)
            least = min(least, sum(((run - run.mean()) ** 2).sum() for run in runs))
    return float(least)


def nearest(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Distances in extended precision, which holds those of float32 exactly."""
    distance = np.abs(weights[..., None].astype(np.longdouble) - centroids.astype(np.longdouble))
    return distance.argmin(-1)


def groups(shape: tuple[int, ...], axis: int | None, group_size: int | None) -> np.ndarray:
    """The number of the group of each element."""
    if axis is None:
        n = int(np.prod(shape))
        width = n if group_size is None else group_size
        return (np.arange(n) // max(width, 1)).reshape(shape)
    axis %= len(shape)
    place = np.arange(shape[axis]) // (group_size or 1)
    return np.broadcast_to(
        np.moveaxis(place[..., None], 0, 0).reshape(
            [-1 if i == axis else 1 for i in range(len(shape))]
        ),
        shape,
    )


def centroid_gradient(
    gradient: np.ndarray, indices: np.ndarray, k: int, mean: bool, group: np.ndarray
) -> np.ndarray:
    rows = int(group.max()) + 1
    result = np.zeros((rows, k))
    for row, centroid in itertools.product(range(rows), range(k)):
        members = gradient[(group == row) & (indices == centroid)].astype(np.float64)
        if members.size:
            result[row, centroid] = members.mean() if mean else members.sum()
    return result
