# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import moptcore as mc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from moptcore import quant
from reference import quant as reference
from torch.ao.quantization import observer as torch_observer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-40, 1.1754944e-38, np.inf, -np.inf, 16777216.0, 16777218.0, 3.4e38,
     -3.4e38, 1e30, 2.0**31, -(2.0**31), 2.0**63],
    np.float32,
)  # fmt: skip


def adversarial(scale: float, dtype: type = np.float32) -> np.ndarray:
    """Ties and their neighbours, whole steps, specials, noise."""
    scale = np.float32(scale)
    whole = np.arange(-300, 300, dtype=np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    noise = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    with np.errstate(over="ignore"):
        ties = (whole + np.float32(0.5)) * scale
        near = [np.nextafter(ties, up), np.nextafter(ties, down)]
        parts = [ties, *near, whole * scale, SPECIAL, noise * np.float32(100) * scale]
        return np.concatenate(parts).astype(dtype)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bits: unlike ==, tells -0 from 0 and takes NaN for NaN."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    word = f"u{a.dtype.itemsize}"
    nan = np.isnan(a) & np.isnan(b)
    bits = [np.ascontiguousarray(v).view(word) for v in (a, b)]
    return bool(np.all((bits[0] == bits[1]) | nan))


def grids(shape: tuple[int, ...], axis: int | None, low: int, high: int):
    rng = np.random.default_rng(1)
    count = () if axis is None else (shape[axis],)
    scale = rng.uniform(0.005, 0.2, count).astype(np.float32)
    return scale, rng.integers(low, high + 1, count).astype(np.int32)


LAYOUTS = [
    ((1,), None),
    ((), None),
    ((0, 3), None),
    ((0, 3), 1),
    ((70000,), None),
    ((5, 7, 3), 1),
    ((64, 3, 7, 7), 0),
    ((64, 3, 7, 7), 1),
    ((7, 5, 33), 1),
    ((33, 17), -1),
    ((40, 3000), 1),
    ((3, 1000, 2), 1),
    ((2, 3, 160, 161), 1),
]


def test_fake_quantize_affine_makes_the_bits_where_it_is_asked_to():
    x = np.linspace(-20, 20, 77, dtype=np.float32)
    scale, zero = np.float32([0.1]), np.int32([3])
    bits = np.empty(10, np.uint8)
    expected = quant.fake_quantize_affine(x, scale, zero, -128, 127, bits=bits)
    y, made = quant.fake_quantize_affine(x, scale, zero, -128, 127, bits=True)
    assert same(y, expected)
    assert np.array_equal(made, bits)
    assert same(quant.fake_quantize_affine(x, scale, zero, -128, 127, bits=False), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_results_larger_than_the_caches_are_those_of_their_parts(dtype):
    kind = getattr(torch, dtype)
    # Results of 16 MiB and more are written past the caches, in rows of any start.
    rows, parts = 8, 4
    x = (torch.randn(rows, (2 << 20) // kind.itemsize + 8) * 2).to(kind)
    for length in (x.shape[1], x.shape[1] - 3):
        cut = x.flatten()[: rows * length].reshape(rows, length)
        scale = np.linspace(0.01, 0.1, rows, dtype=np.float32)
        for qp in (
            quant.QParams(0.03, 5, "int8"),
            quant.QParams(scale, np.zeros(rows, np.int32), "int8", axis=0),
        ):
            bits = torch.empty((cut.numel() + 7) // 8, dtype=torch.uint8)
            y = quant.fake_quantize(cut, qp, bits=bits)
            back = quant.fake_quantize_backward(cut, bits)
            step = -(-length // parts)
            step += -step % 8
            for r in range(rows):
                own = np.atleast_1d(qp.scale)[r if qp.axis == 0 else 0]
                one = quant.QParams(float(own), int(np.atleast_1d(qp.zero_point)[0]), "int8")
                for first in range(0, length, step):
                    part = cut[r, first : first + step].contiguous()
                    few = torch.empty((part.numel() + 7) // 8, dtype=torch.uint8)
                    expected = quant.fake_quantize(part, one, bits=few)
                    assert torch.equal(y[r, first : first + step], expected)
                    passed = quant.fake_quantize_backward(part, few)
                    assert torch.equal(back[r, first : first + step], passed)


@pytest.mark.parametrize("compat", [None, "torch", "tflite"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_fake_quantize_follows_the_formula_and_marks_what_passes(shape, axis, dtype, compat):
    x = np.resize(np.random.default_rng(2).permutation(adversarial(0.05, dtype)), shape)
    scale, zero = grids(shape, axis, -128, 127)
    bits = np.full((x.size + 7) // 8, 255, np.uint8)
    y = quant.fake_quantize_affine(x, scale, zero, -128, 127, axis, None, bits, compat)
    assert same(y, reference.fake_quantize(x, scale, zero, -128, 127, axis, compat))
    inside = reference.passes(x, scale, zero, -128, 127, axis, compat)
    assert np.array_equal(bits, np.packbits(inside.ravel(), bitorder="little"))
    grad = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    back = quant.fake_quantize_backward(grad, bits)
    assert same(np.asarray(back), np.where(inside, grad, dtype(0)))


@pytest.mark.parametrize("compat", [None, "torch", "tflite"])
@pytest.mark.parametrize("dtype", list(reference.INTEGERS))
@pytest.mark.parametrize("axis", [None, 1])
def test_quantize_and_dequantize_follow_the_formula(dtype, axis, compat):
    qmin, qmax = reference.INTEGERS[dtype]
    x = np.random.default_rng(4).permutation(adversarial(0.1))[:2205].reshape(5, 21, 21)
    scale, zero = grids(x.shape, axis, qmin, qmax)
    qp = quant.QParams(scale, zero, dtype, axis)
    expected = reference.quantize(x, scale, zero, qmin, qmax, axis, compat)
    q = quant.quantize(x, qp, compat=compat)
    if dtype in ("int4", "uint4"):
        assert q.dtype == np.uint8
        assert np.array_equal(q, reference.pack(expected))
        back = quant.dequantize(q, qp, shape=x.shape)
        loose = quant.quantize(x, qp, compat=compat, packed=False)
        assert loose.dtype == np.dtype("int8" if dtype == "int4" else "uint8")
        assert np.array_equal(loose, expected)
        assert same(quant.dequantize(loose, qp, packed=False), back)
    else:
        assert q.dtype == np.dtype(dtype)
        assert np.array_equal(q, expected)
        back = quant.dequantize(q, qp)
    assert same(back, reference.dequantize(expected, scale, zero, axis))
    if compat != "torch":
        assert same(quant.fake_quantize(x, qp, compat=compat), back)


@settings(max_examples=200, deadline=None)
@given(
    x=hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9),
                 elements=st.floats(width=32, allow_nan=False)),
    scale=st.floats(2.0**-126, 2.0**100, width=32),
    zero=st.integers(-128, 127),
    compat=st.sampled_from([None, "torch", "tflite"]),
)  # fmt: skip
def test_fake_quantize_is_dequantize_of_quantize_bit_for_bit(x, scale, zero, compat):
    qp = quant.QParams(scale, zero)
    q = quant.quantize(x, qp, compat=compat)
    assert np.array_equal(q, reference.quantize(x, scale, zero, -128, 127, None, compat))
    fake = quant.fake_quantize(x, qp, compat=compat)
    if compat == "torch":
        assert same(fake, reference.fake_quantize(x, scale, zero, -128, 127, None, compat))
    else:
        assert same(fake, quant.dequantize(q, qp))


def test_fake_quantize_in_double_is_dequantize_into_double():
    x = adversarial(0.1, np.float64)
    qp = quant.QParams(0.1, 3)
    back = quant.dequantize(quant.quantize(x, qp), qp, out=np.empty_like(x))
    assert same(quant.fake_quantize(x, qp), back)


@pytest.mark.parametrize("scale", [0.1, 2.0**-126, 1e-45, 2.9e-39, 0.013, 3e38])
def test_compat_torch_equals_torch_per_tensor(scale):
    scale = float(np.float32(scale))
    x = np.append(adversarial(scale), np.float32(np.nan)).astype(np.float32)
    for name in ("float32", "float64", "float16", "bfloat16"):
        t = torch.from_numpy(x).to(getattr(torch, name)).requires_grad_()
        theirs = torch.fake_quantize_per_tensor_affine(t, scale, -3, -127, 127)
        theirs.backward(torch.ones_like(t))
        bits = torch.zeros((x.size + 7) // 8, dtype=torch.uint8)
        qp = quant.QParams(scale, -3, qmin=-127)
        ours = quant.fake_quantize(t.detach(), qp, bits=bits, compat="torch")
        assert torch.equal(ours, theirs.detach()), name
        back = quant.fake_quantize_backward(torch.ones_like(t), bits)
        assert torch.equal(back, t.grad), name


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
@pytest.mark.parametrize(("name", "zeros"), [
    ("int8", [0, -128, -17, 3, 127]), ("uint8", [0, 3, 100, 128, 255])])  # fmt: skip
def test_compat_torch_quantizes_as_torch_does(name, zeros):
    qdtype = {"int8": torch.qint8, "uint8": torch.quint8}[name]
    beside = 0
    for scale in (0.1, 0.05, 0.013, 2.0**-7, 7.0, 2.0**-126, 3e38):
        scale = float(np.float32(scale))
        x = torch.from_numpy(np.random.default_rng(0).permutation(adversarial(scale)))
        for zero in zeros:
            qp = quant.QParams(scale, zero, name)
            whole = quant.quantize(x, qp, compat="torch")
            # All lengths up to 9 have a vector of 8 or not, and a tail or not.
            for part in (x, *(x[at : at + at % 10] for at in range(0, 300, 7))):
                theirs = torch.quantize_per_tensor(part, scale, zero, qdtype).int_repr()
                assert torch.equal(quant.quantize(part, qp, compat="torch"), theirs)
            beside += int((whole != quant.quantize(x, qp)).sum())
        count = len(zeros)
        many = x[: x.numel() // count * count]
        scales, offsets = torch.full((count,), scale), torch.tensor(zeros)
        for shape, axis in (((count, -1), 0), ((-1, count), 1), ((-1, count, 3), 1)):
            full = many[: many.numel() // (3 * count) * 3 * count].reshape(shape)
            theirs = torch.quantize_per_channel(full, scales, offsets, axis, qdtype).int_repr()
            qp = quant.QParams(scales.numpy(), offsets.numpy(), name, axis)
            assert torch.equal(quant.quantize(full, qp, compat="torch"), theirs)
    assert beside > 0
    assert quant.quantize(np.float32([-0.25]), quant.QParams(0.1, 3), compat="torch") == [0]


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_compat_torch_equals_torch_per_channel_where_that_does_not_overflow(name):
    shape = (7, 5, 33)
    values = np.resize(np.concatenate([SPECIAL, adversarial(0.05)]), shape)
    x = torch.from_numpy(values).to(getattr(torch, name))
    for axis in (0, 1, 2):
        scale, zero = (torch.from_numpy(v) for v in grids(shape, axis, -128, 127))
        theirs = torch.fake_quantize_per_channel_affine(x, scale, zero, axis, -128, 127)
        ours = quant.fake_quantize_affine(x, scale, zero, -128, 127, axis, compat="torch")
        steps = x.double() / scale.reshape([-1 if i == axis else 1 for i in range(3)])
        fits = steps.abs() < 2.0**62
        assert torch.equal(ours[fits], theirs[fits])
        # Deliberate difference: torch casts before it saturates and sends +inf to qmin.
        top = steps >= 2.0**64
        assert top.any()
        assert (ours[top] > 0).logical_or(zero.max() == 127).all()
        assert (theirs[top] <= 0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("dtype", "qdtype"), [("int8", torch.qint8), ("uint8", torch.quint8)])
def test_compat_torch_observers_give_torchs_qparams(symmetric, dtype, qdtype):
    scheme = "symmetric" if symmetric else "affine"
    batches = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0))
    batches[:, 1] = batches[:, 1].abs()
    batches[:, 2] = -batches[:, 2].abs()
    batches[:, 3] = 0
    batches[:, 4] *= 1e-9
    pairs = [
        (quant.MinMaxObserver(), torch_observer.MinMaxObserver(
            dtype=qdtype, qscheme=getattr(torch, f"per_tensor_{scheme}"))),
        (quant.MovingAverageObserver(), torch_observer.MovingAverageMinMaxObserver(
            dtype=qdtype, qscheme=getattr(torch, f"per_tensor_{scheme}"))),
        (quant.MinMaxObserver(axis=0), torch_observer.PerChannelMinMaxObserver(
            0, dtype=qdtype, qscheme=getattr(torch, f"per_channel_{scheme}"))),
        (quant.MovingAverageObserver(axis=0), torch_observer.MovingAveragePerChannelMinMaxObserver(
            ch_axis=0, dtype=qdtype, qscheme=getattr(torch, f"per_channel_{scheme}"))),
    ]  # fmt: skip
    for ours, theirs in pairs:
        for batch in batches:
            ours.update(batch)
            theirs(batch)
        scale, zero = theirs.calculate_qparams()
        qp = ours.qparams(dtype, symmetric=symmetric, compat="torch")
        assert np.array_equal(np.ravel(qp.scale).astype(np.float32), scale.numpy().ravel())
        assert np.array_equal(np.ravel(qp.zero_point), zero.numpy().ravel())


def test_compat_tf_equals_tensorflow():
    golden = np.load(GOLDEN / "quant_tf.npz")
    for i, (low, high, num_bits, narrow) in enumerate(golden["ranges"]):
        x = golden[f"x{i}"]
        bits = np.zeros((x.size + 7) // 8, np.uint8)
        options = {"num_bits": int(num_bits), "narrow_range": bool(narrow)}
        y = quant.fake_quantize_range(x, low, high, bits=bits, **options)
        # TensorFlow may give -0 for 0.
        assert same(y + np.float32(0), golden[f"y{i}"] + np.float32(0))
        channel = quant.fake_quantize_range(x[:, None], [low], [high], axis=1, **options)
        assert same(channel[:, 0] + np.float32(0), golden[f"channel{i}"] + np.float32(0))
        theirs = reference.unpack_bits(golden[f"pass{i}"], x.shape)
        ours = reference.unpack_bits(bits, x.shape)
        # TensorFlow runs with denormals flushed: to it, -1e-40 is not below 0.
        normal = (np.abs(x) >= np.finfo(np.float32).tiny) | (x == 0) | np.isnan(x)
        assert np.array_equal(ours[normal], theirs[normal])


@pytest.mark.parametrize(("shape", "axis"), [((6, 5), 1), ((5, 6, 7), 0), ((3, 40), 0)])
def test_ranges_along_any_axis_equal_one_call_a_channel(shape, axis):
    x = np.resize(adversarial(0.02), shape)
    low = np.linspace(-3, 0, shape[axis], dtype=np.float32)
    high = np.linspace(1, 5, shape[axis], dtype=np.float32)
    bits = np.zeros((x.size + 7) // 8, np.uint8)
    y = quant.fake_quantize_range(x, low, high, axis=axis, bits=bits)
    moved, inside = np.moveaxis(x, axis, -1), reference.unpack_bits(bits, shape)
    for c in range(shape[axis]):
        one = np.zeros((moved[..., c].size + 7) // 8, np.uint8)
        column = np.ascontiguousarray(moved[..., c])[..., None]
        expected = quant.fake_quantize_range(
            column, low[c : c + 1], high[c : c + 1], axis=-1, bits=one
        )
        assert same(np.moveaxis(y, axis, -1)[..., c], expected[..., 0])
        passed = reference.unpack_bits(one, column.shape)[..., 0]
        assert np.array_equal(np.moveaxis(inside, axis, -1)[..., c], passed)


def test_compat_tflite_equals_tflite():
    golden = np.load(GOLDEN / "quant_tflite.npz")
    for i, (low, high) in enumerate(golden["ranges"]):
        qp = quant.qparams_from_range(low, high, symmetric=False, compat="tflite")
        assert np.float32(qp.scale) == golden["scale"][i]
        assert qp.zero_point == golden["zero_point"][i]
        if f"x{i}" not in golden:
            continue
        x = golden[f"x{i}"]
        ours = quant.quantize(x, qp, compat="tflite")
        # Deliberate difference: TFLite's reference kernel casts to int32 before it saturates.
        fits = np.abs(x.astype(np.float64) / qp.scale) < 2.0**31 - 2.0**9
        assert np.array_equal(ours[fits], golden[f"reference{i}"][fits])
        top = qp.qmax if qp.zero_point < qp.qmax else qp.zero_point
        assert set(ours[~fits]) <= {qp.qmin, top}
        # TFLite's optimized kernels multiply by the reciprocal and round to even, as torch's fake
        # quantization does: its values are whole steps but for an error far below half of one.
        fake = quant.fake_quantize(x, qp, compat="torch").astype(np.float64)
        assert np.array_equal(np.rint(fake / qp.scale) + qp.zero_point, golden[f"default{i}"])


def test_compat_tflite_weights_equal_the_converters():
    golden = np.load(GOLDEN / "quant_tflite.npz")
    observer = quant.MinMaxObserver(axis=0)
    observer.update(golden["weights"])
    qp = observer.qparams(compat="tflite")
    assert np.array_equal(qp.scale, golden["weight_scale"])
    integers = quant.quantize(golden["weights"], qp, compat="tflite")
    assert np.array_equal(integers, golden["weight_integers"])


def test_onnx_quantize_linear_is_our_default():
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantize",
        [
            helper.make_tensor_value_info("x", types.FLOAT, ["n"]),
            helper.make_tensor_value_info("s", types.FLOAT, []),
            helper.make_tensor_value_info("z", types.INT8, []),
        ],
        [
            helper.make_tensor_value_info("q", types.INT8, ["n"]),
            helper.make_tensor_value_info("y", types.FLOAT, ["n"]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    for scale, zero in [(0.1, 0), (0.013, -17), (2.0**-7, 127), (1e-6, 3)]:
        x = adversarial(scale)
        feed = {"s": np.asarray(scale, np.float32), "z": np.asarray(zero, np.int8)}
        # ORT converts beyond int32 before it saturates.
        x = x[np.abs(x.astype(np.float64) / scale) < 2.0**31 - 2**9]
        qp = quant.QParams(scale, zero)
        q, y = session.run(None, {"x": x, **feed})
        assert np.array_equal(quant.quantize(x, qp), q)
        assert same(quant.fake_quantize(x, qp), y + np.float32(0))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", list(reference.INTEGERS))
def test_qparams_from_range_follow_the_formula(dtype, symmetric):
    ranges = [(-1, 1), (-1, 3), (0, 0), (0.5, 2), (-2, -0.5), (-0.0, 0.0), (0, 1e-44), (-1e-39, 0),
              (-3e38, 3e38), (1e-6, 2e-6), (-1, 0.5), (0.1, 0.1), (-7, 0)]  # fmt: skip
    for low, high in ranges:
        low, high = float(np.float32(low)), float(np.float32(high))
        qp = quant.qparams_from_range(low, high, dtype, symmetric)
        expected = reference.qparams_from_range(low, high, dtype, symmetric)
        assert (qp.scale, qp.zero_point, qp.qmin, qp.qmax) == expected
        assert qp.scale >= np.finfo(np.float32).tiny
        zero = np.zeros(1, np.float32)
        assert same(quant.fake_quantize(zero, qp), zero)


def test_no_value_of_the_range_is_off_by_more_than_half_a_step():
    rng = np.random.default_rng(5)
    for symmetric in (True, False):
        x = (rng.standard_normal(1000) * 3 + 1).astype(np.float32)
        qp = quant.qparams_from_range(x.min(), x.max(), symmetric=symmetric)
        # An affine zero point is rounded, so that one end may be cut by half a step; the error is
        # measured in double, that of the float products is below 2^-24 of 127 steps.
        error = np.abs(quant.fake_quantize(x, qp).astype(np.float64) - x)
        assert error.max() <= qp.scale * (0.5 + 2e-5)


def test_observers_find_the_range_of_any_layout():
    rng = np.random.default_rng(6)
    for shape, axis in LAYOUTS:
        if 0 in shape:
            continue
        x = rng.standard_normal(shape)
        others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        for dtype in (np.float32, np.float64, np.float16):
            values = np.asarray(x, dtype)
            for view in (values, values.T.copy().T, values[..., ::-1] if x.ndim else values):
                observer = quant.MinMaxObserver(axis)
                observer.update(view)
                assert np.array_equal(observer.min, np.atleast_1d(view.min(others)).astype("f4"))
                assert np.array_equal(observer.max, np.atleast_1d(view.max(others)).astype("f4"))


def test_merged_observers_equal_one_that_saw_everything():
    x = np.random.default_rng(7).standard_normal((4, 3, 10)).astype(np.float32)
    whole, first, second = (quant.MinMaxObserver(axis=1) for _ in range(3))
    for batch in x:
        whole.update(batch[None])
    first.merge(second)
    first.update(x[:2])
    second.update(x[2:])
    first.merge(second)
    assert first == whole
    first.merge(quant.MinMaxObserver(axis=1))
    assert first == whole
    with pytest.raises(mc.Error, match="same axis"):
        first.merge(quant.MinMaxObserver(axis=0))


def test_moving_average_starts_at_the_first_batch_and_follows_in_float():
    observer = quant.MovingAverageObserver(momentum=0.1)
    low = high = None
    for batch in np.random.default_rng(8).standard_normal((5, 20)).astype(np.float32):
        observer.update(batch)
        if low is None:
            low, high = batch.min(), batch.max()
        else:
            low += np.float32(0.1) * (batch.min() - low)
            high += np.float32(0.1) * (batch.max() - high)
    assert observer.min[0] == low
    assert observer.max[0] == high


def test_observer_state_resumes_exactly():
    x = np.random.default_rng(9).standard_normal((3, 8)).astype(np.float32)
    for make in (
        lambda: quant.MinMaxObserver(axis=0),
        lambda: quant.MovingAverageObserver(0.2, axis=0),
    ):
        observer = make()
        observer.update(x)
        resumed = make()
        resumed.load_state_dict(observer.state_dict())
        copy = pickle.loads(pickle.dumps(observer))
        assert resumed == observer == copy
        for each in (observer, resumed, copy):
            each.update(2 * x)
        assert resumed == observer == copy
        state = observer.state_dict()
        with pytest.raises(mc.FormatError, match="state must have the keys kind, axis"):
            resumed.load_state_dict({})
        with pytest.raises(mc.Error, match="no key but"):
            resumed.load_state_dict({**observer.state_dict(), "other": 1})
        resumed.load_state_dict({**observer.state_dict(), "other": 1}, strict=False)
        with pytest.raises(mc.Error, match="min <= max"):
            resumed.load_state_dict({**state, "min": [2.0] * 3, "max": [1.0] * 3})
        with pytest.raises(mc.FormatError, match="min must have 1 dimension, got 2"):
            resumed.load_state_dict({**state, "min": [[1.0]]})
        with pytest.raises(mc.FormatError, match="max must have as many"):
            resumed.load_state_dict({**state, "max": [1.0]})
        with pytest.raises(mc.FormatError, match="must be finite"):
            resumed.load_state_dict({**state, "max": [1.0, np.inf, np.nan]})
        assert resumed == observer
        resumed.reset()
        assert resumed == make()


def test_a_state_of_another_observer_is_refused():
    pair = quant.MinMaxObserver(), quant.MovingAverageObserver()
    for ours, theirs in (pair, pair[::-1]):
        theirs.update(np.ones(3, np.float32))
        text = f"state must be of a {type(ours).__name__}, got {type(theirs).__name__}"
        with pytest.raises(mc.FormatError, match=text):
            ours.load_state_dict(theirs.state_dict())
    with pytest.raises(mc.FormatError, match="count must be > 0"):
        pair[1].load_state_dict({**pair[1].state_dict(), "count": [0]})


def test_merged_averages_are_weighted_by_their_updates():
    def average(values, axis=0):
        observer = quant.MovingAverageObserver(1.0, axis)  # the range is that of the last update
        for value in values:
            x = np.array([[value, -value], [2 * value, 0]], np.float32)
            observer.update(x, nonfinite="skip")
        return observer

    first, second, third = average([9, 1]), average([4]), average([7, 8, 6])
    first.merge(second)
    # (2 * 1 + 1 * 4) / 3 = 2, and its double in the second row.
    assert first.count.tolist() == [3, 3]
    assert first.max.tolist() == [2, 4]
    assert first.min.tolist() == [-2, 0]
    first.merge(third)
    second.merge(third)
    right = average([9, 1])
    right.merge(second)
    assert first.count.tolist() == right.count.tolist() == [6, 6]
    # Each of two merges rounds once to float32: 2^-24 relative, of numbers up to the result's 8.
    assert np.allclose(first.max, right.max, rtol=2.0**-22, atol=0)
    assert first.max.tolist() == [4, 8]
    empty = average([])
    empty.merge(right)
    assert empty == right
    right.merge(average([]))
    assert empty == right
    with pytest.raises(mc.Error, match="same axis"):
        first.merge(average([1], axis=1))
    three = quant.MovingAverageObserver(1.0, 0)
    three.update(np.ones((3, 1), np.float32))
    with pytest.raises(mc.Error, match="other must have 2 channels, got 3"):
        first.merge(three)
    with pytest.raises(mc.Error, match="momentum"):
        first.merge(quant.MovingAverageObserver(0.5, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_observers_refuse_or_skip_what_is_not_finite(value):
    x = np.array([[1, 2, 3], [4, value, -6]], np.float32)
    observer = quant.MinMaxObserver(axis=0)
    observer.update(np.ones((2, 3), np.float32))
    with pytest.raises(mc.NonFiniteError, match="must be finite"):
        observer.update(x)
    assert observer.max.tolist() == [1, 1]
    observer.update(x, nonfinite="skip")
    assert observer.min.tolist() == [1, -6]
    assert observer.max.tolist() == [3, 4]
    unseen = quant.MinMaxObserver(axis=1)
    unseen.update(np.full((2, 1), value, np.float32), nonfinite="skip")
    with pytest.raises(mc.Error, match="every channel must have seen a finite value, got 0"):
        unseen.qparams()
    average = quant.MovingAverageObserver(axis=1)
    average.update(np.full((2, 1), value, np.float32), nonfinite="skip")
    average.update(np.full((2, 1), 5, np.float32))
    assert average.max.tolist() == [5]


def test_nan_follows_the_policy_and_infinities_saturate():
    x = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    qp = quant.QParams(0.5, 2)
    bits = np.zeros(1, np.uint8)
    y = quant.fake_quantize(x, qp, bits=bits)
    assert np.isnan(y[0])
    assert y[1:].tolist() == [62.5, -65, 1]
    assert bits[0] == 0b1000
    assert quant.fake_quantize(x, qp, nonfinite="zero_point").tolist() == [0, 62.5, -65, 1]
    assert quant.quantize(x, qp, nonfinite="zero_point").tolist() == [2, 127, -128, 4]
    out = np.full(4, 9, np.int8)
    with pytest.raises(mc.NonFiniteError, match="NaN"):
        quant.quantize(x, qp, out=out)
    with pytest.raises(mc.NonFiniteError, match="NaN"):
        quant.fake_quantize(x, qp, nonfinite="error")
    assert out.tolist() == [9] * 4
    with pytest.raises(mc.Error, match="integer cannot be NaN"):
        quant.quantize(x, qp, nonfinite="propagate")
    grad = quant.fake_quantize_backward(np.full(4, np.nan, np.float32), bits)
    assert np.isnan(grad[3])
    assert grad[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_strides_do_not_change_results(dtype):
    x = np.resize(adversarial(0.05, np.dtype(dtype).type), (6, 7, 80))
    scale, zero = grids(x.shape, 1, -20, 20)
    qp = quant.QParams(scale, zero, axis=1)
    for view in (x[::-1, :, ::2], np.asfortranarray(x), np.broadcast_to(x[:1], x.shape)):
        copy = np.ascontiguousarray(view)
        a, b = (np.zeros((view.size + 7) // 8, np.uint8) for _ in range(2))
        assert same(quant.fake_quantize(view, qp, bits=a), quant.fake_quantize(copy, qp, bits=b))
        assert np.array_equal(a, b)
        out = np.zeros(view.shape[::-1], dtype).T
        assert quant.fake_quantize(view, qp, out=out) is out
        assert same(np.ascontiguousarray(out), quant.fake_quantize(copy, qp))
        q = np.zeros(view.shape[::-1], np.int8).T
        quant.quantize(view, qp, out=q)
        assert np.array_equal(q, quant.quantize(copy, qp))
        back = np.zeros(view.shape[::-1], dtype).T
        quant.dequantize(q, qp, out=back)
        assert same(np.ascontiguousarray(back), quant.fake_quantize(copy, qp))
        grad = quant.fake_quantize_backward(view, a)
        assert same(np.asarray(grad), quant.fake_quantize_backward(copy, a))


def test_in_place_equals_out_of_place():
    x = np.resize(adversarial(0.05), (3, 5001))
    qp = quant.QParams(0.05, 1)
    expected = quant.fake_quantize(x, qp)
    bits = np.zeros((x.size + 7) // 8, np.uint8)
    work = x.copy()
    assert quant.fake_quantize(work, qp, out=work, bits=bits) is work
    assert same(work, expected)
    grad = x.copy()
    back = quant.fake_quantize_backward(grad, bits)
    quant.fake_quantize_backward(grad, bits, out=grad)
    assert same(grad, np.asarray(back))


def test_results_too_large_for_the_caches_are_the_same():
    x = np.resize(adversarial(0.05), 4_300_001)  # more than 16 MiB, odd, over a page's start
    qp = quant.QParams(0.05, 1)
    out = np.zeros(x.size + 1, np.float32)[1:]
    bits = np.zeros((x.size + 7) // 8, np.uint8)
    quant.fake_quantize(x, qp, out=out, bits=bits)
    small = np.concatenate([quant.fake_quantize(part, qp) for part in np.array_split(x, 50)])
    assert same(out, small)
    inside = reference.unpack_bits(bits, x.shape)
    assert np.array_equal(inside, reference.passes(x, qp.scale, 1, -128, 127))
    grad = np.zeros(x.size + 1, np.float32)[1:]
    quant.fake_quantize_backward(x, bits, out=grad)
    assert same(grad, np.where(inside, x, np.float32(0)))


def test_threads_and_instruction_sets_do_not_change_bits():
    x = np.random.default_rng(10).standard_normal((3, 70, 1111)).astype(np.float32)
    scale, zero = grids(x.shape, 1, -20, 20)
    qp = quant.QParams(scale, zero, axis=1)
    threads = mc.get_num_threads()

    def everything():
        bits = np.zeros((x.size + 7) // 8, np.uint8)
        observer = quant.MinMaxObserver(axis=1)
        observer.update(x)
        y = quant.fake_quantize(x, qp, bits=bits)
        return [
            y, bits, observer.min, observer.max, quant.quantize(x, qp),
            np.asarray(quant.fake_quantize_backward(x, bits)),
            quant.fake_quantize_range(x, [-1.0] * 70, [2.0] * 70, axis=1),
        ]  # fmt: skip

    core = mc._core
    try:
        mc.set_num_threads(1)
        expected = everything()
        for isa in core.available_isas():
            core.set_max_isa(isa)
            for count in (1, 2, 5):
                mc.set_num_threads(count)
                assert all(
                    np.array_equal(a, b) for a, b in zip(everything(), expected, strict=True)
                )
    finally:
        core.set_max_isa("")
        mc.set_num_threads(threads)


def test_a_caller_that_flushes_denormals_gets_the_same_bits():
    x = np.array([1e-40, -3e-39, 1.2e-38] * 7, np.float32)
    qp = quant.QParams(2.0**-126)
    expected = quant.fake_quantize(x, qp)
    assert expected.any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        flushed = quant.fake_quantize(x, qp)
        # The caller's own setting is back after the call.
        assert not (torch.from_numpy(x[:1]) * 1.0).any()
    finally:
        torch.set_flush_denormal(False)
    assert same(flushed, expected)


def test_qparams_are_values():
    qp = quant.QParams(0.02, 3, "uint8", qmin=1)
    assert repr(qp) == (
        "QParams(scale=0.02, zero_point=3, dtype='uint8', axis=None, qmin=1, qmax=255)"
    )
    assert qp == quant.QParams(np.float32(0.02), np.int64(3), np.uint8, None, 1, 255)
    assert qp != quant.QParams(0.02, 4, "uint8", qmin=1)
    assert isinstance(qp.scale, float)
    assert isinstance(qp.zero_point, int)
    channels = quant.QParams([0.1, 0.2, 0.3], dtype="int4", axis=-1)
    assert channels.scale.dtype == np.float32
    assert channels.zero_point.tolist() == [0, 0, 0]
    for each in (qp, channels):
        assert pickle.loads(pickle.dumps(each)) == each
        assert hash(pickle.loads(pickle.dumps(each))) == hash(each)
    with pytest.raises(AttributeError):
        qp.scale = 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"scale": 0.0}, mc.Error, "scale must be finite and > 0, got 0"),
        ({"scale": -1.0}, mc.Error, "scale must be finite and > 0, got -1"),
        ({"scale": float("nan")}, mc.Error, "scale must be finite and > 0, got nan"),
        ({"scale": float("inf")}, mc.Error, "scale must be finite and > 0, got inf"),
        ({"scale": 1e-60}, mc.Error, "scale must be finite and > 0 in float32, got 1e-60"),
        ({"scale": 1e39}, mc.Error, r"scale must be in the range of float32, got 1e\+39"),
        ({"scale": [], "axis": 0}, mc.Error, "scale must have at least one element"),
        ({"scale": "a"}, TypeError, "scale must be a number or a vector of numbers, got str"),
        ({"scale": object()}, TypeError, "scale must be a number or.*, got object"),
        ({"scale": {}}, TypeError, "scale must be a number or.*, got dict"),
        ({"scale": None}, TypeError, "scale must be a number or.*, got NoneType"),
        ({"scale": 1, "zero_point": None}, TypeError, "zero_point must be.*, got NoneType"),
        ({"scale": 1, "dtype": None}, TypeError, "dtype must be int8, .*, got None"),
        ({"scale": 1, "dtype": 5}, TypeError, "dtype must .*int8.*, got 5"),
        (
            {"scale": 1, "qmin": 5},
            mc.Error,
            r"zero_point must be in \[5, 127\] \(the default zero_point is 0\), got 0",
        ),
        (
            {"scale": 1, "zero_point": 128},
            mc.Error,
            r"zero_point must be in \[-128, 127\], got 128",
        ),
        ({"scale": 1, "zero_point": 0.5}, TypeError, "zero_point must be of an integer dtype"),
        ({"scale": [1, 2]}, mc.Error, "scale must be one number where axis is None, got 2"),
        ({"scale": [1, 2], "zero_point": [0, 0, 0], "axis": 0}, mc.Error, "as many elements as"),
        ({"scale": 1, "dtype": "float32"}, TypeError, "dtype must be int8, uint8.*got float32"),
        ({"scale": 1, "qmin": -129}, mc.Error, "qmin and qmax must satisfy -128 <= qmin"),
        ({"scale": 1, "qmin": 5, "qmax": 5}, mc.Error, "qmin and qmax must satisfy"),
    ],
)
def test_qparams_name_what_is_wrong(arguments, error, text):
    with pytest.raises(error, match=text):
        quant.QParams(**arguments)


X = np.ones((2, 3), np.float32)
READ_ONLY = np.ones((2, 3), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda q: quant.fake_quantize(X.astype(int), q), TypeError, "x must be float64"),
        (lambda q: quant.fake_quantize(X, q, out=X[:1]), mc.Error, "out"),
        (lambda q: quant.fake_quantize(X, q, out=X.astype("f8")), TypeError, "out"),
        (lambda q: quant.fake_quantize(X, q, out=READ_ONLY), mc.Error, "out must be writable"),
        (
            lambda q: quant.fake_quantize(X, q, bits=np.zeros(2, "u1")),
            mc.Error,
            r"bits must have 1 byte \(one bit an element\), got 2",
        ),
        (
            lambda q: quant.fake_quantize_affine(X, np.ones(1, "f4"), np.zeros(1, "i4"), 3, 1),
            mc.Error,
            r"\[quant.fake_quantize_affine\] qmin",
        ),
        (
            lambda q: quant.fake_quantize(np.float32(1), quant.QParams([1, 1], axis=-1)),
            mc.Error,
            r"at least 1 dimension where axis is given, got shape \(\)",
        ),
        (
            lambda q: quant.MinMaxObserver(axis=0).update(np.ones((), "f4")),
            mc.Error,
            r"x must have at least 1 dimension where axis is given, got shape \(\)",
        ),
        (lambda q: quant.qparams_from_range("a", 1), TypeError, "min must be a number.*, got str"),
        (lambda q: quant.qparams_from_range([], [], axis=0), mc.Error, "min must have at least"),
        (
            lambda q: quant.fake_quantize_affine(X, np.ones((1, 1), "f4"), np.zeros(1, "i4"), 0, 1),
            mc.Error,
            r"scale must be a number or a vector, got shape \(1, 1\)",
        ),
        (lambda q: quant.fake_quantize(X, q, bits=np.zeros(1, "i1")), TypeError, "bits must be"),
        (
            lambda q: quant.fake_quantize(X, q, compat="tfmot"),
            mc.Error,
            'compat must be None, "torch',
        ),
        (lambda q: quant.fake_quantize(X, q, compat="tf"), mc.Error, "fake_quantize_range"),
        (lambda q: quant.fake_quantize(X, q, nonfinite="keep"), mc.Error, "nonfinite must be"),
        (
            lambda q: quant.fake_quantize(X, quant.QParams([1, 1], axis=2)),
            IndexError,
            "axis must be",
        ),
        (
            lambda q: quant.fake_quantize(X, quant.QParams([1, 1], axis=1)),
            mc.Error,
            "scale must have 3 elements, the extent of axis 1, got 2",
        ),
        (lambda q: quant.quantize(X.astype(int), q), TypeError, "x must be float64"),
        (lambda q: quant.quantize(X, q, out=np.zeros((2, 3), "u1")), TypeError, "out"),
        (lambda q: quant.dequantize(X, q), TypeError, "q must be int8, got float32"),
        (
            lambda q: quant.dequantize(np.zeros(3, "u1"), quant.QParams(1, dtype="int4")),
            mc.Error,
            "shape or out must be given for packed 4-bit integers, got None for both",
        ),
        (
            lambda q: quant.dequantize(
                np.zeros(3, "u1"), quant.QParams(1, dtype="int4"), shape=[7]
            ),
            mc.Error,
            r"q must be a vector of 4 bytes \(two integers in each\), got shape \(3,\)",
        ),
        (
            lambda q: quant.dequantize(np.zeros(3, "i1"), q, shape=[3]),
            mc.Error,
            r"shape must be None.*, got shape \(3,\)",
        ),
        (
            lambda q: quant.fake_quantize_backward(X, np.zeros(2, "u1")),
            mc.Error,
            "bits must have 1",
        ),
        (lambda q: quant.fake_quantize_backward(X, np.zeros(1, "i1")), TypeError, "bits must be"),
        (lambda q: quant.fake_quantize_range(X, 1, 0), mc.Error, "finite with min < max"),
        (lambda q: quant.fake_quantize_range(X, 0, 1, num_bits=1), mc.Error, "num_bits must be in"),
        (lambda q: quant.fake_quantize_range(X, 0, 1, compat="torch"), mc.Error, "compat must be"),
        (lambda q: quant.fake_quantize_range(X.astype("f8"), 0, 1), TypeError, "x must be float32"),
        (
            lambda q: quant.fake_quantize_affine(X, np.ones(1), np.zeros(1, "i4"), 0, 1),
            TypeError,
            "scale must be float32",
        ),
        (
            lambda q: quant.fake_quantize_affine(X, np.ones(1, "f4"), np.zeros(1, "i4"), 3, 1),
            mc.Error,
            "qmin and qmax must be in",
        ),
        (lambda q: quant.qparams_from_range(1, 0), mc.Error, "finite with min <= max"),
        (lambda q: quant.qparams_from_range(0, np.inf), mc.Error, "finite with min <= max"),
        (lambda q: quant.qparams_from_range([0, 0], [1, 1]), mc.Error, "axis is None"),
        (
            lambda q: quant.qparams_from_range([0, 0], [1], axis=0),
            mc.Error,
            "max must have as many",
        ),
        (lambda q: quant.qparams_from_range(0, 1, "int32"), TypeError, "dtype must be"),
        (lambda q: quant.MinMaxObserver().update(X[:0]), mc.Error, "at least one element, got 0"),
        (lambda q: quant.MinMaxObserver().update(X.astype(int)), TypeError, "x must be float64"),
        (lambda q: quant.MinMaxObserver(axis=2).update(X), IndexError, "axis must be in"),
        (lambda q: quant.MinMaxObserver().qparams(), mc.Error, "update must have been called"),
        (
            lambda q: quant.MovingAverageObserver(0),
            mc.Error,
            r"momentum must be in \(0, 1\], got 0",
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(call, error, text):
    with pytest.raises(error, match=text):
        call(quant.QParams(0.5))
    assert X.tolist() == READ_ONLY.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_results_are_of_the_callers_kind():
    qp = quant.QParams(0.5)
    x = torch.randn(4, 5)
    assert isinstance(quant.fake_quantize(x, qp), torch.Tensor)
    q = quant.quantize(x, qp)
    assert q.dtype == torch.int8
    assert torch.equal(quant.dequantize(q, qp), quant.fake_quantize(x, qp))
    half = quant.fake_quantize(x.to(torch.bfloat16), qp)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, quant.fake_quantize(x.to(torch.bfloat16).float(), qp).bfloat16())
