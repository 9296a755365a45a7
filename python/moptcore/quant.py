# SPDX-License-Identifier: Apache-2.0
"""Real numbers to integers and back: ranges, quantization, fake quantization for training."""

from __future__ import annotations

from moptcore._core.quant import (
    EntropyObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    PercentileObserver,
    QParams,
    dequantize,
    fake_quantize,
    fake_quantize_affine,
    fake_quantize_backward,
    fake_quantize_range,
    group_qparams,
    group_range,
    lsq,
    lsq_backward,
    pact,
    pact_backward,
    qparams_from_range,
    quantize,
)

__all__ = [
    "EntropyObserver",
    "HistogramObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "PercentileObserver",
    "QParams",
    "dequantize",
    "fake_quantize",
    "fake_quantize_affine",
    "fake_quantize_backward",
    "fake_quantize_range",
    "group_qparams",
    "group_range",
    "lsq",
    "lsq_backward",
    "pact",
    "pact_backward",
    "qparams_from_range",
    "quantize",
]
