# SPDX-License-Identifier: Apache-2.0
"""Grids of fewer integers than a byte has, and the integer codes of levels that are no grid."""

from __future__ import annotations

import copy
import pickle

import moptcore as mc
import numpy as np
import pytest
import torch
from moptcore import pack, quant
from reference import quant as reference

FEW = ["int3", "uint3", "int2", "uint2", "ternary"]
STORAGE = {"int3": "int8", "uint3": "uint8", "int2": "int8", "uint2": "uint8", "ternary": "int8"}
OBSERVERS = [
    quant.MinMaxObserver,
    quant.MovingAverageObserver,
    quant.PercentileObserver,
    quant.EntropyObserver,
    quant.MSEObserver,
    quant.HistogramObserver,
]


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", FEW)
def test_params_report_the_name_and_the_integers(dtype):
    least, greatest = reference.FEW[dtype]
    qp = quant.QParams(0.5, 1, dtype)
    assert (qp.dtype, qp.qmin, qp.qmax) == (dtype, least, greatest)
    assert f"dtype='{dtype}'" in repr(qp)
    assert pickle.loads(pickle.dumps(qp)) == copy.deepcopy(qp) == qp
    assert pickle.loads(pickle.dumps(qp)).dtype == dtype
    same_integers = quant.QParams(0.5, 1, STORAGE[dtype], qmin=least, qmax=greatest)
    assert same_integers != qp
    for bad in ({"qmin": least - 1}, {"qmax": greatest + 1}):
        with pytest.raises(ValueError, match=f"<= {greatest} for {dtype}, got"):
            quant.QParams(0.5, 0, dtype, **bad)


@pytest.mark.parametrize("compat", [None, "torch", "tflite"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", FEW)
def test_integers_are_those_of_the_formula_and_of_a_byte_with_the_same_ends(
    dtype, symmetric, compat
):
    x = values((6, 40)) * 2
    low, high = float(x.min()), float(x.max())
    qp = quant.qparams_from_range(low, high, dtype, symmetric, compat=compat)
    if compat is None:
        scale, zero, qmin, qmax = reference.qparams_from_range(low, high, dtype, symmetric)
        assert (qp.scale, qp.zero_point, qp.qmin, qp.qmax) == (scale, zero, qmin, qmax)
    q = quant.quantize(x, qp, compat=compat)
    assert q.dtype == STORAGE[dtype]
    assert q.min() == qp.qmin or not symmetric
    expected = reference.quantize(x, qp.scale, qp.zero_point, qp.qmin, qp.qmax, compat=compat)
    assert np.array_equal(q, expected)
    wide = quant.QParams(qp.scale, qp.zero_point, STORAGE[dtype], None, qp.qmin, qp.qmax)
    assert np.array_equal(q, quant.quantize(x, wide, compat=compat))
    back = quant.dequantize(q, qp)
    assert np.array_equal(back, quant.dequantize(q, wide))
    fake = quant.fake_quantize(x, qp, compat=compat)
    assert np.array_equal(fake, quant.fake_quantize(x, wide, compat=compat))
    if compat != "torch":
        assert np.array_equal(fake, back)
    assert np.unique(fake).size <= qp.qmax - qp.qmin + 1
    with pytest.raises(TypeError, match="out must"):
        quant.quantize(x, qp, np.zeros(x.shape, np.int16))


def test_symmetric_grids_drop_the_lowest_integer_where_it_has_no_partner():
    ends = {"int3": (-3, 3), "uint3": (1, 7), "int2": (-1, 1), "uint2": (1, 3), "ternary": (-1, 1)}
    for dtype, expected in ends.items():
        qp = quant.qparams_from_range(-0.9, 0.6, dtype)
        assert (qp.qmin, qp.qmax) == expected
        largest = np.array([-0.9, 0.9], np.float32)
        assert np.allclose(quant.fake_quantize(largest, qp), largest, rtol=1e-6)
        theirs = quant.qparams_from_range(-0.9, 0.6, dtype, compat="torch")
        assert (theirs.qmin, theirs.qmax) == reference.FEW[dtype]


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("kind", OBSERVERS)
def test_every_observer_gives_grids_of_few_integers(kind, axis):
    x = values((500, 3)) * np.array([1, 2, 4], np.float32)
    observer = kind(axis=axis)
    observer.update(x)
    for dtype in FEW:
        for symmetric in (True, False):
            qp = observer.qparams(dtype, symmetric)
            assert (qp.dtype, qp.axis) == (dtype, axis)
            found = (observer.range(dtype, symmetric) if hasattr(observer, "range")
                     else (observer.min, observer.max))  # fmt: skip
            for i, (low, high) in enumerate(zip(*found, strict=True)):
                expected = reference.qparams_from_range(low, high, dtype, symmetric)
                grid = np.atleast_1d(qp.scale)[i], np.atleast_1d(qp.zero_point)[i], qp.qmin, qp.qmax
                assert grid == expected


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", FEW)
def test_the_search_is_for_the_levels_that_are_there(dtype, symmetric):
    x = values(20000, 3)
    observer = quant.MSEObserver()
    observer.update(x)

    def error(qp):
        return np.mean((quant.fake_quantize(x, qp) - x.astype(np.float64)) ** 2)

    own = error(observer.qparams(dtype, symmetric))
    # The range that suits 256 levels is far too wide for a few.
    wide = quant.qparams_from_range(*(e[0] for e in observer.range("int8", symmetric)), dtype,
                                    symmetric)  # fmt: skip
    assert own < 0.8 * error(wide)
    # 2 percent either way: bins are narrower than that, so no better range lies there.
    a, b = (float(e[0]) for e in observer.range(dtype, symmetric))
    for factor in (0.9, 0.95, 1.05, 1.1):
        near = quant.qparams_from_range(a * factor, b * factor, dtype, symmetric)
        assert own <= error(near) * 1.001


def test_the_ternary_search_finds_the_optimal_threshold_scale():
    x = values(20000, 5)
    observer = quant.MSEObserver()
    observer.update(x)
    found = observer.qparams("ternary").scale
    exact = quant.level_scale(x, "ternary")
    # Both the best of {-s, 0, s}; the observer sees bins of 1/256 and the minimum is flat.
    assert found == pytest.approx(exact, rel=0.02)
    q = quant.quantize(x, quant.QParams(exact, 0, "ternary"))
    assert set(np.unique(q)) == {-1, 0, 1}


@pytest.mark.parametrize("dtype", FEW)
def test_groups_and_weights_take_few_integers(dtype):
    w = values((4, 20))
    qp = quant.group_qparams(w, 8, dtype=dtype, symmetric=False)
    assert (qp.dtype, qp.scale.shape) == (dtype, (4, 3))
    q = quant.quantize(w, qp)
    for row in range(4):
        for g, part in enumerate(np.split(w[row], [8, 16])):
            one = quant.qparams_from_range(part.min(), part.max(), dtype, False)
            assert np.array_equal(np.split(q[row], [8, 16])[g], quant.quantize(part, one))
    # Few causes behind the inputs: what GPTQ makes use of.
    x = values((200, 4), 1) @ values((4, 20), 2) + values((200, 20), 3) / 8
    rounded, grids = quant.gptq(w, x.T @ x, dtype=dtype, symmetric=False)
    assert rounded.dtype == STORAGE[dtype]
    assert (grids.dtype, grids.qmin, grids.qmax) == (dtype, *reference.FEW[dtype])
    plain = quant.dequantize(quant.quantize(w, grids), grids)
    ours = quant.dequantize(rounded, grids)
    assert np.sum(((ours - w) @ x.T) ** 2) < np.sum(((plain - w) @ x.T) ** 2)


@pytest.mark.parametrize(("dtype", "bits"), [("int3", 3), ("uint3", 3), ("int2", 2), ("uint2", 2)])
def test_pack_stores_no_more_bits_than_the_grid_has(dtype, bits):
    x = values(80000)
    qp = quant.qparams_from_range(-3, 3, dtype)
    q = quant.quantize(x, qp)
    data = pack.encode(q)
    back = pack.decode(data)
    assert back.dtype == q.dtype
    assert np.array_equal(back, q)
    assert len(data) <= q.size * bits / 8 + 100


def test_what_is_no_grid_is_refused_by_name():
    assert quant.QParams(1.0, dtype=torch.int8).dtype == "int8"
    rule = (
        "[quant.QParams] dtype must be int8, uint8, int16, uint16, int4, uint4, int3, uint3, int2, "
        "uint2 or ternary, got "
    )
    for dtype, text in (("float32", "float32"), (None, "None")):
        with pytest.raises(TypeError) as caught:
            quant.QParams(1.0, 0, dtype)
        assert str(caught.value) == rule + text
    for dtype in ("int1", "binary"):
        with pytest.raises(mc.Error) as caught:
            quant.QParams(1.0, 0, dtype)
        assert str(caught.value) == rule + dtype


@pytest.mark.parametrize("powers", [0, 1, 4, 15, 100])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), [((5, 7, 3), 1), ((4, 70), 0), ((70000,), None)])
def test_codes_come_back_as_fake_quantization_bit_for_bit(shape, axis, dtype, powers):
    spread = 2.0 ** -np.random.default_rng(1).integers(0, 40, shape)
    x = torch.from_numpy(values(shape) * spread).to(getattr(torch, dtype))
    some = np.float32(0.3) * (1 + np.arange(shape[axis or 0]) % 7).astype(np.float32)
    scale = np.float32(0.7) if axis is None else some
    q = quant.quantize_levels(x, scale, powers, axis)
    assert (q.dtype, q.shape) == (torch.int8, x.shape)
    out = torch.empty_like(x)
    assert quant.dequantize_levels(q, scale, axis, out) is out
    fake = quant.fake_quantize_levels(x, scale, powers, axis)
    as_bits = (
        torch.int64 if dtype == "float64" else torch.int32 if dtype == "float32" else torch.int16
    )
    assert torch.equal(out.view(as_bits), fake.view(as_bits))
    # The code itself: sign and exponent of the level.
    wide = np.broadcast_to(reference.along(scale, len(shape), axis), shape).astype(np.float64)
    codes = q.numpy().astype(np.int64)
    if powers == 0:
        assert np.array_equal(codes, np.where(x.double().numpy() < 0, -1, 1))
    else:
        assert np.abs(codes).max() <= powers
        ratio = np.abs(quant.fake_quantize_levels(x.double(), scale, powers, axis).numpy()) / wide
        expected = np.where(ratio > 0, 1 - np.log2(np.where(ratio > 0, ratio, 1)), 0)
        assert np.array_equal(codes, np.rint(expected) * np.sign(x.double().numpy()))
    strided = quant.quantize_levels(x.flip(0), scale if axis != 0 else scale[::-1].copy(), powers,
                                    axis)  # fmt: skip
    assert torch.equal(strided.flip(0), q)


def test_codes_of_numpy_default_to_float32_and_round_trip():
    codes = np.array([[0, 1, -1], [3, -7, 100]], np.int8)
    levels = quant.dequantize_levels(codes, [2.0, 4.0], axis=0)
    assert levels.dtype == np.float32
    assert np.array_equal(levels, np.float32([[0, 2, -2], [1, -(2.0**-4), 2.0**-97]]))
    assert np.array_equal(quant.quantize_levels(levels, [2.0, 4.0], 100, 0), codes)
    assert quant.dequantize_levels(codes.T, 2.0).shape == (3, 2)
    assert quant.quantize_levels(np.zeros((0, 3), np.float32), 1.0).shape == (0, 3)


X = np.ones(4, np.float32)
Q = np.ones(4, np.int8)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: quant.quantize_levels(X * np.nan, 1.0), mc.NonFiniteError,
         "[quant.quantize_levels] x must hold no NaN"),
        (lambda: quant.quantize_levels(Q, 1.0), TypeError,
         "[quant.quantize_levels] x must be float64, float32, float16 or bfloat16, got int8"),
        (lambda: quant.quantize_levels(X, 1.0, 101), ValueError,
         "[quant.quantize_levels] powers must be in [0, 100], got 101"),
        (lambda: quant.quantize_levels(X, [1.0, 2.0]), ValueError,
         "[quant.quantize_levels] scale must be one number where axis is None, got 2"),
        (lambda: quant.quantize_levels(X, [1.0, 2.0], 3, 0), ValueError,
         "[quant.quantize_levels] scale must have 4 elements, the extent of axis 0, got 2"),
        (lambda: quant.quantize_levels(X, 0.0), ValueError,
         "[quant.quantize_levels] scale must be finite and > 0, got 0"),
        (lambda: quant.dequantize_levels(X, 1.0), TypeError,
         "[quant.dequantize_levels] q must be int8, got float32"),
        (lambda: quant.dequantize_levels(Q * 101, 1.0), ValueError,
         "[quant.dequantize_levels] q must be in [-100, 100], got a code beyond"),
        (lambda: quant.dequantize_levels(Q, 1.0, None, np.zeros(4, np.int8)), TypeError,
         "[quant.dequantize_levels] out must be float64, float32, float16 or bfloat16, got int8"),
    ],
)  # fmt: skip
def test_bad_codes_are_named(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
