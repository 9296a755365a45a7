# SPDX-License-Identifier: Apache-2.0
"""Quantization written for reading: one formula a line, whole arrays, no speed."""

from __future__ import annotations

import numpy as np

INTEGERS = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int4": (-8, 7),
    "uint4": (0, 15),
}

# Fewer than any dtype has; stored in bytes.
FEW = {
    "int3": (-4, 3),
    "uint3": (0, 7),
    "int2": (-2, 1),
    "uint2": (0, 3),
    "ternary": (-1, 1),
}


def along(values, ndim, axis):
    """A vector over `axis`, shaped to broadcast with `ndim` dimensions."""
    values = np.asarray(values)
    if axis is None:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def half_away(x):
    magnitude = np.abs(x)
    whole = np.floor(magnitude)
    return np.copysign(whole + (magnitude - whole >= 0.5), x)


def steps(x, scale, axis=None, compat=None):
    """x in steps of the scale, rounded, in x's own precision."""
    with np.errstate(all="ignore"):
        scale = along(np.asarray(scale, np.float32), x.ndim, axis)
        if compat == "torch":
            return np.rint(x * (np.float32(1) / scale).astype(x.dtype))
        quotient = x / scale.astype(x.dtype)
        return half_away(quotient) if compat == "tflite" else np.rint(quotient)


def quantize_as_torch(x, scale, zero_point, qmin, qmax, axis=None):
    """torch.quantize_*: the zero point is added before rounding, without an axis in one step."""
    inverse = along(np.float32(1) / np.asarray(scale, np.float32), x.ndim, axis).astype(x.dtype)
    zero = along(np.asarray(zero_point, x.dtype), x.ndim, axis)
    with np.errstate(all="ignore"):
        if axis is None:
            # The long double holds the product of two floats and rounds the sum to 64 bits: not
            # below the 24 + 24 that the sum needs where it lies among the integers.
            whole = np.rint((x.astype(np.longdouble) * inverse + zero).astype(x.dtype))
        else:
            whole = np.rint(x * inverse + zero)
    return np.where(np.isnan(whole), qmin, np.clip(whole, qmin, qmax)).astype(np.int64)


def quantize(x, scale, zero_point, qmin, qmax, axis=None, compat=None):
    if compat == "torch":
        return quantize_as_torch(x, scale, zero_point, qmin, qmax, axis)
    return round_then_add(x, scale, zero_point, qmin, qmax, axis, compat)


def round_then_add(x, scale, zero_point, qmin, qmax, axis=None, compat=None):
    zero = along(np.asarray(zero_point, np.float64), x.ndim, axis)
    whole = steps(x, scale, axis, compat).astype(np.float64)
    nan = qmin if compat == "torch" else zero
    return np.where(np.isnan(whole), nan, np.clip(whole + zero, qmin, qmax)).astype(np.int64)


def dequantize(q, scale, zero_point, axis=None, dtype=np.float32):
    scale = along(np.asarray(scale, np.float32), q.ndim, axis).astype(dtype)
    return (q - along(zero_point, q.ndim, axis)).astype(dtype) * scale


def fake_quantize(x, scale, zero_point, qmin, qmax, axis=None, compat=None):
    q = round_then_add(x, scale, zero_point, qmin, qmax, axis, compat)
    if compat == "torch":
        # torch.fake_quantize_per_tensor_affine multiplies in float even where x is a double.
        precision = np.float32 if axis is None else x.dtype
        return dequantize(q, scale, zero_point, axis, precision).astype(x.dtype)
    y = dequantize(q, scale, zero_point, axis, x.dtype)
    return np.where(np.isnan(x), np.nan, y).astype(x.dtype)


def passes(x, scale, zero_point, qmin, qmax, axis=None, compat=None):
    zero = along(np.asarray(zero_point, np.float64), x.ndim, axis)
    whole = steps(x, scale, axis, compat).astype(np.float64) + zero
    return (whole >= qmin) & (whole <= qmax)


def qparams_from_range(low, high, dtype="int8", symmetric=True):
    qmin, qmax = (INTEGERS | FEW)[dtype]
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    qmin += symmetric and qmin != -qmax
    middle = 0 if qmin < 0 else (qmax + 1) // 2
    if low == high:
        return 1.0, middle if symmetric else max(qmin, 0), qmin, qmax
    tiny = float(np.finfo(np.float32).tiny)
    if symmetric:
        scale = np.float32(max(-low, high) / ((qmax - qmin) / 2))
        return max(float(scale), tiny), middle, qmin, qmax
    scale = max(float(np.float32((high - low) / (qmax - qmin))), tiny)
    return scale, int(np.clip(np.rint(qmin - low / scale), qmin, qmax)), qmin, qmax


def pack(q):
    """Two 4-bit integers in a byte, the first one low."""
    flat = (q.ravel() & 15).astype(np.uint8)
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return flat[0::2] | (flat[1::2] << 4)


def unpack_bits(bits, shape):
    count = int(np.prod(shape))
    return np.unpackbits(bits, bitorder="little")[:count].reshape(shape).astype(bool)
