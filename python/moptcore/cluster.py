# SPDX-License-Identifier: Apache-2.0
"""Weights that share few values: codebooks by k-means, and what is done with them."""

from __future__ import annotations

from moptcore._core.cluster import (
    Codebook,
    assign,
    centroid_gradient,
    init_centroids,
    kmeans,
    lloyd,
    lookup,
)

__all__ = [
    "Codebook",
    "assign",
    "centroid_gradient",
    "init_centroids",
    "kmeans",
    "lloyd",
    "lookup",
]
