# SPDX-License-Identifier: Apache-2.0
"""Exact magnitude masks against PyTorch, NumPy and one pass over the same memory."""

from __future__ import annotations

import sys

import moptcore as mc
import numpy as np
import torch
from harness import interleave, show
from peers import pytorch

SPARSITY = 0.8


def main(count: int) -> None:
    weights = torch.randn(count, generator=torch.Generator().manual_seed(0))
    array = weights.numpy()
    out = np.empty(count, bool)
    mask = mc.prune.magnitude_mask(array, SPARSITY, out=out)
    expected = pytorch.magnitude_mask_kthvalue(weights, SPARSITY).numpy()
    zeros = np.count_nonzero(~mask)
    assert zeros == round(SPARSITY * count), zeros
    assert np.array_equal(mask, expected) or np.unique(array).size < count
    threshold = float(np.abs(array[~mask]).max())

    def numpy_partition() -> np.ndarray:
        magnitude = np.abs(array)
        return magnitude > np.partition(magnitude, zeros - 1)[zeros - 1]

    timings = interleave(
        {
            "moptcore magnitude_mask(out=)": lambda: mc.prune.magnitude_mask(
                array, SPARSITY, out=out
            ),
            "moptcore magnitude_mask": lambda: mc.prune.magnitude_mask(array, SPARSITY),
            "one pass: read floats, write a byte each": lambda: np.greater(
                array, threshold, out=out
            ),
            "torch kthvalue and compare": lambda: pytorch.magnitude_mask_kthvalue(
                weights, SPARSITY
            ),
            "numpy.partition and compare": numpy_partition,
            "torch.nn.utils.prune L1 mask": lambda: pytorch.magnitude_mask(weights, SPARSITY),
        },
        seconds=8,
    )
    show(
        f"exact 80 % magnitude mask, {count:,} float32, {mc.get_num_threads()} threads",
        timings,
        "moptcore magnitude_mask(out=)",
    )


if __name__ == "__main__":
    for size in [int(text) for text in sys.argv[1:]] or [1 << 20, 1 << 24]:
        main(size)
