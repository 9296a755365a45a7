# SPDX-License-Identifier: Apache-2.0
"""scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.utils.extmath import randomized_svd

Ways = Mapping[str, Callable[[], Any]]


def ways_kmeans(weights: np.ndarray, k: int) -> Ways:
    column = weights.reshape(-1, 1)
    return {
        "sklearn KMeans": lambda: KMeans(k, n_init=1, random_state=0).fit(column).cluster_centers_
    }


def ways_truncated_svd(w: np.ndarray, rank: int) -> Ways:
    def randomized() -> tuple[np.ndarray, np.ndarray]:
        u, s, v = randomized_svd(w, rank, random_state=0)
        return u * s, v

    return {"sklearn randomized_svd": randomized}
