# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import moptcore as mc
import numpy as np
import pytest
import torch
from moptcore import quant

DTYPES = ["float64", "float32", "float16", "bfloat16"]


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def levels_of(scale, powers):
    if powers == 0:
        return np.array([-scale, scale])
    steps = scale * 2.0 ** -np.arange(powers)
    return np.concatenate([-steps, [0.0], steps[::-1]])


@pytest.mark.parametrize("powers", [0, 1, 3, 7, 15])
@pytest.mark.parametrize("scale", [1.0, 0.3, 2.0**-20])
def test_every_value_becomes_its_nearest_level(powers, scale):
    scale = np.float32(scale)
    levels = levels_of(scale, powers).astype(np.float32)
    ties = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    near = [np.nextafter(ties, s) for s in (np.inf, -np.inf)]
    x = np.concatenate([levels, *near, weights(500) * scale * 2, [0.0, -0.0, np.inf, -np.inf]])
    y = quant.fake_quantize_levels(x, scale, powers)
    assert set(y) <= set(levels.astype(np.float64))
    finite = np.isfinite(x)
    least = np.min(np.abs(x[finite, None] - levels), axis=1)
    assert np.array_equal(np.abs(x - y)[finite], least)
    assert np.array_equal(y[-2:], [scale, -scale])
    assert not np.any(np.signbit(y) & (y == 0))
    outer = quant.fake_quantize_levels(ties, scale, powers)
    assert np.all(np.abs(outer) >= np.abs(ties))
    if powers == 0:
        assert np.array_equal(quant.fake_quantize_levels(np.array([0.0, -0.0]), scale), [scale] * 2)


@pytest.mark.parametrize("powers", [0, 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((5, 7, 3), 1), ((4, 70), 0), ((70000,), None)])
def test_levels_along_an_axis_and_what_passes(shape, axis, dtype, powers):
    x = torch.from_numpy(2 * weights(shape)).to(getattr(torch, dtype))
    # Levels that every dtype holds.
    some = np.float32(0.25) * (1 + np.arange(shape[axis or 0]) % 7).astype(np.float32)
    scale = np.float32(0.5) if axis is None else some
    bits = np.full((x.numel() + 7) // 8, 255, np.uint8)
    y = quant.fake_quantize_levels(x, scale, powers, axis, None, bits)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == x.dtype
    spread = np.moveaxis(np.broadcast_to(scale, [*np.delete(shape, axis or 0), *scale.shape[:1]]),
                         -1, axis) if axis is not None else np.full(shape, scale)  # fmt: skip
    wide = x.double().numpy()
    inside = np.abs(wide) <= spread * (1.5 if powers else 2.0)
    assert np.array_equal(bits, np.packbits(inside.ravel(), bitorder="little"))
    best = np.min(np.abs(wide[..., None] - np.stack(
        [levels_of(s, powers) for s in spread.ravel()]).reshape(*shape, -1)), -1)  # fmt: skip
    assert np.array_equal(np.abs(wide - y.double().numpy()), best)
    turned = quant.fake_quantize_levels(x.t() if x.dim() == 2 else x, scale, powers,
                                        1 - axis if x.dim() == 2 else axis)  # fmt: skip
    assert torch.equal(turned.t() if x.dim() == 2 else turned, y)


def squared_error(x, scale, levels):
    return np.min((x[:, None] - scale * np.asarray(levels, np.float64)) ** 2, axis=1).sum()


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_scales_have_the_least_squared_error_of_all_assignments(n):
    for seed in range(5):
        x = weights(n, seed).astype(np.float64)
        binary = quant.level_scale(x, "binary")
        # The scale of given signs is a projection; the best signs are those of x.
        assert binary == pytest.approx(np.abs(x).mean(), rel=1e-6)
        signs = [np.array(a, float) for a in itertools.product([-1, 0, 1], repeat=n) if any(a)]
        least = min(squared_error(x, abs(x @ a) / (a @ a), [-1, 0, 1]) for a in signs)
        best = squared_error(x, quant.level_scale(x, "ternary"), [-1, 0, 1])
        # The scale is a float32: an error of 2^-24 of it changes the sum by its square only.
        assert best <= least * (1 + 1e-6) + 1e-12 * (x @ x)


def test_the_ternary_optimum_is_a_grid_and_twn_is_near_to_it():
    x = weights(20000)
    scales = {rule: quant.level_scale(x, rule) for rule in ("ternary", "twn")}
    threshold = 0.7 * np.abs(x.astype(np.float64)).mean()
    mean = np.abs(x[np.abs(x) > threshold].astype(np.float64)).mean()
    assert scales["twn"] == pytest.approx(mean, rel=1e-6)
    errors = {}
    for rule, scale in scales.items():
        qp = quant.QParams(scale, 0, "int8", None, -1, 1)
        q = quant.quantize(x, qp)
        assert set(np.unique(q)) == {-1, 0, 1}
        errors[rule] = np.mean((quant.dequantize(q, qp) - x) ** 2)
    assert errors["ternary"] <= errors["twn"] <= 1.02 * errors["ternary"]


def test_scales_of_channels_are_scales_of_each():
    x = weights((3, 50, 4))
    for rule in ("binary", "ternary", "twn"):
        scales = quant.level_scale(x, rule, axis=1)
        alone = [quant.level_scale(x[:, c], rule) for c in range(50)]
        assert np.array_equal(scales, np.array(alone, np.float32))
        assert quant.level_scale(np.zeros(4, np.float32), rule) == 1.0


@pytest.mark.parametrize("target", ["float16", "bfloat16"])
@pytest.mark.parametrize("source", DTYPES)
def test_casts_round_once_half_to_even(source, target):
    top = 65504.0 if target == "float16" else 3.3895e38
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.standard_normal(5000) * 10.0 ** rng.integers(-9, 4, 5000))
    x = torch.cat([x, torch.tensor([0.0, -0.0, top, -top, 1e-45])]).to(getattr(torch, source))
    x = x[x.isfinite() & (x.abs().double() <= top)]
    y = quant.cast(x, target)
    assert y.dtype == getattr(torch, target)
    # The nearest of the two neighbours of a rounded value, in double.
    rounded = x.to(y.dtype)
    wide = x.double()
    assert torch.all((y.double() - wide).abs() <= (rounded.double() - wide).abs())
    if source != "float64":
        assert torch.equal(y, rounded)
    out = torch.empty_like(y)
    assert quant.cast(x, target, out=out) is out
    assert torch.equal(out, y)
    assert torch.equal(quant.cast(x.flip(0), target), y.flip(0))


def test_a_double_is_rounded_once_where_two_roundings_would_go_the_other_way():
    # Just above the tie between 1 and the next float16, but a tie once it is a float32.
    x = np.array([1 + 2.0**-11 + 2.0**-30, -(1 + 2.0**-11 + 2.0**-30), 1 + 2.0**-11])
    y = quant.cast(x, "float16")
    up = np.float16(1 + 2.0**-10)
    assert np.array_equal(y, np.array([up, -up, 1], np.float16))
    assert np.array_equal(x.astype(np.float32).astype(np.float16), np.array([1, -1, 1], np.float16))


def test_overflow_is_an_error_saturates_or_is_infinite():
    edge = np.array([65519.996, -65519.996], np.float32)
    assert np.array_equal(quant.cast(edge, "float16"), np.array([65504, -65504], np.float16))
    x = np.array([1.0, 65520.0, -1e30], np.float32)
    out = np.full(3, 7, np.float16)
    with pytest.raises(
        mc.NonFiniteError, match=r"\[quant.cast\] x must be finite and in the range"
    ):
        quant.cast(x, "float16", out)
    assert np.array_equal(out, [7, 7, 7])
    quant.cast(x, "float16", out, overflow="saturate")
    assert np.array_equal(out, [1, 65504, -65504])
    quant.cast(x, "float16", out, overflow="infinity")
    assert np.array_equal(out, [1, np.inf, -np.inf])
    special = np.array([np.nan, np.inf, -np.inf], np.float32)
    with pytest.raises(mc.NonFiniteError):
        quant.cast(special, "float16")
    kept = quant.cast(special, "float16", overflow="saturate")
    assert np.array_equal(kept, special.astype(np.float16), equal_nan=True)


X = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: quant.cast(X, "float32"), TypeError,
         "[quant.cast] dtype must be float16 or bfloat16, got float32"),
        (lambda: quant.cast(X, "float8"), ValueError,
         "[quant.cast] dtype must be float16 or bfloat16, got float8"),
        (lambda: quant.cast(X, None), TypeError,
         "[quant.cast] dtype must be float16 or bfloat16, got None"),
        (lambda: quant.cast(X.astype(np.int8), "float16"), TypeError,
         "[quant.cast] x must be float64, float32, float16 or bfloat16, got int8"),
        (lambda: quant.cast(X, "float16", overflow="wrap"), ValueError,
         '[quant.cast] overflow must be "error", "saturate" or "infinity", got wrap'),
        (lambda: quant.level_scale(X, "quaternary"), ValueError,
         '[quant.level_scale] levels must be "binary", "ternary" or "twn", got quaternary'),
        (lambda: quant.level_scale(X[:0]), ValueError,
         "[quant.level_scale] x must have at least one element, got 0"),
        (lambda: quant.level_scale(X * np.nan), mc.NonFiniteError,
         "[quant.level_scale] x must be finite, got NaN or infinity"),
        (lambda: quant.fake_quantize_levels(X * np.nan, 1.0), mc.NonFiniteError,
         "[quant.fake_quantize_levels] x must hold no NaN"),
        (lambda: quant.fake_quantize_levels(X, 1.0, 101), ValueError,
         "[quant.fake_quantize_levels] powers must be in [0, 100], got 101"),
        (lambda: quant.fake_quantize_levels(X, [1.0, 2.0]), ValueError,
         "[quant.fake_quantize_levels] scale must be one number where axis is None, got 2"),
        (lambda: quant.fake_quantize_levels(X, -1.0), ValueError,
         "[quant.fake_quantize_levels] scale must be finite and > 0, got -1"),
        (lambda: quant.fake_quantize_levels(X, [1.0, 2.0], axis=0), ValueError,
         "[quant.fake_quantize_levels] scale must have 4 elements, the extent of axis 0, got 2"),
    ],
)  # fmt: skip
def test_bad_levels_are_named(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
