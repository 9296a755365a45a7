# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's calibrators on one array, collecting and searching."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnxruntime.quantization.calibrate import HistogramCollector

Ways = Mapping[str, Callable[[], Any]]


def calibrate(
    x: np.ndarray, method: str, bins: int, percentile: float = 99.999
) -> tuple[float, float]:
    """The range that method "entropy" or "percentile" finds, as quantize_static calls it."""
    collector = HistogramCollector(
        method=method,
        symmetric=False,
        num_bins=bins,
        num_quantized_bins=128,
        percentile=percentile,
        scenario="same",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        collector.collect({"x": [x]})
        found = collector.compute_collection_result()["x"]
    return float(found[0]), float(found[1])


def ways_calibration(x: np.ndarray, method: str) -> Ways:
    # The bins that quantize_static takes where it is not told otherwise.
    bins = 128 if method == "entropy" else 2048
    return {f"ONNX Runtime, {method}": lambda: calibrate(x, method, bins)[1]}
