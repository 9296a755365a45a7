# SPDX-License-Identifier: Apache-2.0
"""LSQ, LSQ+ and PACT against torch's autograd of the composite, and against torch's own op."""

from __future__ import annotations

import moptcore as mc
import numpy as np
import pytest
import torch
from moptcore import quant
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

CASES = [
    ((), None),
    ((1,), 0),
    ((5, 3), 1),
    ((4, 100), 0),
    ((3, 2, 40), 1),
    ((2000, 7), -1),
    ((3, 5000), 1),
    ((70000,), None),
    ((2, 3, 70000), 1),
]


class Round(torch.autograd.Function):
    """Half to even forward, the identity backward."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def composite(x, scale, zero_point, offset, qmin, qmax, axis):
    """LSQ by its formula; torch differentiates it."""
    if axis is not None:
        shape = [1] * x.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
        zero_point = None if zero_point is None else zero_point.reshape(shape)
        offset = None if offset is None else offset.reshape(shape)
    if offset is not None:
        return torch.clamp(Round.apply((x - offset) / scale), qmin, qmax) * scale + offset
    if zero_point is None:
        return torch.clamp(Round.apply(x / scale), qmin, qmax) * scale
    # Clamped, but for the gradient: a zero point beyond the range must be able to come back.
    whole = torch.clamp(torch.round(zero_point), qmin, qmax)
    zero = whole + (zero_point - zero_point.detach())
    return (torch.clamp(Round.apply(x / scale) + zero, qmin, qmax) - zero) * scale


def operands(shape, axis, seed=0):
    rng = np.random.default_rng(seed)
    count = () if axis is None else (shape[axis],)
    x = rng.standard_normal(shape)
    return {
        "x": x,
        "grad": rng.standard_normal(shape),
        "scale": rng.uniform(0.05, 0.3, count),
        "zero_point": rng.uniform(-9.0, 9.0, count),
        "offset": rng.uniform(-0.5, 0.5, count),
    }


@pytest.mark.parametrize("kind", ["scale", "zero_point", "offset"])
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_lsq_is_the_composite_and_its_derivative(shape, axis, kind):
    data = operands(shape, axis)
    qmin, qmax = -8, 7
    shift = {} if kind == "scale" else {kind: data[kind]}
    tensors = {
        name: torch.tensor(data[name], requires_grad=True) for name in ["x", "scale", *shift]
    }
    expected = composite(
        tensors["x"], tensors["scale"], tensors.get("zero_point"), tensors.get("offset"), qmin,
        qmax, axis,
    )  # fmt: skip
    expected.backward(torch.tensor(data["grad"]))
    y = quant.lsq(data["x"], data["scale"], **shift, qmin=qmin, qmax=qmax, axis=axis)
    # Two roundings on each way; values stay below 4.
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=4 * 2.0**-52)
    got = quant.lsq_backward(
        data["grad"], data["x"], data["scale"], **shift, qmin=qmin, qmax=qmax, axis=axis,
        grad_scale=1.0,
    )  # fmt: skip
    assert len(got) == 2 + len(shift)
    # Autograd multiplies by the scale and divides by it.
    np.testing.assert_allclose(got[0], tensors["x"].grad.numpy(), rtol=2 * 2.0**-52, atol=0)
    # Terms are below 64; a sum of n of them is off by less than n roundings of it, and rint(v) - v
    # by one rounding of v < 64 each.
    bound = max(np.size(data["x"]), 1) * 64 * 2.0**-52 * 8
    for name, mine in zip(["scale", *shift], got[1:], strict=True):
        assert mine.shape == data[name].shape
        np.testing.assert_allclose(mine, tensors[name].grad.numpy(), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_lsq_with_a_zero_point_is_fake_quantize(dtype, axis):
    data = operands((60, 90), axis, 1)
    x = torch.tensor(data["x"], dtype=getattr(torch, dtype))
    scale = data["scale"].astype(np.float32)
    zero = np.rint(data["zero_point"])
    zero_point = np.clip(zero, -8, 7)
    grid = quant.QParams(scale, zero_point.astype(np.int32), "int4", axis)
    y = quant.lsq(x, scale, zero_point=zero_point, qmin=-8, qmax=7, axis=axis)
    assert torch.equal(y, quant.fake_quantize(x, grid))
    bits = np.zeros((x.numel() + 7) // 8, np.uint8)
    quant.fake_quantize(x, grid, bits=bits)
    grad = torch.tensor(data["grad"], dtype=x.dtype)
    dx, *_ = quant.lsq_backward(grad, x, scale, zero_point=zero_point, qmin=-8, qmax=7, axis=axis)
    assert torch.equal(dx, quant.fake_quantize_backward(grad, bits))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_lsq_agrees_with_torch_s_learnable_op_where_both_round_alike(axis):
    data = operands((64, 48), axis, 2)
    # With a power of two torch's x * (1 / scale) is x / scale; even zero points round ties alike.
    scale = np.exp2(np.rint(np.log2(data["scale"]))).astype(np.float32)
    zero = (2 * np.rint(data["zero_point"] / 4)).astype(np.float32)
    x, grad = data["x"].astype(np.float32), data["grad"].astype(np.float32)
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, np.atleast_1d(scale),
                                                              np.atleast_1d(zero))]  # fmt: skip
    if axis is None:
        y = torch._fake_quantize_learnable_per_tensor_affine(*tensors, -8, 7, 0.125)
    else:
        y = torch._fake_quantize_learnable_per_channel_affine(*tensors, axis, -8, 7, 0.125)
    y.backward(torch.tensor(grad))
    assert np.array_equal(
        quant.lsq(x, scale, zero_point=zero, qmin=-8, qmax=7, axis=axis), y.detach().numpy()
    )
    dx, dscale, dzero = quant.lsq_backward(
        grad, x, scale, zero_point=zero, qmin=-8, qmax=7, axis=axis, grad_scale=0.125
    )
    assert np.array_equal(dx, tensors[0].grad.numpy())
    # torch adds up to 3072 terms below 64 in float.
    bound = 3072 * 64 * 2.0**-24
    assert np.abs(np.ravel(dscale) - tensors[1].grad.numpy()).max() <= bound
    assert np.abs(np.ravel(dzero) - tensors[2].grad.numpy()).max() <= bound


def test_torch_rounds_a_zero_point_otherwise_backward_than_forward():
    """Per tensor, torch's backward truncates zero_point + 0.5: 2.5 is 2 on the way there, 3 back.

    The derivative of the saturated value (qmin - zero) * scale by the scale tells which was used.
    """
    x = torch.tensor([-100.0])
    scale = torch.tensor([1.0], requires_grad=True)
    zero = torch.tensor([2.5], requires_grad=True)
    y = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, -8, 7, 1.0)
    y.backward(torch.ones(1))
    assert y.item() == -8.0 - 2.0
    assert scale.grad.item() == -8.0 - 3.0
    ours = quant.lsq(x.numpy(), np.float32(1), zero_point=np.float32(2.5), qmin=-8, qmax=7)
    _, dscale, _ = quant.lsq_backward(
        np.ones(1, np.float32), x.numpy(), np.float32(1), zero_point=np.float32(2.5), qmin=-8,
        qmax=7, grad_scale=1.0,
    )  # fmt: skip
    assert ours.item() == -10.0
    assert dscale == -10.0
    # Per channel torch's backward rounds alike.
    grids = [torch.cat([t.detach(), t.detach()]).requires_grad_(True) for t in (scale, zero)]
    y = torch._fake_quantize_learnable_per_channel_affine(x.repeat(2, 1), *grids, 0, -8, 7, 1.0)
    y.backward(torch.ones(2, 1))
    assert grids[0].grad.tolist() == [-10.0, -10.0]


def test_torch_rounds_ties_after_adding_the_zero_point_backward_only():
    """x = 0.5 steps, zero point 7 of [-8, 7]: forward rint(0.5) + 7, backward rint(7.5)."""
    x = torch.tensor([0.5], requires_grad=True)
    one = torch.tensor([1.0], requires_grad=True)
    zero = torch.tensor([7.0], requires_grad=True)
    y = torch._fake_quantize_learnable_per_tensor_affine(x, one, zero, -8, 7, 1.0)
    y.backward(torch.ones(1))
    assert y.item() == 0.0
    assert x.grad.item() == 0.0
    dx, dscale, dzero = quant.lsq_backward(
        np.ones(1, np.float32), np.float32([0.5]), np.float32(1), zero_point=np.float32(7),
        qmin=-8, qmax=7, grad_scale=1.0,
    )  # fmt: skip
    assert dx.item() == 1.0
    assert dscale == -0.5
    assert dzero == 0.0


def test_the_default_gradient_scale_counts_the_elements_that_share_a_scale():
    """LSQ section 2.2: 1 / sqrt(n qmax). torch counts the whole tensor also along an axis."""
    data = operands((6, 50), 0, 3)
    plain = quant.lsq_backward(
        data["grad"], data["x"], data["scale"], qmin=-8, qmax=7, axis=0, grad_scale=1.0
    )
    scaled = quant.lsq_backward(data["grad"], data["x"], data["scale"], qmin=-8, qmax=7, axis=0)
    np.testing.assert_allclose(scaled[1], plain[1] / np.sqrt(50 * 7), rtol=4 * 2.0**-52)
    # torch.ao takes this factor of the whole tensor for every channel.
    module = _LearnableFakeQuantize(
        observer=torch.ao.quantization.MovingAveragePerChannelMinMaxObserver, quant_min=-8,
        quant_max=7, scale=1.0, zero_point=0.0, channel_len=6, use_grad_scaling=True,
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, ch_axis=0,
    )  # fmt: skip
    module.scale.data = torch.tensor(data["scale"], dtype=torch.float32)
    module.enable_param_learning()
    module(torch.tensor(data["x"], dtype=torch.float32)).backward(
        torch.tensor(data["grad"], dtype=torch.float32)
    )
    # float32 sums of 50 terms below 16, over a divisor above 45.
    bound = 50 * 16 * 2.0**-24
    expected = plain[1] / np.sqrt(300 * 7)
    assert np.abs(module.scale.grad.numpy() - expected).max() <= bound


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_pact_is_the_composite_and_its_derivative(shape, axis):
    data = operands(shape, axis, 4)
    alpha = torch.tensor(data["scale"] * 5, requires_grad=True)
    x = torch.tensor(data["x"], requires_grad=True)
    view = alpha if axis is None else alpha.reshape([-1 if i == axis % x.ndim else 1
                                                     for i in range(x.ndim)])  # fmt: skip
    step = view / 15
    clipped = torch.where(x >= view, view, torch.clamp(x, min=0))
    y = clipped + (torch.round(clipped / step) * step - clipped).detach()
    y.backward(torch.tensor(data["grad"]))
    got = quant.pact(data["x"], alpha.detach().numpy(), bits=4, axis=axis)
    np.testing.assert_allclose(got, y.detach().numpy(), rtol=0, atol=4 * 2.0**-52)
    dx, dalpha = quant.pact_backward(
        data["grad"], data["x"], alpha.detach().numpy(), bits=4, axis=axis
    )
    assert np.array_equal(dx, x.grad.numpy())
    bound = max(np.size(data["x"]), 1) * 4 * 2.0**-52 * 8
    np.testing.assert_allclose(dalpha, alpha.grad.numpy(), rtol=0, atol=bound)


def test_pact_takes_both_bounds_as_its_paper_does():
    x = np.array([-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, np.inf, -np.inf, np.nan])
    dx, dalpha = quant.pact_backward(np.ones(9), x, 1.0, bits=2)
    assert dx.tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert dalpha == 3.0
    y = quant.pact(x, 1.0, bits=2)
    np.testing.assert_array_equal(y, [0, 0, 0, 2 / 3, 1, 1, 1, 0, np.nan])


def test_lsq_saturates_infinities_and_keeps_nan():
    x = np.array([np.inf, -np.inf, np.nan, 0.2], np.float32)
    y = quant.lsq(x, 0.5, offset=1.0, qmin=-2, qmax=1)
    np.testing.assert_array_equal(y, np.float32([1.5, 0.0, np.nan, 0.0]))
    dx, dscale, doffset = quant.lsq_backward(
        np.ones(4, np.float32), x, 0.5, offset=1.0, qmin=-2, qmax=1, grad_scale=1.0
    )
    assert dx.tolist() == [0, 0, 0, 1]
    # 1 and -2 at the bounds; (0.2 - 1) / 0.5 = -1.6 rounds to -2.
    assert abs(dscale - (1 - 2 - 2 + 1.6)) <= 4 * 2.0**-23
    assert doffset == 2.0


@pytest.mark.parametrize("function", ["lsq", "pact"])
@pytest.mark.parametrize(("shape", "axis"), [((300, 500), None), ((300, 500), 0), ((300, 500), 1),
                                             ((7, 30000), 0), ((20000, 3, 5), 1)])  # fmt: skip
def test_bits_depend_neither_on_threads_nor_on_strides(function, shape, axis):
    data = operands(shape, axis, 5)
    x, grad = data["x"].astype(np.float32), data["grad"].astype(np.float32)
    scale = data["scale"].astype(np.float32)

    def run(x, grad):
        if function == "pact":
            return quant.pact_backward(grad, x, scale, axis=axis)
        return quant.lsq_backward(grad, x, scale, offset=scale, qmin=-4, qmax=3, axis=axis)

    expected = run(x, grad)
    threads = mc.get_num_threads()
    try:
        for count in (1, 3):
            mc.set_num_threads(count)
            for a, b in zip(run(x, grad), expected, strict=True):
                assert a.tobytes() == b.tobytes()
    finally:
        mc.set_num_threads(threads)
    wide = np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]
    wide[...] = x
    for a, b in zip(run(wide, np.asfortranarray(grad)), expected, strict=True):
        assert np.ascontiguousarray(a).tobytes() == b.tobytes()


def test_out_may_be_grad_and_results_are_of_the_caller_s_kind():
    x, grad = torch.randn(50), torch.randn(50)
    scale = torch.tensor(0.1)
    expected, dscale = quant.lsq_backward(grad, x, scale)
    assert isinstance(expected, torch.Tensor)
    assert isinstance(dscale, torch.Tensor)
    assert dscale.shape == ()
    copy = grad.clone()
    got, _ = quant.lsq_backward(copy, x, scale, out=copy)
    assert got is copy
    assert torch.equal(copy, expected)


def test_an_empty_tensor_has_gradients_of_zero():
    x = np.zeros((0, 3), np.float32)
    dx, dscale = quant.lsq_backward(x, x, np.ones(3, np.float32), axis=1)
    assert dx.shape == (0, 3)
    assert dscale.tolist() == [0, 0, 0]
    assert quant.pact(x, 1.0).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: quant.lsq(x, 0.0), mc.Error, "scale must be finite and > 0, got 0"),
        (lambda x: quant.lsq(x, np.nan), mc.Error, "scale must be finite, got nan"),
        (lambda x: quant.lsq(x, 1e-60), mc.Error, "scale must be finite and > 0, got 1e-60"),
        (lambda x: quant.lsq(x, [0.1, 0.1]), mc.Error,
         "scale must be one number where axis is None, got (2,)"),
        (lambda x: quant.lsq(x, [0.1, 0.1], axis=0), mc.Error,
         "scale must be a vector of 4, the extent of axis 0, got (2,)"),
        (lambda x: quant.lsq(x, 0.1, axis=0), mc.Error,
         "scale must be a vector of 4, the extent of axis 0, got ()"),
        (lambda x: quant.lsq(x, [0.1] * 3, axis=2), IndexError, "axis must be in"),
        (lambda x: quant.lsq(x, 0.1, zero_point=1.0, offset=1.0), mc.Error,
         "zero_point and offset must not be given together"),
        (lambda x: quant.lsq(x, 0.1, zero_point=1), mc.DTypeError, "zero_point must be float64"),
        (lambda x: quant.lsq(x, 0.1, offset=np.inf), mc.Error, "offset must be finite, got inf"),
        (lambda x: quant.lsq(x, 0.1, qmin=5, qmax=5), mc.Error, "with qmin < qmax, got 5 and 5"),
        (lambda x: quant.lsq(x.astype(int), 0.1), mc.DTypeError, "x must be float64"),
        (lambda x: quant.lsq_backward(x[:2], x, 0.1), mc.Error, "grad must have the shape of x"),
        (lambda x: quant.lsq_backward(x.astype("f8"), x, 0.1), mc.DTypeError,
         "grad must have the dtype of x"),
        (lambda x: quant.lsq_backward(x, x, 0.1, grad_scale=np.nan), mc.Error,
         "grad_scale must be finite"),
        (lambda x: quant.pact(x, -1.0), mc.Error, "alpha must be finite and > 0, got -1"),
        (lambda x: quant.pact(x, 1.0, bits=0), mc.Error, "bits must be in [1, 16], got 0"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, error, text):
    with pytest.raises(error) as info:
        call(np.ones((4, 3), np.float32))
    assert text in str(info.value)
