# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import moptcore as mc
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from moptcore import _core, distill
from reference import distill as reference

ISAS = _core.available_isas()


@pytest.fixture(autouse=True)
def _one_isa_and_thread():
    yield
    _core.set_max_isa("")
    mc.set_num_threads(2)


def logits(rows, classes, seed=0, spread=3.0):
    draw = np.random.default_rng(seed)
    student = (spread * draw.standard_normal((rows, classes))).astype(np.float32)
    teacher = (spread * draw.standard_normal((rows, classes))).astype(np.float32)
    return student, teacher, draw.integers(0, classes, rows)


def torch_composite(student, teacher, labels, temperature, alpha, eps, ignore):
    s = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(teacher, dtype=torch.float64)
    y = torch.tensor(labels)
    kept = y != ignore
    soft = F.kl_div(
        F.log_softmax(s[kept] / temperature, -1),
        F.softmax(t[kept] / temperature, -1),
        reduction="batchmean",
    )
    hard = F.cross_entropy(s, y, label_smoothing=eps, ignore_index=ignore)
    loss = alpha * temperature**2 * soft + (1 - alpha) * hard
    loss.backward()
    return loss.item(), s.grad.numpy()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("classes", [1, 2, 7, 8, 15, 16, 17, 33, 129, 1000, 1024, 1025, 2500])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.0, 4.0])
def test_equals_torch_in_float64(isa, classes, temperature):
    _core.set_max_isa(isa)
    student, teacher, labels = logits(5, classes, seed=classes)
    labels[2] = -7
    for alpha in (0.0, 0.7, 1.0):
        for eps in (0.0, 0.1):
            expected, grad = torch_composite(student, teacher, labels, temperature, alpha, eps, -7)
            loss, got = distill.soft_target_loss(
                student, teacher, labels, temperature, alpha, label_smoothing=eps, ignore_index=-7
            )
            loss_bound, grad_bound = reference.soft_target_bounds(
                student, teacher, temperature, alpha
            )
            assert got.dtype == np.float32
            assert abs(loss - expected) <= loss_bound
            np.testing.assert_allclose(got, grad, rtol=0, atol=grad_bound / 4)
            assert np.all(got[2] == 0)


@pytest.mark.parametrize("isa", ISAS)
def test_float64_equals_torch_to_rounding(isa):
    _core.set_max_isa(isa)
    student, teacher, labels = (x.astype(np.float64) for x in logits(7, 133))
    labels = labels.astype(np.int32)
    expected, grad = torch_composite(student, teacher, labels.astype(int), 3.0, 0.3, 0.2, -100)
    loss, got = distill.soft_target_loss(student, teacher, labels, 3.0, 0.3, label_smoothing=0.2)
    loss_bound, grad_bound = reference.soft_target_bounds(student, teacher, 3.0, 0.3)
    # The bounds of float hold for double with 2^-53 in the place of 2^-24.
    assert abs(loss - expected) <= loss_bound * 2.0**-29
    np.testing.assert_allclose(got, grad, rtol=0, atol=grad_bound * 2.0**-29)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_computed_in_float_and_rounded_once(dtype):
    student, teacher, labels = (torch.tensor(x) for x in logits(6, 50))
    student, teacher = student.to(dtype), teacher.to(dtype)
    expected, wide = distill.soft_target_loss(student.float(), teacher.float(), labels)
    loss, grad = distill.soft_target_loss(student, teacher, labels)
    assert loss == expected
    assert grad.dtype == dtype
    assert torch.equal(grad, wide.to(dtype))


def test_teacher_may_have_another_dtype():
    student, teacher, labels = (torch.tensor(x) for x in logits(6, 50))
    half = teacher.to(torch.bfloat16)
    one = distill.soft_target_loss(student, half, labels)
    other = distill.soft_target_loss(student, half.float(), labels)
    assert one[0] == other[0]
    assert torch.equal(one[1], other[1])


def test_reductions_agree():
    student, teacher, labels = logits(9, 30)
    labels[4] = -100
    rows, rows_grad = distill.soft_target_loss(student, teacher, labels, reduction="none")
    expected, grads = reference.soft_target_rows(student, teacher, labels, 4.0, 0.7)
    loss_bound, grad_bound = reference.soft_target_bounds(student, teacher, 4.0, 0.7)
    np.testing.assert_allclose(rows, expected, rtol=2**-23, atol=loss_bound)
    np.testing.assert_allclose(rows_grad, grads, rtol=0, atol=grad_bound)
    assert rows[4] == 0
    total, total_grad = distill.soft_target_loss(student, teacher, labels, reduction="sum")
    mean, _ = distill.soft_target_loss(student, teacher, labels)
    np.testing.assert_array_equal(total_grad, rows_grad)
    assert mean == total / 8
    # Each row's loss was rounded to float32 before this sum.
    assert abs(total - rows.sum(dtype=np.float64)) <= 2.0**-24 * np.abs(rows).sum()


def test_any_axis_and_strides_give_the_bits_of_contiguous_rows():
    draw = np.random.default_rng(3)
    student, teacher = draw.standard_normal((2, 2, 5, 3, 4)).astype(np.float32)
    labels = draw.integers(0, 5, (2, 3, 4))
    loss, grad = distill.soft_target_loss(student, teacher, labels, axis=1)
    last_loss, last = distill.soft_target_loss(
        np.ascontiguousarray(np.moveaxis(student, 1, -1)),
        np.ascontiguousarray(np.moveaxis(teacher, 1, -1)),
        labels,
    )
    assert loss == last_loss
    np.testing.assert_array_equal(np.moveaxis(grad, 1, -1), last)
    reversed_loss, reversed_grad = distill.soft_target_loss(
        student[:, ::-1, ::-1], teacher[:, ::-1, ::-1], 4 - labels[:, ::-1], axis=-3
    )
    same = np.moveaxis(reversed_grad[:, ::-1, ::-1], 1, -1)
    # The classes are added in another order: 2 ulp of a probability, times T / rows.
    np.testing.assert_allclose(same, last, rtol=0, atol=2 * 2.0**-23 * 4 / 24)
    assert abs(reversed_loss - loss) < 1e-5
    # One teacher row for all: stride 0.
    shared = np.broadcast_to(teacher[:1, :, :1, :1], teacher.shape)
    one = distill.soft_target_loss(student, shared, labels, axis=1)
    other = distill.soft_target_loss(student, shared.copy(), labels, axis=1)
    assert one[0] == other[0]
    np.testing.assert_array_equal(one[1], other[1])


def test_a_vector_is_one_row():
    student, teacher, labels = logits(1, 10)
    loss, grad = distill.soft_target_loss(student, teacher, labels)
    single, single_grad = distill.soft_target_loss(student[0], teacher[0], labels[0])
    assert loss == single
    np.testing.assert_array_equal(grad[0], single_grad)


def test_out_receives_the_gradient_and_may_be_the_student():
    student, teacher, labels = logits(6, 21)
    loss, grad = distill.soft_target_loss(student, teacher, labels)
    for name in ("student", "teacher"):
        student, teacher, labels = logits(6, 21)
        target = student if name == "student" else teacher
        same_loss, out = distill.soft_target_loss(student, teacher, labels, out=target)
        assert out is target
        assert same_loss == loss
        np.testing.assert_array_equal(out, grad)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e4, 1e30, 3e38])
def test_huge_logits_stay_finite(kind, scale):
    student = np.array([[1, -1, 0], [1, 1, 1], [-1, -1, 1]], kind) * np.array(scale, kind)
    teacher = np.array([[-1, 1, 0], [1, 1, 1], [-1, -1, 1]], kind) * np.array(scale, kind)
    labels = np.array([0, 1, 2])
    losses, grad = distill.soft_target_loss(
        student.astype(np.float64), teacher.astype(np.float64), labels, reduction="none"
    )
    # Row 0: teacher sure of class 1, which the student gives 2 scale / T less; row 1 is uniform.
    expected = [0.7 * 16 * 2 * float(student[0, 0]) / 4, 0.3 * np.log(3), 0]
    np.testing.assert_allclose(losses, expected, rtol=1e-15, atol=1e-15)
    loss, narrow = distill.soft_target_loss(student, teacher, labels, reduction="sum")
    assert np.isfinite(loss)
    np.testing.assert_allclose(loss, losses.sum(), rtol=1e-6)
    np.testing.assert_allclose(narrow, grad, rtol=0, atol=1e-6)
    np.testing.assert_allclose(grad[0], [0.7 * 4, -0.7 * 4, 0], atol=1e-15)


def test_equal_logits_have_no_soft_loss_and_no_gradient():
    student, _, _ = logits(5, 77)
    loss, grad = distill.soft_target_loss(student, student)
    assert loss == 0
    assert np.all(grad == 0)


def test_labels_none_means_alpha_1():
    student, teacher, labels = logits(5, 12)
    bare = distill.soft_target_loss(student, teacher, alpha=0.2)
    soft = distill.soft_target_loss(student, teacher, labels, alpha=1.0)
    assert bare[0] == soft[0]
    np.testing.assert_array_equal(bare[1], soft[1])


def test_a_term_of_weight_zero_is_not_evaluated():
    student, teacher, labels = logits(4, 9)
    expected = distill.soft_target_loss(student, teacher, labels, alpha=0.0)
    got = distill.soft_target_loss(student, np.full_like(teacher, np.nan), labels, alpha=0.0)
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])


def test_nan_and_plus_infinity_make_their_row_nan_and_no_other():
    student, teacher, labels = logits(4, 9)
    expected, grad = distill.soft_target_loss(student, teacher, labels, reduction="none")
    for bad in (np.nan, np.inf):
        for array in (student, teacher):
            kept = array[1, 3]
            array[1, 3] = bad
            losses, got = distill.soft_target_loss(student, teacher, labels, reduction="none")
            total, _ = distill.soft_target_loss(student, teacher, labels)
            array[1, 3] = kept
            assert np.isnan(total)
            assert np.isnan(losses[1])
            assert np.all(np.isnan(got[1]))
            np.testing.assert_array_equal(np.delete(losses, 1), np.delete(expected, 1))
            np.testing.assert_array_equal(np.delete(got, 1, 0), np.delete(grad, 1, 0))


def test_minus_infinity_is_a_class_of_probability_zero():
    student, teacher, labels = logits(3, 9)
    labels[:] = 0
    padded_student = np.pad(student, ((0, 0), (0, 2)), constant_values=-np.inf)
    padded_teacher = np.pad(teacher, ((0, 0), (0, 2)), constant_values=-np.inf)
    loss, grad = distill.soft_target_loss(student, teacher, labels)
    masked, masked_grad = distill.soft_target_loss(padded_student, padded_teacher, labels)
    loss_bound, grad_bound = reference.soft_target_bounds(student, teacher, 4.0, 0.7)
    assert abs(loss - masked) <= loss_bound
    np.testing.assert_allclose(masked_grad[:, :9], grad, rtol=0, atol=grad_bound)
    assert np.all(masked_grad[:, 9:] == 0)
    # The teacher believes in what the student excludes: infinitely wrong, with a finite slope.
    loss, grad = distill.soft_target_loss(padded_student, np.zeros_like(padded_teacher))
    assert loss == np.inf
    assert np.all(np.isfinite(grad))


def test_all_rows_ignored_or_none_at_all_is_zero():
    student, teacher, labels = logits(3, 9)
    loss, grad = distill.soft_target_loss(student, teacher, np.full_like(labels, -100))
    assert loss == 0
    assert np.all(grad == 0)
    loss, grad = distill.soft_target_loss(student[:0], teacher[:0], labels[:0])
    assert loss == 0
    assert grad.shape == (0, 9)


def test_threads_do_not_change_a_bit():
    student, teacher, labels = logits(300, 513)
    mc.set_num_threads(1)
    expected = distill.soft_target_loss(student, teacher, labels)
    for threads in (2, 3, 8):
        mc.set_num_threads(threads)
        got = distill.soft_target_loss(student, teacher, labels)
        assert got[0] == expected[0]
        np.testing.assert_array_equal(got[1], expected[1])


def test_the_gradient_is_the_slope_of_the_loss():
    student, teacher, labels = (x.astype(np.float64) for x in logits(2, 6))
    labels = labels.astype(np.int64)
    options = {"temperature": 2.5, "alpha": 0.4, "label_smoothing": 0.15}
    _, grad = distill.soft_target_loss(student, teacher, labels, **options)
    step = 1e-5
    for index in np.ndindex(student.shape):
        moved = [student.copy(), student.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        high, low = (distill.soft_target_loss(m, teacher, labels, **options)[0] for m in moved)
        # Central difference: truncation step^2 / 6 times a third derivative below 1, and
        # cancellation 2^-52 |loss| / step.
        assert abs((high - low) / (2 * step) - grad[index]) < 1e-10 + 2.0**-50 / step


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, r"\[distill.soft_target_loss\] temperature must be > 0 .*got 0"),
        ({"temperature": float("nan")}, "temperature must be > 0 and finite, got nan"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"alpha": float("nan")}, r"alpha must be in \[0, 1\], got nan"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\], got -0.1"),
        ({"reduction": "mean"}, "reduction must be batchmean, sum or none, got mean"),
        ({"labels": np.array([0, 9, 0])}, r"labels must be in \[0, 9\) .*-100.*got 9 at row 1"),
        ({"labels": np.array([0, 0, -1])}, "got -1 at row 2"),
        ({"labels": np.array([0, 0])}, r"labels must have the student's shape .*got \(2,\)"),
        ({"teacher": np.zeros((3, 8), "f")}, r"teacher must have .*\(3, 9\), got \(3, 8\)"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(change, message):
    student, teacher, labels = logits(3, 9)
    arguments = {"student": student, "teacher": teacher, "labels": labels, **change}
    out = np.full_like(student, 7)
    with pytest.raises(mc.Error, match=message):
        distill.soft_target_loss(**arguments, out=out)
    assert np.all(out == 7)


@pytest.mark.parametrize(
    "change",
    [
        {"student": np.zeros((3, 9), np.int64)},
        {"teacher": np.zeros((3, 9), np.int32)},
        {"labels": np.zeros(3, np.float32)},
        {"labels": np.zeros(3, bool)},
        {"out": np.zeros((3, 9), np.float64)},
    ],
)
def test_wrong_dtypes_raise_type_error(change):
    student, teacher, labels = logits(3, 9)
    arguments = {"student": student, "teacher": teacher, "labels": labels, **change}
    with pytest.raises(TypeError):
        distill.soft_target_loss(**arguments)


def test_wrong_axis_raises_index_error():
    student, teacher, labels = logits(3, 9)
    with pytest.raises(IndexError, match=r"axis must be in \[-2, 2\), got 2"):
        distill.soft_target_loss(student, teacher, labels, axis=2)


def test_no_class_is_an_error():
    with pytest.raises(mc.Error, match="at least one class"):
        distill.soft_target_loss(np.zeros((3, 0), "f"), np.zeros((3, 0), "f"))


def feature_case(dtype=np.float32, shape=(2, 3, 4, 11), out=7):
    draw = np.random.default_rng(5)
    student = draw.standard_normal(shape).astype(dtype)
    teacher = draw.standard_normal((*shape[:-1], out)).astype(dtype)
    adaptor = draw.standard_normal((out, shape[-1])).astype(dtype)
    bias = draw.standard_normal(out).astype(dtype)
    return student, teacher, adaptor, bias


def torch_feature(student, teacher, adaptor=None, bias=None):
    s, w, b = (
        None if x is None else torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (student, adaptor, bias)
    )
    mapped = s if w is None else F.linear(s, w, b)
    loss = F.mse_loss(mapped, torch.tensor(teacher, dtype=torch.float64))
    loss.backward()
    return loss.item(), *(x.grad.numpy() for x in (s, w, b) if x is not None)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_feature_loss_equals_torch(isa, dtype):
    _core.set_max_isa(isa)
    unit = np.finfo(dtype).eps / 2
    student, teacher, adaptor, bias = feature_case(dtype)
    cases = [
        (student, student[::-1]),
        (student, teacher, adaptor),
        (student, teacher, adaptor, bias),
    ]
    for case in cases:
        expected = torch_feature(*(x.copy() for x in case))
        plain = reference.feature_loss(*case)
        got = distill.feature_loss(*case)
        assert len(got) == len(expected)
        assert abs(plain[0] - expected[0]) <= 1e-14 * expected[0]
        # A residual adds at most 13 terms, its square doubles the relative error, and a mean of
        # squares adds none that counts: (2 * 13 + 4) units of |s| |A| + |b| + |t| <= 64.
        assert abs(got[0] - expected[0]) <= 30 * 64 * unit * max(1, np.sqrt(expected[0]))
        for ours, theirs in zip(got[1:], expected[1:], strict=True):
            assert ours.dtype == dtype
            assert ours.shape == theirs.shape
            # The same relative error of the residuals (up to 64), summed over up to 24 of them
            # with factors up to 4, times 2 / n.
            bound = 14 * unit * 64 * 24 * 4 * 2 / case[1].size
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)


def test_feature_loss_takes_any_stride_and_half():
    student, teacher, adaptor, bias = feature_case()
    expected = distill.feature_loss(student, teacher, adaptor, bias)
    fortran = [np.asfortranarray(x) for x in (student, teacher, adaptor, bias)]
    for ours, theirs in zip(distill.feature_loss(*fortran), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    half = [torch.tensor(x).to(torch.bfloat16) for x in (student, teacher, adaptor, bias)]
    wide = distill.feature_loss(*(x.float() for x in half))
    narrow = distill.feature_loss(*half)
    assert narrow[0] == wide[0]
    for ours, theirs in zip(narrow[1:], wide[1:], strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, theirs.to(torch.bfloat16))


def test_feature_loss_in_place_and_on_any_number_of_threads():
    draw = np.random.default_rng(1)
    student, teacher = draw.standard_normal((2, 300, 200)).astype(np.float32)
    adaptor = draw.standard_normal((200, 200)).astype(np.float32)
    for extra in ((), (adaptor,)):
        mc.set_num_threads(1)
        expected = distill.feature_loss(student, teacher, *extra)
        mc.set_num_threads(4)
        target = student.copy()
        got = distill.feature_loss(target, teacher, *extra, out=target)
        assert got[0] == expected[0]
        assert got[1] is target
        for ours, theirs in zip(got[1:], expected[1:], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_feature_loss_propagates_nan_and_takes_empty_tensors():
    student, teacher = np.ones((2, 4, 5), np.float32)
    teacher[1, 2] = np.nan
    loss, grad = distill.feature_loss(student, teacher)
    assert np.isnan(loss)
    assert np.isnan(grad[1, 2])
    assert np.isnan(grad).sum() == 1
    loss, grad = distill.feature_loss(student[:0], teacher[:0])
    assert loss == 0
    assert grad.shape == (0, 5)
    loss, grad, adaptor_grad = distill.feature_loss(student[:0], teacher[:0], np.ones((5, 5), "f"))
    assert loss == 0
    assert np.all(adaptor_grad == 0)


def test_feature_loss_names_what_does_not_fit():
    student, teacher, adaptor, bias = feature_case()
    with pytest.raises(mc.Error, match=r"\[distill.feature_loss\] teacher must have the student's"):
        distill.feature_loss(student, teacher)
    with pytest.raises(mc.Error, match="student must have the adaptor's 7 inputs"):
        distill.feature_loss(student, teacher, adaptor.T)
    with pytest.raises(mc.Error, match=r"teacher must have the adapted shape \(2, 3, 4, 7\)"):
        distill.feature_loss(student, student, adaptor)
    with pytest.raises(mc.Error, match=r"bias must have the adaptor's outputs \(7,\), got \(6,\)"):
        distill.feature_loss(student, teacher, adaptor, bias[:6])
    with pytest.raises(mc.Error, match="bias must come with an adaptor"):
        distill.feature_loss(student, student, bias=bias)
    with pytest.raises(TypeError, match="adaptor must be float64"):
        distill.feature_loss(student, teacher, adaptor.astype(np.int32))
