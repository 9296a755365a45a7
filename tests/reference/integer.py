# SPDX-License-Identifier: Apache-2.0
"""Layers on integers by their definitions: Python's integers, and one loop an index."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def quantize(x: np.ndarray, scale: float, zero_point: int, qmin: int, qmax: int) -> np.ndarray:
    steps = np.rint(x.astype(np.float32) / np.float32(scale))
    return np.clip(steps.astype(np.float64) + zero_point, qmin, qmax).astype(np.int64)


def results(
    sums: np.ndarray, bias: np.ndarray | None, scale: float, weight_scale: np.ndarray, axis: int
) -> np.ndarray:
    """float32(sum + bias) * (scale * weight_scale), along `axis` of the outputs."""
    shape = [1] * sums.ndim
    shape[axis] = -1
    if bias is not None:
        sums = sums + bias.astype(np.int64).reshape(shape)
    factor = np.float32(scale) * weight_scale.astype(np.float32)
    return sums.astype(np.float32) * factor.reshape(shape)


def linear(
    x: np.ndarray,
    scale: float,
    zero_point: int,
    weight: np.ndarray,
    weight_scale: np.ndarray,
    bias: np.ndarray | None = None,
    qmin: int = 0,
    qmax: int = 255,
) -> np.ndarray:
    q = quantize(x, scale, zero_point, qmin, qmax) - zero_point
    return results(q @ weight.astype(np.int64).T, bias, scale, weight_scale, -1)


def convolution(
    x: np.ndarray,
    scale: float,
    zero_point: int,
    weight: np.ndarray,
    weight_scale: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Sequence[int] = (1, 1),
    before: Sequence[int] = (0, 0),
    after: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    qmin: int = 0,
    qmax: int = 255,
) -> np.ndarray:
    """x [batch, channels, (height,) width]; the arguments are pairs as in moptcore."""
    if x.ndim == 3:
        options = (scale, zero_point, weight[:, :, None], weight_scale, bias)
        pairs = ((1, stride[1]), (0, before[1]), (0, after[1]), (1, dilation[1]))
        return convolution(x[:, :, None], *options, *pairs, groups, qmin, qmax)[:, :, 0]
    q = quantize(x, scale, zero_point, qmin, qmax) - zero_point
    q = np.pad(q, ((0, 0), (0, 0), (before[0], after[0]), (before[1], after[1])))
    outputs, channels, tall, broad = weight.shape
    height = (q.shape[2] - dilation[0] * (tall - 1) - 1) // stride[0] + 1
    width = (q.shape[3] - dilation[1] * (broad - 1) - 1) // stride[1] + 1
    sums = np.zeros((len(x), outputs, height, width), np.int64)
    for o, i, j in itertools.product(range(outputs), range(tall), range(broad)):
        first = o // (outputs // groups) * channels
        top, left = i * dilation[0], j * dilation[1]
        seen = q[
            :,
            first : first + channels,
            top : top + (height - 1) * stride[0] + 1 : stride[0],
            left : left + (width - 1) * stride[1] + 1 : stride[1],
        ]
        taps = weight[o, :, i, j].astype(np.int64).reshape(1, -1, 1, 1)
        sums[:, o] += (seen * taps).sum(1)
    return results(sums, bias, scale, weight_scale, 1)
