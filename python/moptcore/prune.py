# SPDX-License-Identifier: Apache-2.0
"""Which weights are kept: schedules, masks of exact sparsity, and what is done with them."""

from __future__ import annotations

from moptcore._core.prune import (
    ConstantSparsity,
    CosineDecay,
    ExponentialDecay,
    LinearDecay,
    PolynomialDecay,
    apply_mask,
    block_mask,
    count_zeros,
    global_mask,
    magnitude_mask,
    nm_mask,
    pack_mask,
    random_mask,
    sparsity,
    structured_mask,
    unpack_mask,
)

__all__ = [
    "ConstantSparsity",
    "CosineDecay",
    "ExponentialDecay",
    "LinearDecay",
    "PolynomialDecay",
    "Schedule",
    "apply_mask",
    "block_mask",
    "count_zeros",
    "global_mask",
    "magnitude_mask",
    "nm_mask",
    "pack_mask",
    "random_mask",
    "sparsity",
    "structured_mask",
    "unpack_mask",
]

Schedule = ConstantSparsity | PolynomialDecay | LinearDecay | CosineDecay | ExponentialDecay
