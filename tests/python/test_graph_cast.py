# SPDX-License-Identifier: Apache-2.0
"""Cast against ml_dtypes and NumPy, over every code of the small types."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from moptcore import graph

onnx = pytest.importorskip("onnx")
import ml_dtypes  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

SMALL = {
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
}
PACKED = {
    "INT4": ml_dtypes.int4,
    "UINT4": ml_dtypes.uint4,
    "INT2": ml_dtypes.int2,
    "UINT2": ml_dtypes.uint2,
}


def cast(x: np.ndarray, to: str, **attributes: Any) -> np.ndarray:
    """What Cast makes of `x`."""
    start = helper.np_dtype_to_tensor_dtype(x.dtype)
    end = getattr(TensorProto, to)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["x"], ["y"], to=end, **attributes)],
            "g",
            [helper.make_tensor_value_info("x", start, None)],
            [helper.make_tensor_value_info("y", end, None)],
        ),
        opset_imports=[helper.make_opsetid("", 25)],
        ir_version=10,
    )
    y = graph.load(proto.SerializeToString()).evaluate({"x": x})["y"]
    assert isinstance(y, np.ndarray)
    return y


def every_float16() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)


def many_float32() -> np.ndarray:
    """Every upper half of a float with ends below, at and above the middle, and random ones."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    ends = [upper + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    return np.concatenate([*ends, random]).view(np.float32)


def astype(x: np.ndarray, dtype: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # values beyond the type are meant
        return x.astype(dtype)


@pytest.mark.parametrize("to", SMALL)
@pytest.mark.parametrize("start", [every_float16, many_float32])
def test_floats_become_the_codes_that_ml_dtypes_makes(to: str, start: Any) -> None:
    x = start()
    got = cast(x, to, saturate=0)
    expected = astype(x, SMALL[to])
    np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("to", [name for name in SMALL if name != "FLOAT4E2M1"])
@pytest.mark.parametrize("start", [every_float16, many_float32])
def test_saturating_casts_are_clipped_before(to: str, start: Any) -> None:
    x = start()
    limits = ml_dtypes.finfo(SMALL[to])
    expected = astype(np.clip(x, np.float32(limits.min), np.float32(limits.max)), SMALL[to])
    np.testing.assert_array_equal(cast(x, to).view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("start", [*SMALL, "FLOAT8E8M0"])
@pytest.mark.parametrize("to", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"])
def test_every_code_of_a_small_float_has_the_value_of_ml_dtypes(start: str, to: str) -> None:
    dtype = SMALL.get(start, ml_dtypes.float8_e8m0fnu)
    codes = np.arange(16 if start == "FLOAT4E2M1" else 256, dtype=np.uint8).view(dtype)
    expected = astype(codes, helper.tensor_dtype_to_np_dtype(getattr(TensorProto, to)))
    got = cast(codes, to)
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))
    np.testing.assert_array_equal(
        np.signbit(got.astype(np.float64)[~np.isnan(codes.astype(np.float32))]),
        np.signbit(expected.astype(np.float64)[~np.isnan(codes.astype(np.float32))]),
    )


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_scales_round_as_onnx_does_where_it_says_how(mode: str) -> None:
    x = many_float32()
    x = x[(x >= np.float32(2.0**-126)) & (x <= np.float32(2.0**127))]
    expected = onnx.numpy_helper.to_float8e8m0(x, True, mode)
    got = cast(x, "FLOAT8E8M0", round_mode=mode)
    np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("to", PACKED)
def test_packed_integers_keep_the_low_bits(to: str) -> None:
    x = np.arange(-128, 128, dtype=np.int8)
    expected = x.astype(PACKED[to])
    for given in (x, x.astype(np.int64), x.astype(np.float32), x.astype(np.float16)):
        got = cast(given, to)
        np.testing.assert_array_equal(got.astype(np.int8), expected.astype(np.int8))
    for back in ("INT8", "UINT8", "FLOAT", "INT64", "FLOAT16"):
        wide = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, back))
        np.testing.assert_array_equal(cast(expected, back), expected.astype(np.int8).astype(wide))


def test_doubles_round_to_float16_as_numpy_rounds_them() -> None:
    middles = every_float16()[:0x7BFF].astype(np.float64)
    middles = (middles[:-1] + middles[1:]) / 2
    x = np.concatenate([middles, np.nextafter(middles, 0), np.nextafter(middles, 1e9)])
    np.testing.assert_array_equal(cast(x, "FLOAT16"), x.astype(np.float16))


def test_text_of_numbers_is_what_numpy_writes() -> None:
    x = np.array([0.1, -1.5, 3e-7, 1e16, 123456.0, np.pi, np.inf, np.nan], np.float32)
    assert cast(x, "STRING").tolist() == x.astype(np.str_).tolist()
    wide = x.astype(np.float64)
    assert cast(wide, "STRING").tolist() == wide.astype(np.str_).tolist()
    assert cast(np.array([1, -2]), "STRING").tolist() == ["1", "-2"]
