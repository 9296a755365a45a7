# SPDX-License-Identifier: Apache-2.0
"""Rounding of weights by the error of the outputs, against formulas, searches and each other."""

from __future__ import annotations

import itertools

import moptcore as mc
import numpy as np
import pytest
import torch
from moptcore import quant


def layer(out, n, samples=512, seed=0):
    """Weights with outliers and correlated inputs of unlike size."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((n, n)) * np.exp(-4 * np.arange(n) / n)[:, None]
    x = rng.standard_normal((samples, n)) @ mix * np.exp(rng.standard_normal(n))
    w = rng.standard_normal((out, n)) * rng.standard_t(5, (out, n)) * 0.02
    return w.astype(np.float32), x


def outputs_error(w, other, x):
    return float((((w.astype(np.float64) - other) @ x.T) ** 2).sum())


def real(q, qp):
    return quant.dequantize(q, qp, packed=False).astype(np.float64)


def slow_gptq(w, h, qp, damping, held=None):
    """The paper's recursion on inverses: quantize a column, update the rest, drop the column."""
    w = w.astype(np.float64).copy()
    held = np.zeros(w.shape, bool) if held is None else held
    h = h + damping * np.mean(np.diag(h)) * np.eye(len(h))
    scale = qp.scale.astype(np.float64)
    inverse = np.linalg.inv(h)
    q = np.zeros(w.shape)
    for j in range(w.shape[1]):
        q[:, j] = np.clip(np.rint(w[:, j] / scale), qp.qmin, qp.qmax)
        q[held[:, j], j] = 0
        error = (w[:, j] - q[:, j] * scale) / inverse[0, 0]
        w[:, j:] -= np.outer(error, inverse[0])
        inverse = inverse[1:, 1:] - np.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
    return q


def row_grids(w, dtype="int4"):
    return quant.qparams_from_range(w.min(1), w.max(1), dtype, True, axis=0)


def test_reconstruction_error_is_the_squared_error_of_the_outputs():
    w, x = layer(37, 70)
    other = w + np.float32(0.01)
    h = x.T @ x
    expected = outputs_error(w, other, x)
    # Sums of 70 * 70 products in double.
    assert abs(quant.reconstruction_error(w, other, h) / expected - 1) <= 1e-10
    diagonal = float((((w - other).astype(np.float64) ** 2) * np.diag(h)).sum())
    got = quant.reconstruction_error(w, other, np.diag(h).copy())
    assert abs(got / diagonal - 1) <= 1e-6  # w - other is exact in double, rounded in float here


@pytest.mark.parametrize("block_size", [1, 7, 128])
@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_gptq_is_the_recursion_of_its_paper(block_size, damping):
    w, x = layer(20, 150)
    h = x.T @ x
    qp = row_grids(w)
    q, same = quant.gptq(w, h, qparams=qp, damping=damping, block_size=block_size)
    assert same == qp
    assert q.dtype == np.int8
    # The weights between are rounded to float before their integer is found: ties may part ways,
    # and after one the rest of the row follows.
    rows = np.any(q != slow_gptq(w, h, qp, damping), axis=1)
    assert rows.sum() <= 1


@pytest.mark.parametrize("block_size", [1, 7, 128])
def test_gptq_holds_zeros_and_makes_up_for_them(block_size):
    w, x = layer(20, 150)
    w[np.abs(w) < np.median(np.abs(w))] = 0.0
    h = x.T @ x
    qp = row_grids(w)
    q, _ = quant.gptq(w, h, qparams=qp, damping=0.3, block_size=block_size, preserve_zeros=True)
    assert not q[w == 0.0].any()
    # Ties as above.
    assert np.any(q != slow_gptq(w, h, qp, 0.3, w == 0.0), axis=1).sum() <= 1
    free, _ = quant.gptq(w, h, qparams=qp, damping=0.3, block_size=block_size)
    assert free[w == 0.0].any()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("order", ["none", "activation"])
def test_zeros_held_on_every_grid_still_lower_the_error(symmetric, group_size, order):
    w, x = layer(24, 96, seed=4)
    w[np.abs(w) < np.median(np.abs(w))] = 0.0
    zeros = w == 0.0
    h = x.T @ x
    dtype = "int4" if symmetric else "uint4"
    nearest = quant.group_qparams(w, group_size or 96, 1, dtype, symmetric)
    plain = outputs_error(w, real(quant.quantize(w, nearest, packed=False), nearest), x)
    q, qp = quant.gptq(w, h, dtype, group_size, symmetric, order=order, preserve_zeros=True)
    assert not real(q, qp)[zeros].any()
    assert outputs_error(w, real(q, qp), x) < 0.8 * plain
    q = quant.adaround(w, h, nearest, 100, preserve_zeros=True)
    assert not real(q, nearest)[zeros].any()
    assert outputs_error(w, real(q, nearest), x) < 0.8 * plain
    assert real(quant.adaround(w, h, nearest, 100), nearest)[zeros].any()


def test_gptq_of_uncorrelated_inputs_is_rounding_to_the_nearest():
    w, _ = layer(9, 64)
    h = np.diag(np.random.default_rng(1).uniform(0.1, 2.0, 64))
    for symmetric, dtype in [(True, "int4"), (False, "uint4"), (True, "int8")]:
        q, qp = quant.gptq(w, h, dtype, 16, symmetric)
        expected = quant.group_qparams(w, 16, 1, dtype, symmetric)
        assert qp == expected
        assert np.array_equal(q, quant.quantize(w, expected, packed=False))
        q, qp = quant.gptq(w, h, dtype, 16, symmetric, order="activation")
        assert qp == expected
        assert np.array_equal(q, quant.quantize(w, expected, packed=False))


@pytest.mark.parametrize("group_size", [None, 32, 48])
@pytest.mark.parametrize("order", ["none", "activation"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_lowers_the_error_of_the_outputs(group_size, order, symmetric):
    w, x = layer(48, 160, seed=2)
    dtype = "int4" if symmetric else "uint4"
    q, qp = quant.gptq(w, x.T @ x, dtype, group_size, symmetric, order=order)
    nearest = quant.group_qparams(w, group_size or 160, 1, dtype, symmetric)
    plain = real(quant.quantize(w, nearest, packed=False), nearest)
    assert outputs_error(w, real(q, qp), x) < 0.6 * outputs_error(w, plain, x)


def test_gptq_takes_inputs_that_never_occur_and_refuses_what_is_no_hessian():
    w, x = layer(5, 12)
    x[:, 3] = 0
    qp = row_grids(w)
    q, _ = quant.gptq(w, x.T @ x, qparams=qp, damping=0.0)
    assert np.array_equal(q[:, 3], quant.quantize(w, qp, packed=False)[:, 3])
    zero, _ = quant.gptq(w, np.zeros((12, 12)), qparams=qp)
    assert np.array_equal(zero, quant.quantize(w, qp, packed=False))
    with pytest.raises(mc.Error, match="hessian must be positive definite with this damping"):
        quant.gptq(w, np.ones((12, 12)) + 0.5 * np.eye(12)[::-1], qparams=qp, damping=0.0)


def test_rounding_against_every_choice_of_up_and_down():
    """8 weights a row: all 256 ways to round each row tell the optimum."""
    found = {"nearest": 0.0, "gptq": 0.0, "adaround": 0.0, "descent": 0.0}
    best_total = 0.0
    for seed in range(12):
        w, x = layer(4, 8, 64, seed)
        h = x.T @ x
        qp = row_grids(w)
        scale = qp.scale[:, None].astype(np.float64)

        def rows(q, w=w, h=h, scale=scale):
            e = w - q * scale
            return np.einsum("ri,ij,rj->r", e, h, e)

        low = np.clip(np.floor(w / scale), qp.qmin, qp.qmax)
        best = np.full(4, np.inf)
        for bits in itertools.product([0, 1], repeat=8):
            best = np.minimum(best, rows(np.clip(low + bits, qp.qmin, qp.qmax)))
        nearest = rows(quant.quantize(w, qp, packed=False))
        learned = quant.adaround(w, h, qp)
        assert np.all((learned == low) | (learned == np.clip(low + 1, qp.qmin, qp.qmax)))
        # Sums of 64 products in double may differ by their rounding.
        slack = 1e-9 * nearest
        assert np.all(rows(learned) <= nearest + slack)
        assert np.all(rows(learned) >= best - slack)
        descent = quant.adaround(w, h, qp, iterations=0)
        found["nearest"] += nearest.sum()
        found["gptq"] += rows(quant.gptq(w, h, qparams=qp)[0]).sum()
        found["adaround"] += rows(learned).sum()
        found["descent"] += rows(descent).sum()
        best_total += best.sum()
    assert found["gptq"] < found["nearest"]
    assert found["adaround"] <= found["descent"] <= found["nearest"]
    # Nearest is at several times the optimum; learned rounding stays close to it.
    assert found["nearest"] > 1.5 * best_total
    assert found["adaround"] < 1.25 * best_total


@pytest.mark.parametrize("symmetric", [True, False])
def test_adaround_lowers_the_error_of_the_outputs_on_groups(symmetric):
    w, x = layer(24, 96, seed=3)
    h = x.T @ x
    qp = quant.group_qparams(w, 32, 1, "int4" if symmetric else "uint4", symmetric)
    nearest = quant.quantize(w, qp, packed=False)
    q = quant.adaround(torch.tensor(w), torch.tensor(h), qp, iterations=200)
    assert isinstance(q, torch.Tensor)
    q = q.numpy()
    assert np.abs(q.astype(int) - nearest).max() <= 1
    assert outputs_error(w, real(q, qp), x) < 0.7 * outputs_error(w, real(nearest, qp), x)
    again = quant.adaround(w, 1024 * h, qp, iterations=200)
    assert np.array_equal(q, again)


def test_bits_do_not_depend_on_threads():
    w, x = layer(70, 130, seed=4)
    h = x.T @ x
    qp = row_grids(w)
    mean = np.abs(x).mean(0)

    def run():
        q, found = quant.gptq(w, h, "int4", 32)
        scales, exponent = quant.awq_scales(w, mean, h, "int4", 32)
        hqq = quant.hqq(w, "uint4", 32)
        return [q, found.scale, quant.adaround(w, h, qp, 20), scales, np.float64(exponent), *hqq]

    threads = mc.get_num_threads()
    try:
        mc.set_num_threads(1)
        one = run()
        mc.set_num_threads(3)
        three = run()
    finally:
        mc.set_num_threads(threads)
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes()
               for a, b in zip(one, three, strict=True))  # fmt: skip


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [None, 32, 50])
def test_hqq_lowers_the_norm_that_it_is_for(symmetric, group_size):
    w, _ = layer(30, 128, seed=5)
    size = group_size or 128
    dtype = "int4" if symmetric else "uint4"

    def norm(approximation):
        return float((np.abs(w - approximation) ** 0.7).sum())

    nearest = quant.group_qparams(w, size, 1, dtype, symmetric)
    plain = norm(real(quant.quantize(w, nearest, packed=False), nearest))

    def approximation(q, scale, zero):
        scale, zero = (np.repeat(v.reshape(30, -1), size, 1)[:, :128] for v in (scale, zero))
        return (q - zero.astype(np.float64)) * scale

    q, scale, zero = quant.hqq(w, dtype, group_size, symmetric)
    assert scale.shape == ((30,) if group_size is None else (30, -(-128 // size)))
    assert norm(approximation(q, scale, zero)) < 0.99 * plain
    assert not symmetric or not zero.any()
    q, scale, zero = quant.hqq(w, dtype, group_size, symmetric, integer_zero=True)
    assert np.array_equal(zero, np.rint(zero))
    # Rounding x / scale + zero or x / scale differs at ties of float only.
    assert norm(approximation(q, scale, zero)) <= plain * (1 + 1e-6)
    none = quant.hqq(w, dtype, group_size, symmetric, iterations=0)
    assert np.array_equal(np.ravel(none[1]), np.ravel(nearest.scale))
    # Independent of the unit: 1/16 of the weights, 1/16 of the scales.
    small = quant.hqq(w / np.float32(16), dtype, group_size, symmetric, integer_zero=True)
    assert np.array_equal(small[0], q)
    assert np.array_equal(small[1] * 16, scale)


def test_hqq_finds_the_mean_shift_by_its_closed_form():
    """One iteration with nothing split off: the zero moves by the mean error in steps."""
    w = np.float32([[0.1, 0.4, 0.9, 1.3, 2.0, 15.0]])
    scale, start = 1.0, 0.0
    assert quant.group_qparams(w, 6, 1, "uint4", False).scale.item() == scale
    e = w / scale + start - np.rint(w)
    q, s, zero = quant.hqq(w, "uint4", None, norm=1.0, beta=1e-3, iterations=1)
    shifted = np.float32(start - e.astype(np.float64).mean())
    keeps = np.abs(w + shifted - np.clip(np.rint(w + shifted), 0, 15)).sum() < np.abs(e).sum()
    assert s.item() == scale
    assert abs(zero.item() - (shifted if keeps else start)) <= 2.0**-24
    assert q.tolist() == np.clip(np.rint(w + zero), 0, 15).astype(int).tolist()


@pytest.mark.parametrize("full", [True, False])
def test_awq_picks_the_best_of_its_grid(full):
    w, x = layer(32, 64, seed=6)
    h = x.T @ x
    mean = np.abs(x).mean(0)
    hessian = h if full else np.diag(h).copy()
    errors = {}
    for i in range(11):
        s = np.maximum(mean ** (i / 10), 1e-4)
        s = np.float32(s / np.sqrt(s.max() * s.min())) if i else np.ones(64, np.float32)
        scaled = (w.astype(np.float64) * s).astype(np.float32)
        qp = quant.group_qparams(scaled, 16)
        back = real(quant.quantize(scaled, qp, packed=False), qp) / s
        errors[i / 10] = (quant.reconstruction_error(w, back, hessian), s)
    scales, exponent = quant.awq_scales(w, mean, hessian, "int4", 16, steps=10)
    best = min(errors, key=lambda a: errors[a][0])
    assert exponent == best
    assert 0 < best < 1
    # pow of NumPy and of the C library, each within an ulp or two.
    np.testing.assert_allclose(scales, errors[best][1], rtol=2.0**-22)


def test_smoothquant_scales_follow_their_formula():
    rng = np.random.default_rng(7)
    x = rng.uniform(0.1, 50, 12)
    w1, w2 = rng.standard_normal((5, 12)), rng.standard_normal((7, 4, 3, 3))
    w2 = np.concatenate([w2] * 3)
    x[3] = 0
    top = np.maximum(np.abs(w1).max(0),
                     np.abs(w2.reshape(3, 7, 4, 9)).max((1, 3)).reshape(12))  # fmt: skip
    expected = np.where(x == 0, 1, x**0.7 / top**0.3)
    np.testing.assert_allclose(quant.smoothquant_scales(x, [w1, w2], 0.7), expected, rtol=1e-14)
    powers = quant.smoothquant_scales(x, [w1, w2], 0.7, power_of_two=True)
    np.testing.assert_array_equal(powers, np.exp2(np.rint(np.log2(expected))))
    np.testing.assert_allclose(
        quant.smoothquant_scales(x, w1), np.where(x == 0, 1, np.sqrt(x / np.abs(w1).max(0)))
    )


def chain():
    torch.manual_seed(0)
    modules = [
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, groups=8),
        torch.nn.ReLU(), torch.nn.Conv2d(16, 12, 1, bias=False), torch.nn.ReLU(),
        torch.nn.Conv2d(12, 6, 1, groups=3),
    ]  # fmt: skip
    with torch.no_grad():
        for module in modules[::2]:
            module.weight *= torch.exp(torch.randn(module.weight.shape[0], 1, 1, 1))
    return torch.nn.Sequential(*modules)


@pytest.mark.parametrize("power_of_two", [True, False])
def test_equalize_keeps_the_function_and_evens_the_ranges(power_of_two):
    model = chain()
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    layers = list(model)[::2]
    weights, biases = quant.equalize(
        [m.weight.detach() for m in layers],
        [None if m.bias is None else m.bias.detach() for m in layers],
        power_of_two=power_of_two, tolerance=1e-9, iterations=1000,
    )  # fmt: skip
    assert biases[2] is None
    for module, weight, bias in zip(layers, weights, biases, strict=True):
        assert weight.dtype == torch.float32
        module.weight.data = weight
        if bias is not None:
            module.bias.data = bias
    got = model(x)
    if power_of_two:
        assert torch.equal(got, expected)
    else:
        # Each of four layers adds up to 27 products, every factor rounded once more.
        assert (got - expected).abs().max() <= 4 * 64 * 2.0**-24 * expected.abs().max()
    for first, second in itertools.pairwise(weights):
        s = quant.cross_layer_scales(first, second)
        assert s.max() <= (2**0.5 * 1.001 if power_of_two else 1 + 1e-6)
        assert s.min() >= (0.5**0.5 / 1.001 if power_of_two else 1 - 1e-6)


def test_cross_layer_scales_follow_their_formula():
    rng = np.random.default_rng(8)
    first, second = rng.standard_normal((6, 4)), rng.standard_normal((5, 6))
    first[2] = 0
    second[:, 4] = 0
    expected = np.sqrt(np.abs(first).max(1) / np.where(np.abs(second).max(0) == 0, np.inf,
                                                       np.abs(second).max(0)))  # fmt: skip
    expected[[2, 4]] = 1
    np.testing.assert_allclose(quant.cross_layer_scales(first, second), expected, rtol=1e-14)


def test_bias_correction_restores_the_mean_of_the_outputs():
    torch.manual_seed(1)
    layer = torch.nn.Conv2d(8, 6, 3, groups=2, padding=1, padding_mode="circular").double()
    x = torch.randn(4, 8, 7, 7, dtype=torch.float64) + torch.arange(8).reshape(1, 8, 1, 1)
    expected = layer(x).mean((0, 2, 3))
    coarse = torch.round(layer.weight.detach() * 8) / 8
    correction = quant.bias_correction(layer.weight.detach(), coarse, x.mean((0, 2, 3)), groups=2)
    layer.weight.data = coarse
    assert (layer(x).mean((0, 2, 3)) - expected).abs().max() > 1e-3
    layer.bias.data += correction
    # Circular padding meets each kernel element with every position: the mean is exact.
    assert (layer(x).mean((0, 2, 3)) - expected).abs().max() <= 1e-12


W = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: quant.gptq(W[0], np.eye(3)), mc.Error, "[quant.gptq] weights must have two dim"),
        (lambda: quant.gptq(W, np.eye(2)), mc.Error, "hessian must have the shape (3, 3)"),
        (lambda: quant.gptq(W * np.nan, np.eye(3)), mc.NonFiniteError, "weights must be finite"),
        (lambda: quant.gptq(W, -np.eye(3)), mc.Error, "hessian must have no negative diagonal"),
        (lambda: quant.gptq(W, np.eye(3), damping=-1.0), mc.Error, "damping must be finite and"),
        (lambda: quant.gptq(W, np.eye(3), block_size=0), mc.Error, "block_size must be >= 1"),
        (lambda: quant.gptq(W, np.eye(3), order="best"), mc.Error, "order must be"),
        (lambda: quant.gptq(W, np.eye(3), "float32"), mc.DTypeError, "dtype must be int8"),
        (lambda: quant.gptq(W, np.eye(3), group_size=0), mc.Error, "group_size must be >= 1"),
        (lambda: quant.gptq(W, np.eye(3), qparams=quant.QParams([1.0] * 4, axis=0)), mc.Error,
         "qparams must have 2 scales, the extent of its axis, got 4"),
        (lambda: quant.adaround(W, np.eye(3), quant.QParams(1.0), -1), mc.Error,
         "[quant.adaround] iterations must be >= 0"),
        (lambda: quant.adaround(W, np.eye(3), quant.QParams(1.0), learning_rate=0.0), mc.Error,
         "learning_rate must be finite and > 0"),
        (lambda: quant.hqq(W, norm=0.0), mc.Error, "[quant.hqq] norm must be in (0, 1]"),
        (lambda: quant.hqq(W * np.inf), mc.NonFiniteError, "weights must be finite"),
        (lambda: quant.awq_scales(W, [-1.0, 1, 1], np.eye(3)), mc.Error,
         "activation_mean must be >= 0"),
        (lambda: quant.awq_scales(W, np.ones(3), np.eye(3), steps=0), mc.Error, "steps must be"),
        (lambda: quant.smoothquant_scales(np.ones(3), W, 1.5), mc.Error, "alpha must be in [0, 1]"),
        (lambda: quant.smoothquant_scales(np.ones(4), W), mc.Error,
         "weights must read the 4 channels of activation_max, got (2, 3)"),
        (lambda: quant.cross_layer_scales(W, W), mc.Error,
         "second must read the 2 channels that the layer before it gives, got (2, 3)"),
        (lambda: quant.equalize([W]), mc.Error, "weights must be of at least two layers, got 1"),
        (lambda: quant.equalize([W, W]), mc.Error, "weights[1] must read the 2 channels"),
        (lambda: quant.equalize(W), mc.DTypeError, "weights must be a list or tuple of arrays"),
        (lambda: quant.equalize([W, W.T], [None]), mc.Error, "biases must be as many as weights"),
        (lambda: quant.bias_correction(W, W, np.ones(2)), mc.Error, "mean must have the shape"),
        (lambda: quant.bias_correction(W, W, np.ones(9), groups=3), mc.Error,
         "groups must be >= 1 and divide the outputs 2, got 3"),
        (lambda: quant.reconstruction_error(W, W.T, np.eye(3)), mc.Error,
         "approximation must have the shape (2, 3)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, error, text):
    with pytest.raises(error) as info:
        call()
    assert text in str(info.value)
