# SPDX-License-Identifier: Apache-2.0
"""NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Ways = Mapping[str, Callable[[], Any]]


def ways_magnitude_mask(weights: np.ndarray, sparsity: float) -> Ways:
    zeros = round(sparsity * weights.size)

    def partition() -> np.ndarray:
        magnitude = np.abs(weights)
        return magnitude > np.partition(magnitude.ravel(), zeros - 1)[zeros - 1]

    return {"numpy.partition and compare": partition}


def ways_range_of(x: np.ndarray, channels: bool) -> Ways:
    axis = 1 if channels else None
    return {"numpy min and max": lambda: (x.min(axis=axis), x.max(axis=axis))}


def ways_truncated_svd(w: np.ndarray, rank: int) -> Ways:
    def exact() -> tuple[np.ndarray, np.ndarray]:
        u, s, v = np.linalg.svd(w, full_matrices=False)
        return u[:, :rank] * s[:rank], v[:rank]

    return {"numpy.linalg.svd": exact}
