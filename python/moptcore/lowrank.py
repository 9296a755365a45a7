# SPDX-License-Identifier: Apache-2.0
"""Weights as products of smaller ones: SVD, Tucker-2, and how many terms to keep."""

from __future__ import annotations

try:
    from moptcore._runtime.lowrank import (
        allocate_choices,
        allocate_ranks,
        channel_svd,
        factorize,
        largest_useful_rank,
        reconstruct,
        singular_values,
        spatial_svd,
        tucker2,
        tucker2_choices,
    )
except ImportError as error:
    raise ImportError(
        "[lowrank] moptcore.lowrank needs the oneDNN library (pip install onednn-cpu-gomp) and a "
        f"build of moptcore that found it: {error}"
    ) from error

__all__ = [
    "allocate_choices",
    "allocate_ranks",
    "channel_svd",
    "factorize",
    "largest_useful_rank",
    "reconstruct",
    "singular_values",
    "spatial_svd",
    "tucker2",
    "tucker2_choices",
]
