# SPDX-License-Identifier: Apache-2.0
"""Observers and calibrators against torch.ao's, NumPy's histogram and ONNX Runtime's, and one read.

Answers are compared first: ranges are equal, histograms hold the same values between the same
edges, percentiles lie within a bin of each other and both entropies clip.
"""

from __future__ import annotations

import sys

import moptcore as mc
import numpy as np
import torch
from harness import interleave, show
from peers import onnxruntime
from torch.ao.quantization.observer import (
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
)

BINS = 2048
quant = mc.quant


def check_ranges(x: torch.Tensor) -> None:
    for axis in (None, 0, 1):
        ours = quant.MinMaxObserver(axis=axis)
        ours.update(x)
        theirs = MinMaxObserver() if axis is None else PerChannelMinMaxObserver(ch_axis=axis)
        theirs(x)
        assert np.array_equal(np.ravel(ours.min), theirs.min_val.numpy().ravel())
        assert np.array_equal(np.ravel(ours.max), theirs.max_val.numpy().ravel())


def check_counts(x: torch.Tensor) -> None:
    ours = quant.HistogramObserver()
    ours.update(x)
    width = 2.0 ** int(ours.exponent[0])
    edges = (np.floor(float(ours.min[0]) / width) + np.arange(BINS + 1)) * width
    # np.histogram closes its last bin, which ours leaves empty or open.
    assert np.array_equal(np.ravel(ours.counts), np.histogram(x.numpy(), edges)[0])


def check_calibrators(values: np.ndarray) -> None:
    ours = quant.PercentileObserver()
    ours.update(values)
    low, high = (float(np.ravel(end)[0]) for end in ours.range())
    theirs = onnxruntime.calibrate(values, "percentile", BINS)
    bin_width = 2 * np.abs(values).max() / BINS + 2.0 ** int(ours.exponent[0])
    assert abs(low - theirs[0]) <= bin_width
    assert abs(high - theirs[1]) <= bin_width
    # At 128 bins, its default, ONNX Runtime has one candidate: the whole range, and so have we.
    coarse = quant.EntropyObserver(bins=128)
    coarse.update(values)
    whole = float(np.abs(values).max())
    assert onnxruntime.calibrate(values, "entropy", 128)[1] >= 0.9 * whole
    assert 0.0 < float(np.ravel(coarse.range()[1])[0]) <= whole


def observe(observer: object, x: object) -> object:
    observer.reset()
    observer.update(x)
    return observer.range()


def main(count: int) -> None:
    channels = 1 << ((count.bit_length() - 1) // 2)
    x = torch.randn(channels, count // channels, generator=torch.Generator().manual_seed(0))
    values = x.numpy()
    check_ranges(x)
    check_counts(x)
    check_calibrators(values)
    whole, first, last = (quant.MinMaxObserver(axis=axis) for axis in (None, 0, 1))
    histogram, their_histogram = quant.HistogramObserver(), HistogramObserver()
    percentile = quant.PercentileObserver()
    entropy, coarse = quant.EntropyObserver(), quant.EntropyObserver(bins=128)
    their_whole = MinMaxObserver()
    their_first, their_last = (PerChannelMinMaxObserver(ch_axis=axis) for axis in (0, 1))
    title = f"{count:,} float32, {mc.get_num_threads()} threads"
    tables = {
        "smallest and largest of all": {
            "moptcore MinMaxObserver": lambda: whole.update(x),
            "one read: torch.aminmax": lambda: torch.aminmax(x),
            "torch MinMaxObserver": lambda: their_whole(x),
        },
        "of each row": {
            "moptcore MinMaxObserver(axis=0)": lambda: first.update(x),
            "torch PerChannelMinMaxObserver(0)": lambda: their_first(x),
        },
        "of each column": {
            "moptcore MinMaxObserver(axis=1)": lambda: last.update(x),
            "torch PerChannelMinMaxObserver(1)": lambda: their_last(x),
        },
        "histogram update": {
            "moptcore HistogramObserver": lambda: histogram.update(x),
            "one read: torch.aminmax": lambda: torch.aminmax(x),
            "torch HistogramObserver": lambda: their_histogram(x),
            "torch.histc": lambda: torch.histc(x, BINS),
            "numpy.histogram": lambda: np.histogram(values, BINS),
        },
        "qparams of a histogram": {
            "moptcore HistogramObserver.qparams": lambda: histogram.qparams("uint8", False),
            "torch calculate_qparams": their_histogram.calculate_qparams,
        },
        "percentile calibration": {
            "moptcore PercentileObserver": lambda: observe(percentile, values),
            "ONNX Runtime, 2048 bins": lambda: onnxruntime.calibrate(values, "percentile", BINS),
        },
        "entropy calibration, 128 bins": {
            "moptcore EntropyObserver(bins=128)": lambda: observe(coarse, values),
            "ONNX Runtime, 128 bins": lambda: onnxruntime.calibrate(values, "entropy", 128),
        },
        "entropy calibration, 2048 bins": {
            "moptcore EntropyObserver": lambda: observe(entropy, values),
            "ONNX Runtime, 2048 bins": lambda: onnxruntime.calibrate(values, "entropy", BINS),
        },
    }
    for name, ways in tables.items():
        show(f"{name}, {title}", interleave(ways, seconds=3.0), next(iter(ways)))


if __name__ == "__main__":
    for size in [int(text) for text in sys.argv[1:]] or [1 << 20, 1 << 24]:
        main(size)
