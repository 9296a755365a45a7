# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import moptcore as mc
import numpy as np
import pytest
from moptcore import distill, quant

runtime = pytest.importorskip(
    "moptcore._runtime", reason="built without oneDNN", exc_type=ModuleNotFoundError
)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("zero_point", [0, 5])
def test_onednn_gives_our_bits_for_scales_that_are_powers_of_two(dtype, zero_point):
    x = (50 * np.random.default_rng(0).standard_normal((4, 3, 257))).astype(np.float32)
    for scale, axis in ((0.5, None), ([0.25, 1.0, 2.0], 1), ([0.25, 1.0, 2.0], -2)):
        qp = quant.QParams(scale=scale, zero_point=zero_point, dtype=dtype, axis=axis)
        q = quant.quantize(x, qp)
        np.testing.assert_array_equal(quant.quantize(x, qp, backend="onednn"), q)
        out = np.empty_like(q)
        assert quant.quantize(x, qp, out=out, backend="onednn") is out
        np.testing.assert_array_equal(out, q)
        np.testing.assert_array_equal(
            quant.dequantize(q, qp, backend="onednn"), quant.dequantize(q, qp)
        )


def test_onednn_returns_the_callers_kind():
    torch = pytest.importorskip("torch")
    x = torch.linspace(-2, 2, 101)
    qp = quant.QParams(scale=0.25)
    q = quant.quantize(x, qp, backend="onednn")
    assert q.dtype == torch.int8
    assert torch.equal(q, quant.quantize(x, qp))
    assert torch.equal(quant.dequantize(q, qp, backend="onednn"), quant.dequantize(q, qp))


def test_the_backend_is_named_when_it_cannot():
    qp = quant.QParams(scale=0.25)
    x = np.ones(4, np.float32)
    with pytest.raises(mc.Error, match=r"\[quant.quantize\] backend must be None or .*got tpu"):
        quant.quantize(x, qp, backend="tpu")
    with pytest.raises(mc.UnsupportedError, match="takes float32, got float64"):
        quant.quantize(x.astype(np.float64), qp, backend="onednn")
    with pytest.raises(mc.UnsupportedError, match="contiguous"):
        quant.quantize(np.ones(8, np.float32)[::2], qp, backend="onednn")
    with pytest.raises(mc.UnsupportedError, match="compat=None"):
        quant.quantize(x, qp, backend="onednn", compat="torch")
    with pytest.raises(mc.NonFiniteError, match="x must not contain NaN"):
        quant.quantize(x * np.nan, qp, backend="onednn")


def test_a_missing_library_is_reported_with_what_to_install():
    code = """
import sys
sys.modules["moptcore._runtime"] = None  # importing it raises ImportError
import numpy as np, moptcore as mc
try:
    mc.quant.quantize(np.ones(3, np.float32), mc.quant.QParams(0.5), backend="onednn")
except mc.UnsupportedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install onednn-cpu-gomp" in done.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_wait_for_a_short_time_unless_the_user_says_otherwise(given, expected):
    code = "import os, moptcore; print(sorted(name for name in os.environ if 'GOMP' in name))"
    own = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=own | given | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    # libgomp's own report of what it has read.
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
    assert done.stdout.strip() == str([name for name in given if "GOMP" in name])


def test_the_core_does_not_load_onednn():
    code = """
import numpy as np, moptcore as mc
mc.quant.quantize(np.ones(3, np.float32), mc.quant.QParams(0.5))
print("libdnnl" in open("/proc/self/maps").read())
mc.quant.quantize(np.ones(3, np.float32), mc.quant.QParams(0.5), backend="onednn")
print("libdnnl" in open("/proc/self/maps").read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def logits(rows, classes, spread=6.0, seed=1):
    random = np.random.default_rng(seed)
    student, teacher = (
        (spread * random.standard_normal((rows, classes))).astype(np.float32) for _ in range(2)
    )
    return student, teacher, random.integers(0, classes, rows)


@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (7, 3), (37, 1000), (3, 20011)])
@pytest.mark.parametrize(
    ("temperature", "alpha", "smoothing"),
    [(4.0, 0.7, 0.0), (1.0, 0.4, 0.1), (0.5, 0.0, 0.2), (3.0, 1.0, 0.0)],
)
def test_onednns_soft_target_loss_is_the_formula(rows, classes, temperature, alpha, smoothing):
    student, teacher, labels = logits(rows, classes)
    options = {"temperature": temperature, "alpha": alpha, "label_smoothing": smoothing}
    out = np.empty_like(student)
    loss, grad = distill.soft_target_loss(
        student, teacher, labels, **options, out=out, backend="onednn"
    )
    assert grad is out

    s, t = student.astype(np.float64), teacher.astype(np.float64)
    log_p, log_q, log_r = log_softmax(s / temperature), log_softmax(t / temperature), log_softmax(s)
    p, q, r = np.exp(log_p), np.exp(log_q), np.exp(log_r)
    target = np.full(s.shape, smoothing / classes)
    target[np.arange(rows), labels] += 1 - smoothing
    hard = 1 - alpha
    expected = alpha * temperature**2 * (q * (log_q - log_p)).sum(-1)
    expected += hard * -(target * log_r).sum(-1)
    by = alpha * temperature * (p - q) + hard * (r - target)

    # e of runtime/soft_targets.hpp for the softened and for the plain logits. A gradient q - p sum
    # has e in q, in p and in the sum of the q; four roundings by weights and sums are below e. So
    # is float's least normal number, 2^-126, by which an exponential may miss.
    largest = max(np.abs(s).max(), np.abs(t).max())
    e, e1 = ((10 * high + classes + 32) * 2.0**-24 for high in (largest / temperature, largest))
    by_bound = 3 * (alpha * temperature * (p + q) * e + hard * (r + target) * e1) + 2.0**-120
    assert (np.abs(grad * rows - by) <= by_bound).all()
    bound = alpha * temperature**2 * e * (2 + 2 * (q * np.abs(log_q - log_p)).sum(-1)) + hard * e1
    assert abs(loss - expected.mean()) <= bound.mean()

    each, summed = distill.soft_target_loss(
        student, teacher, labels, **options, reduction="none", backend="onednn"
    )
    # One more rounding to float.
    assert (np.abs(each - expected) <= bound + np.abs(expected) * 2.0**-24).all()
    assert (np.abs(summed - by) <= by_bound).all()


def test_onednns_soft_target_loss_treats_odd_rows_as_ours_does():
    student, teacher, labels = logits(8, 50)
    student[1, 4] = -np.inf
    teacher[2, 7] = -np.inf
    student[3, 0] = np.nan
    teacher[4, 1] = np.inf
    labels[5] = -100
    student[5] = np.nan
    student[6, 3] = np.finfo(np.float32).max
    rare = {"ignore_index": -100, "reduction": "none", "temperature": 0.25}
    ours, grad = distill.soft_target_loss(student, teacher, labels, **rare)
    out = student.copy()
    other, _ = distill.soft_target_loss(out, teacher, labels, **rare, out=out, backend="onednn")
    odd = [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(out[odd], grad[odd])
    np.testing.assert_array_equal(other[odd], ours[odd])
    # L < 6 * 5 / 0.25 in the others: e < 1300 u = 8e-5, and losses of about 100.
    np.testing.assert_allclose(other[[0, 7]], ours[[0, 7]], rtol=1e-3)
    alone, _ = distill.soft_target_loss(student[:1], teacher[:1], backend="onednn")
    # Without labels, temperature 4: e < (10 * 7.5 + 82) u.
    assert alone == pytest.approx(distill.soft_target_loss(student[:1], teacher[:1])[0], rel=1e-4)


def test_onednns_soft_target_loss_has_equal_bits_on_any_threads():
    student, teacher, labels = logits(70, 900)
    before = mc.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            mc.set_num_threads(threads)
            loss, grad = distill.soft_target_loss(student, teacher, labels, backend="onednn")
            found.append((loss, grad.tobytes()))
    finally:
        mc.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_onednns_soft_target_loss_names_what_it_takes():
    student, teacher, labels = logits(4, 6)
    for bad, message in (
        ({"student": student.astype(np.float64)}, "takes a float32 student, got float64"),
        ({"teacher": teacher.astype(np.float16)}, "takes a float32 teacher, got float16"),
        ({"student": np.asfortranarray(student)}, "takes contiguous tensors, strides"),
        ({"axis": 0, "labels": None}, "takes classes in the last axis"),
        ({"standardize": True}, "takes standardize=False and mask=None"),
        ({"mask": np.ones(4, bool)}, "takes standardize=False and mask=None"),
    ):
        arguments = {"student": student, "teacher": teacher, "labels": labels} | bad
        with pytest.raises(mc.UnsupportedError, match=message):
            distill.soft_target_loss(**arguments, backend="onednn")
    with pytest.raises(mc.Error, match=r"backend must be None or .*got tpu"):
        distill.soft_target_loss(student, teacher, backend="tpu")
    for backend in (None, "onednn"):
        with pytest.raises(mc.Error, match=r"labels must be in \[0, 6\) .*got 6 at row 0"):
            distill.soft_target_loss(student, teacher, labels * 0 + 6, backend=backend)
        with pytest.raises(mc.Error, match="temperature must be > 0"):
            distill.soft_target_loss(student, teacher, temperature=0.0, backend=backend)


def linear_operands(rows, inputs, outputs, most, seed=3):
    random = np.random.default_rng(seed)
    x = (40 * random.standard_normal((rows, inputs))).astype(np.float32)
    weight = random.integers(-most, most + 1, (outputs, inputs)).astype(np.int8)
    scale = (random.standard_normal(outputs) / 100).astype(np.float32)
    bias = random.integers(-(2**31), 2**31, outputs).astype(np.int32)
    return x, weight, scale, bias


def has_vnni():
    # A limit in the environment counts, too: oneDNN heeds it.
    return " avx512_vnni" in Path("/proc/cpuinfo").read_text(encoding="ascii")


def assert_equal_linear(x, scale, zero_point, weight, weight_scale, bias, **grid):
    arguments = (x, scale, zero_point, weight, weight_scale, bias)
    ours = runtime.integer_linear(*arguments, **grid)
    other = runtime.integer_linear(*arguments, **grid, backend="onednn")
    np.testing.assert_array_equal(other.view(np.int32), ours.view(np.int32))


@pytest.mark.parametrize(
    ("zero_point", "grid"),
    [
        (0, {}),
        (131, {"qmin": 0, "qmax": 200}),
        (-7, {"qmin": -128, "qmax": 127}),
        (0, {"qmin": -127, "qmax": 127}),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (300, 65, 40), (3, 1031, 17)])
def test_onednns_integer_linear_has_our_bits_for_weights_of_seven_bits(shape, zero_point, grid):
    x, weight, scale, bias = linear_operands(*shape, most=64)
    # No bias, one that leaves 32 bit with the sum, and one that does not.
    for each in (None, bias, bias // 1000):
        assert_equal_linear(x, 0.3, zero_point, weight, scale, each, **grid)


@pytest.mark.parametrize("sign", [1, -1])
def test_onednns_integer_linear_is_exact_at_the_ends_of_seven_bits(sign):
    # 255 * 64 in every product, so that any two make 32640 and all 20000 of them 326 million.
    x = np.full((2, 20000), 255, np.float32)
    weight = np.full((3, 20000), sign * 64, np.int8)
    one = np.ones(3, np.float32)
    got = runtime.integer_linear(x, 1.0, 0, weight, one, backend="onednn")
    np.testing.assert_array_equal(got, np.full((2, 3), sign * 255 * 64 * 20000, np.float32))


def test_onednns_integer_linear_refuses_what_would_saturate():
    if has_vnni():
        pytest.skip("this CPU has AVX512_VNNI, where nothing saturates")
    x, weight, scale, _ = linear_operands(4, 8, 3, most=64)
    for value in (65, -65, -128):
        weight[2, 5] = value
        with pytest.raises(
            mc.UnsupportedError,
            match=rf"weights in \[-64, 64\].*AVX512_VNNI.*saturate.*got {abs(value)}",
        ):
            runtime.integer_linear(x, 0.3, 0, weight, scale, backend="onednn")


def test_onednns_integer_linear_has_our_bits_for_any_weights_with_vnni():
    if not has_vnni():
        pytest.skip("this CPU lacks AVX512_VNNI")
    for shape in ((5, 7, 3), (300, 65, 40), (3, 1031, 17)):
        x, weight, scale, bias = linear_operands(*shape, most=127)
        weight[0] = -128
        assert_equal_linear(x, 0.3, 131, weight, scale, bias)
    x = np.full((2, 20000), 255, np.float32)
    weight = np.full((3, 20000), 127, np.int8)
    assert_equal_linear(x, 1.0, 0, weight, np.ones(3, np.float32), None)


def test_onednns_integer_linear_names_what_it_takes():
    x, weight, scale, _ = linear_operands(4, 8, 3, most=64)
    with pytest.raises(mc.Error, match=r"backend must be None or .*got tpu"):
        runtime.integer_linear(x, 0.3, 0, weight, scale, backend="tpu")
    with pytest.raises(mc.UnsupportedError, match="x must be contiguous"):
        runtime.integer_linear(np.asfortranarray(x), 0.3, 0, weight, scale, backend="onednn")
    x[3, 7] = np.nan
    with pytest.raises(
        mc.NonFiniteError, match=r"\[runtime.integer_linear\] x must not contain NaN"
    ):
        runtime.integer_linear(x, 0.3, 0, weight, scale, backend="onednn")
