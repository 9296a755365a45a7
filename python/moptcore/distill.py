# SPDX-License-Identifier: Apache-2.0
"""Losses that train a small network to follow a large one, each with its gradient."""

from __future__ import annotations

from moptcore._core.distill import feature_loss, soft_target_loss

__all__ = ["feature_loss", "soft_target_loss"]
