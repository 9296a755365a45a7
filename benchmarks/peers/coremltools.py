# SPDX-License-Identifier: Apache-2.0
"""coremltools' palettization; its look-up tables have 2^bits entries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from coremltools.models.neural_network.quantization_utils import (
    _get_kmeans_lookup_table_and_weight,
)

logging.disable(logging.WARNING)  # one a call, about the number of clusters

Ways = Mapping[str, Callable[[], Any]]


def ways_kmeans(weights: np.ndarray, k: int) -> Ways:
    bits = k.bit_length() - 1
    return {
        "coremltools kmeans": lambda: _get_kmeans_lookup_table_and_weight(
            bits, weights, force_kmeans1d=False, cluster_dim=1
        )[0]
    }
