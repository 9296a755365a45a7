# SPDX-License-Identifier: Apache-2.0
"""Which weights are kept: schedules, scores and masks of exact sparsity."""

from __future__ import annotations

from moptcore._core.prune import (
    ConstantSparsity,
    CosineDecay,
    CosineRegrowth,
    ExponentialDecay,
    FunctionSchedule,
    GradualNM,
    InputHessian,
    InputNorm,
    LinearDecay,
    PolynomialDecay,
    apply_mask,
    batch_norm_score,
    block_mask,
    count_zeros,
    fpgm_score,
    global_mask,
    lamp_score,
    magnitude_mask,
    magnitude_score,
    movement_score,
    nm_mask,
    obd_score,
    obs_score,
    pack_mask,
    random_mask,
    regrow,
    row_mask,
    snip_score,
    snip_total,
    sparsegpt,
    sparsity,
    structured_mask,
    taylor_score,
    unpack_mask,
    wanda_score,
)

__all__ = [
    "ConstantSparsity",
    "CosineDecay",
    "CosineRegrowth",
    "ExponentialDecay",
    "FunctionSchedule",
    "GradualNM",
    "InputHessian",
    "InputNorm",
    "LinearDecay",
    "PolynomialDecay",
    "Schedule",
    "apply_mask",
    "batch_norm_score",
    "block_mask",
    "count_zeros",
    "fpgm_score",
    "global_mask",
    "lamp_score",
    "magnitude_mask",
    "magnitude_score",
    "movement_score",
    "nm_mask",
    "obd_score",
    "obs_score",
    "pack_mask",
    "random_mask",
    "regrow",
    "row_mask",
    "snip_score",
    "snip_total",
    "sparsegpt",
    "sparsity",
    "structured_mask",
    "taylor_score",
    "unpack_mask",
    "wanda_score",
]

Schedule = (
    ConstantSparsity
    | PolynomialDecay
    | LinearDecay
    | CosineDecay
    | ExponentialDecay
    | FunctionSchedule
    | GradualNM
)
