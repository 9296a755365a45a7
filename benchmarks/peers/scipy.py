# SPDX-License-Identifier: Apache-2.0
"""SciPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds

Ways = Mapping[str, Callable[[], Any]]


def ways_kmeans(weights: np.ndarray, k: int) -> Ways:
    flat = weights.ravel()
    return {
        "scipy kmeans2, 5 iterations": lambda: kmeans2(
            flat, np.quantile(flat, (np.arange(k) + 0.5) / k), iter=5, minit="matrix"
        )[0]
    }


def ways_truncated_svd(w: np.ndarray, rank: int) -> Ways:
    def arpack() -> tuple[np.ndarray, np.ndarray]:
        u, s, v = svds(w, rank)
        return u * s, v

    return {"scipy svds (ARPACK)": arpack}
