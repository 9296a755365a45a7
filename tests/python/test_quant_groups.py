# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle

import hypothesis.strategies as st
import moptcore as mc
import numpy as np
import pytest
from hypothesis import given, settings
from moptcore import quant
from reference import quant as reference

LAYOUTS = [
    ((4, 10), 1, 4),
    ((4, 64), -1, 32),
    ((3, 257), 1, 64),
    ((300, 70), 0, 32),
    ((6, 8, 3, 3), 1, 3),
    ((5, 7, 11), 0, 2),
    ((9,), 0, 100),
    ((2, 3000), 1, 1),
    ((2, 5000, 2), 1, 128),
    ((0, 8), 1, 4),
]


def weights(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def spread(scale, axis, group_size, extent):
    """One scale for each element along the axis."""
    return np.take(np.repeat(scale, group_size, axis), np.arange(extent), axis)


def group_ranges(x, axis, group_size):
    edges = range(0, x.shape[axis], group_size)
    parts = [np.take(x, range(e, min(e + group_size, x.shape[axis])), axis) for e in edges]
    return [np.stack([f(p, axis) for p in parts], axis) for f in (np.min, np.max)]


def qparams(x, axis, group_size, dtype="int4", symmetric=False):
    low, high = group_ranges(x, axis, group_size)
    return quant.qparams_from_range(low, high, dtype, symmetric, axis, None, group_size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize(("shape", "axis", "group_size"), LAYOUTS[:-1])
def test_group_ranges_are_those_of_every_group(shape, axis, group_size, dtype):
    x = weights(shape, dtype)
    low, high = quant.group_range(x, group_size, axis)
    expected = group_ranges(x, axis, group_size)
    assert np.array_equal(low, expected[0].astype(np.float32))
    assert np.array_equal(high, expected[1].astype(np.float32))
    turned = quant.group_range(np.asfortranarray(x), group_size, axis)
    assert np.array_equal(turned[0], low)
    qp = quant.group_qparams(x, group_size, axis, "int8", symmetric=False)
    assert qp == qparams(x, axis, group_size, "int8")
    assert qp.scale.shape == low.shape


@pytest.mark.parametrize("dtype", list(reference.INTEGERS))
@pytest.mark.parametrize("shape, axis, group_size", LAYOUTS)  # noqa: PT006
def test_groups_follow_the_formula_with_one_scale_an_element(shape, axis, group_size, dtype):
    x = weights(shape)
    counts = list(shape)
    counts[axis] = -(-counts[axis] // group_size)
    if x.size == 0:
        with pytest.raises(ValueError, match=r"\[quant.QParams\] scale must have at least one"):
            quant.QParams(np.ones(counts), 0, dtype, axis, group_size=group_size)
        return
    qp = qparams(x, axis, group_size, dtype)
    assert qp.scale.shape == tuple(counts)
    scale, zero = (spread(v, axis, group_size, shape[axis]) for v in (qp.scale, qp.zero_point))
    expected = reference.quantize(x, scale, zero, qp.qmin, qp.qmax)
    q = quant.quantize(x, qp, packed=False)
    assert np.array_equal(q, expected)
    back = reference.dequantize(expected, scale, zero)
    assert np.array_equal(quant.dequantize(q, qp, packed=False), back)
    if dtype in ("int4", "uint4"):
        packed = quant.quantize(x, qp)
        assert np.array_equal(packed, reference.pack(expected))
        assert np.array_equal(quant.dequantize(packed, qp, shape=shape), back)
    bits = np.full((x.size + 7) // 8, 255, np.uint8)
    fake = quant.fake_quantize(2 * x, qp, bits=bits)
    assert np.array_equal(fake, reference.fake_quantize(2 * x, scale, zero, qp.qmin, qp.qmax))
    inside = reference.passes(2 * x, scale, zero, qp.qmin, qp.qmax)
    assert np.array_equal(bits, np.packbits(inside.ravel(), bitorder="little"))
    assert np.array_equal(quant.fake_quantize_backward(x, bits), np.where(inside, x, 0))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    group_size=st.integers(1, 10),
    data=st.data(),
)
def test_no_value_is_off_by_more_than_half_a_step_of_its_group(shape, group_size, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = weights(shape)
    qp = quant.group_qparams(x, group_size, axis)
    step = spread(qp.scale, axis, group_size, shape[axis])
    # The division, the scale and the product each round: 2^-21 of the value covers them.
    bound = step / 2 + np.abs(x) * 2.0**-21
    assert np.all(np.abs(quant.fake_quantize(x, qp) - x) <= bound)


def test_axes_of_extent_1_behind_the_groups_change_nothing():
    x = weights((3, 5))
    low, high = quant.group_range(x, 2, 1)
    for tail in ((1,), (1, 1)):
        found = quant.group_range(x.reshape(3, 5, *tail), 2, 1)
        assert np.array_equal(found[0], low.reshape(3, 3, *tail))
        assert np.array_equal(found[1], high.reshape(3, 3, *tail))


def test_a_group_as_long_as_the_axis_is_an_axis_of_its_own():
    w = weights((16, 24))
    grouped = quant.group_qparams(w, 24, 1, "int8")
    observer = quant.MinMaxObserver(0)
    observer.update(w)
    rows = observer.qparams()
    assert np.array_equal(grouped.scale[:, 0], rows.scale)
    assert np.array_equal(quant.quantize(w, grouped), quant.quantize(w, rows))


@pytest.mark.parametrize("axis", [0, 1])
def test_groups_are_onnx_blocks(axis):
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    helper = onnx.helper
    w = weights((48, 40))
    qp = quant.group_qparams(w, 8, axis, "int8", symmetric=False)
    q = quant.quantize(w, qp)
    names = ["q", "scale", "zero"]
    arrays = [q, qp.scale, qp.zero_point.astype(np.int8)]
    node = helper.make_node("DequantizeLinear", names, ["y"], axis=axis, block_size=8)
    graph = helper.make_graph(
        [node], "g", [], [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, w.shape)],
        [onnx.numpy_helper.from_array(a, n) for n, a in zip(names, arrays, strict=True)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {})[0], quant.dequantize(q, qp))


def test_grouped_qparams_are_values():
    qp = quant.group_qparams(weights((4, 10)), 4)
    assert (qp.axis, qp.group_size, qp.dtype, qp.scale.shape) == (-1, 4, "int4", (4, 3))
    assert quant.QParams(0.1).group_size is None
    again = pickle.loads(pickle.dumps(qp))
    assert again == qp
    assert hash(again) == hash(qp)
    assert again.scale.shape == (4, 3)
    assert "group_size=4" in repr(qp)
    other = quant.QParams(qp.scale, qp.zero_point, "int4", -1, qp.qmin, qp.qmax, group_size=5)
    assert other != qp


ONES = np.ones((2, 3), np.float32)
X = np.zeros((2, 10), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: quant.QParams(ONES, 0, "int4", 1, group_size=0), ValueError,
         "[quant.QParams] group_size must be at least 1, got 0"),
        (lambda: quant.QParams(ONES, 0, "int4", group_size=4), ValueError,
         "[quant.QParams] scale must be one number where axis is None"),
        (lambda: quant.QParams(0.1, 0, "int4", group_size=4), ValueError,
         "[quant.QParams] axis must be given where group_size is, got None"),
        (lambda: quant.QParams(0.1, 0, "int4", 0, group_size=4), ValueError,
         "[quant.QParams] scale must have at least 1 dimension where group_size is given"),
        (lambda: quant.QParams(ONES, 0, "int4", 2, group_size=4), IndexError,
         "[quant.QParams] axis must be in [-2, 2), got 2"),
        (lambda: quant.QParams(ONES, np.zeros((3, 2), int), "int4", 1, group_size=4), ValueError,
         "[quant.QParams] zero_point must be one number or have the shape of scale"),
        (lambda: quant.quantize(X, quant.QParams(ONES.T, 0, "int8", 1, group_size=4)), ValueError,
         "[quant.quantize] scale must have shape (2, 3), one for each 4 along axis 1, got (3, 2)"),
        (lambda: quant.quantize(X, quant.QParams(ONES, 0, "int8", 1, group_size=5)), ValueError,
         "[quant.quantize] scale must have shape (2, 2), one for each 5 along axis 1, got (2, 3)"),
        (lambda: quant.group_range(X, 0), ValueError,
         "[quant.group_range] group_size must be at least 1, got 0"),
        (lambda: quant.group_range(np.float32(1), 1), ValueError,
         "[quant.group_range] x must have at least 1 dimension and 1 element, got ()"),
        (lambda: quant.group_range(X, 4, 2), IndexError,
         "[quant.group_range] axis must be in [-2, 2), got 2"),
        (lambda: quant.group_range(X.astype(np.int8), 4), TypeError,
         "[quant.group_range] x must be float64, float32, float16 or bfloat16, got int8"),
        (lambda: quant.group_range(np.full((2, 10), np.nan, np.float32), 4), mc.NonFiniteError,
         "[quant.group_range] x must be finite, got NaN or infinity"),
        (lambda: quant.qparams_from_range(-ONES, ONES, group_size=4), ValueError,
         "[quant.qparams_from_range] axis must be given where group_size is, got None"),
        (lambda: quant.qparams_from_range(-ONES, ONES.T, axis=1, group_size=4), ValueError,
         "[quant.qparams_from_range] max must have the shape of min, got shape (3, 2)"),
    ],
)  # fmt: skip
def test_bad_groups_are_named(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
