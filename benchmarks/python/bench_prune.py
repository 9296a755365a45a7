# SPDX-License-Identifier: Apache-2.0
"""Exact masks against PyTorch, NumPy and one pass over the same memory."""

from __future__ import annotations

import math
import sys

import moptcore as mc
import numpy as np
import torch
from harness import interleave, show
from peers import pytorch
from torch.nn.utils import prune as torch_prune

SPARSITY = 0.8


def random_weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def magnitude(count: int) -> None:
    weights = random_weights(count)
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


def two_of_four(rows: int, cols: int) -> None:
    weights = random_weights(rows, cols)
    array = weights.numpy()
    out = np.empty((rows, cols), bool)

    def topk() -> torch.Tensor:
        groups = weights.abs().view(-1, 4)
        best = groups.topk(2, dim=1).indices
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, best, True)

    np.testing.assert_array_equal(
        mc.prune.nm_mask(array, 2, 4, out=out), topk().view(rows, cols).numpy()
    )
    timings = interleave(
        {
            "moptcore nm_mask(out=)": lambda: mc.prune.nm_mask(array, 2, 4, out=out),
            "one pass: read floats, write a byte each": lambda: np.greater(array, 1.0, out=out),
            "torch topk and scatter": topk,
        }
    )
    show(f"2:4 mask of {rows} x {cols} float32", timings, "moptcore nm_mask(out=)")


def structured(*shape: int) -> None:
    weights = random_weights(*shape)
    array = weights.numpy()
    out = np.empty(shape[0], bool)
    for order in (1.0, 2.0, math.inf):

        def ln_structured(order: float = order) -> torch.Tensor:
            layer = torch.nn.Module()
            layer.weight = torch.nn.Parameter(weights)
            torch_prune.ln_structured(layer, "weight", 0.5, n=order, dim=0)
            return layer.weight_mask

        def ours(order: float = order) -> np.ndarray:
            return mc.prune.structured_mask(array, 0.5, ord=order, out=out)

        def every_element(order: float = order) -> np.ndarray:
            return mc.prune.structured_mask(array, 0.5, ord=order, expand=True)

        np.testing.assert_array_equal(every_element(), ln_structured().numpy() != 0)
        timings = interleave(
            {
                "moptcore structured_mask(out=)": ours,
                "moptcore structured_mask(expand=True)": every_element,
                "one read: largest": array.max,
                "torch prune.ln_structured": ln_structured,
            }
        )
        show(
            f"structured mask, L{order:g} of {list(shape)} float32",
            timings,
            "moptcore structured_mask(out=)",
        )


def scores(*shape: int) -> None:
    weights = random_weights(*shape).numpy()
    grad = random_weights(*shape[::-1]).numpy().reshape(shape)
    out = np.empty_like(weights)
    mask = mc.prune.magnitude_mask(weights, SPARSITY)

    def lamp() -> np.ndarray:
        squares = np.square(weights.reshape(-1), dtype=np.float64)
        order = np.argsort(-squares, kind="stable")
        result = np.empty_like(squares)
        result[order] = squares[order] / np.cumsum(squares[order])
        return result.reshape(shape)

    # Two sums of as many positive terms round differently; the scores are float32.
    np.testing.assert_allclose(mc.prune.lamp_score(weights, out=out), lamp(), rtol=2**-22)
    timings = interleave(
        {
            "moptcore lamp_score(out=)": lambda: mc.prune.lamp_score(weights, out=out),
            "numpy argsort and cumsum": lamp,
        }
    )
    show(f"LAMP scores of {list(shape)} float32", timings, "moptcore lamp_score(out=)")

    tensor, slope = torch.from_numpy(weights), torch.from_numpy(grad)
    active = torch.from_numpy(mask)

    def rigl() -> torch.Tensor:
        count = round(0.3 * int(active.sum()))
        kept = torch.where(active, tensor.abs(), math.inf).flatten()
        result = active.flatten().clone()
        result[torch.topk(kept, count, largest=False).indices] = False
        idle = torch.where(result, -1.0, slope.abs().flatten())
        result[torch.topk(idle, count).indices] = True
        return result.view(shape)

    np.testing.assert_array_equal(mc.prune.regrow(mask, weights, grad, 0.3), rigl().numpy())
    timings = interleave(
        {
            "moptcore regrow": lambda: mc.prune.regrow(mask, weights, grad, 0.3),
            "torch topk twice": rigl,
        }
    )
    show(f"RigL exchange of 30 % of {list(shape)}", timings, "moptcore regrow")


def main() -> None:
    for size in [int(text) for text in sys.argv[1:]] or [1 << 20, 1 << 24, 1 << 26]:
        magnitude(size)
    two_of_four(4096, 4096)
    structured(512, 512, 3, 3)
    scores(512, 512, 3, 3)


if __name__ == "__main__":
    main()
