# SPDX-License-Identifier: Apache-2.0
"""Losses that train a small network to follow a large one, each with its gradient."""

from __future__ import annotations

from moptcore._core.distill import (
    attention_loss,
    average_teachers,
    cosine_loss,
    dist_loss,
    feature_loss,
    relational_loss,
    similarity_loss,
    soft_target_loss,
)

__all__ = [
    "attention_loss",
    "average_teachers",
    "cosine_loss",
    "dist_loss",
    "feature_loss",
    "relational_loss",
    "similarity_loss",
    "soft_target_loss",
]
