# SPDX-License-Identifier: Apache-2.0
"""kmeans1d: the exact optimum by dynamic programming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kmeans1d
import numpy as np

Ways = Mapping[str, Callable[[], Any]]


def ways_kmeans(weights: np.ndarray, k: int) -> Ways:
    flat = weights.ravel()
    return {"kmeans1d.cluster": lambda: kmeans1d.cluster(flat, k).centroids}
