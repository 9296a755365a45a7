# SPDX-License-Identifier: Apache-2.0
"""Keras 3 on any backend: models into graphs."""

from __future__ import annotations

from moptcore.keras.export import to_graph

__all__ = ["to_graph"]
