# SPDX-License-Identifier: Apache-2.0
"""The losses between features and relations, against slow formulas and torch's autograd."""

from __future__ import annotations

import moptcore as mc
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from moptcore import distill
from reference import distill as reference


@pytest.fixture(autouse=True)
def _one_thread():
    yield
    mc.set_num_threads(2)


def attention(s, t, p=2.0, axis=1):
    maps = [F.normalize(x.abs().pow(p).sum(axis).flatten(1)) for x in (s, t)]
    return (maps[0] - maps[1]).pow(2).mean()


def pair_distances(x):
    squares = (x[:, None] - x[None]).pow(2).sum(-1)
    off = squares > 0
    return torch.where(off, squares, torch.ones_like(squares)).sqrt() * off


def relational(s, t, distance=25.0, angle=50.0):
    s, t = s.flatten(1), t.flatten(1)
    ds, dt = pair_distances(s), pair_distances(t)
    loss = distance * F.smooth_l1_loss(ds / ds[ds > 0].mean(), dt / dt[dt > 0].mean())
    cosines = []
    for x in (s, t):
        e = F.normalize(x[None] - x[:, None], dim=2)
        cosines.append(torch.bmm(e, e.transpose(1, 2)))
    return loss + angle * F.smooth_l1_loss(*cosines)


def similarity(s, t):
    g = [F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (s, t)]
    return (g[0] - g[1]).pow(2).mean()


def dist(s, t, inter=1.0, intra=1.0, temperature=1.0, axis=-1):
    p, q = ((x.movedim(axis, -1).flatten(0, -2) / temperature).softmax(-1) for x in (s, t))

    def correlation(a, b):
        return F.cosine_similarity(a - a.mean(1, True), b - b.mean(1, True), dim=1, eps=1e-300)

    rows, classes = 1 - correlation(p, q).mean(), 1 - correlation(p.T, q.T).mean()
    return temperature**2 * (inter * rows + intra * classes)


def cosine(s, t, axis=-1):
    return (1 - F.cosine_similarity(s, t, dim=axis, eps=1e-300)).mean()


CASES = {
    "attention": (distill.attention_loss, attention, reference.attention_loss, {}),
    "attention of magnitudes": (
        distill.attention_loss,
        attention,
        reference.attention_loss,
        {"p": 1.0, "axis": 2},
    ),
    "attention of cubes": (
        distill.attention_loss,
        attention,
        reference.attention_loss,
        {"p": 3.0, "axis": -1},
    ),
    "relational": (distill.relational_loss, relational, reference.relational_loss, {}),
    "distances": (
        distill.relational_loss,
        relational,
        reference.relational_loss,
        {"distance": 2.0, "angle": 0.0},
    ),
    "angles": (
        distill.relational_loss,
        relational,
        reference.relational_loss,
        {"distance": 0.0, "angle": 3.0},
    ),
    "similarity": (distill.similarity_loss, similarity, reference.similarity_loss, {}),
    "dist": (distill.dist_loss, dist, None, {}),
    "dist at a temperature": (
        distill.dist_loss,
        dist,
        None,
        {"inter": 2.0, "intra": 0.5, "temperature": 4.0, "axis": 1},
    ),
    "cosine": (distill.cosine_loss, cosine, reference.cosine_loss, {}),
    "cosine along channels": (distill.cosine_loss, cosine, None, {"axis": 1}),
}


def features(shape=(6, 5, 3, 4), seed=0, dtype=np.float64):
    draw = np.random.default_rng(seed)
    return draw.standard_normal(shape).astype(dtype), draw.standard_normal(shape).astype(dtype)


def by_torch(loss, student, teacher, options):
    s = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    value = loss(s, torch.tensor(teacher, dtype=torch.float64), **options)
    value.backward()
    return value.item(), s.grad.numpy()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", [(6, 5, 3, 4), (17, 4, 1, 9), (2, 3, 2, 2), (40, 7, 2, 3)])
def test_equals_autograd_in_float64(case, shape):
    core, composite, slow, options = CASES[case]
    student, teacher = features(shape)
    expected, slope = by_torch(composite, student, teacher, options)
    loss, grad = core(student, teacher, **options)
    # Sums of at most 64000 terms and ratios of norms: 1e-11 of the largest slope leaves five
    # digits of double for the cancellation in differences and in 1 - cosine.
    # Two samples have one distance, which is 1 of its mean on both sides: a loss of 0.
    np.testing.assert_allclose(loss, expected, rtol=1e-11, atol=1e-16)
    np.testing.assert_allclose(grad, slope, rtol=0, atol=1e-11 * np.abs(slope).max() + 1e-16)
    if slow is not None and shape[0] < 10:
        expected = slow(student, teacher, **options)
        np.testing.assert_allclose(loss, expected, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_the_slope(case):
    core, _, _, options = CASES[case]
    student, teacher = features((4, 3, 2, 2), seed=5)
    _, grad = core(student, teacher, **options)
    slope = reference.slopes(lambda x: core(x, teacher, **options)[0], student)
    # Central differences of step 1e-6 are right to 1e-12 by curvature, 1e-16 / 1e-6 of a loss
    # of up to 100 by rounding.
    np.testing.assert_allclose(grad, slope, rtol=1e-6, atol=3e-8)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_are_computed_in_double_and_rounded_once(case, dtype):
    core, _, _, options = CASES[case]
    student, teacher = (torch.tensor(x).to(dtype) for x in features())
    expected, wide = core(student.double(), teacher.double(), **options)
    loss, grad = core(student, teacher, **options)
    assert loss == expected
    assert grad.dtype == dtype
    assert torch.equal(grad, wide.to(dtype))


@pytest.mark.parametrize("case", CASES)
def test_strides_threads_and_out_do_not_change_a_bit(case):
    core, _, _, options = CASES[case]
    student, teacher = features((33, 6, 3, 5), dtype=np.float32)
    loss, grad = core(student, teacher, **options)
    turned = [np.asfortranarray(x) for x in (student, teacher)]
    spaced = np.empty((33, 12, 3, 10), np.float32)[:, ::2, :, ::-2]
    spaced[...] = student
    for threads in (1, 2, 3):
        mc.set_num_threads(threads)
        for one, other in ((student, teacher), turned, (spaced, teacher)):
            again, same = core(one, other, **options)
            assert again == loss
            np.testing.assert_array_equal(same, grad)
    target = student.copy()
    again, same = core(target, teacher, out=target, **options)
    assert same is target
    assert again == loss
    np.testing.assert_array_equal(target, grad)


@pytest.mark.parametrize("case", CASES)
def test_equal_features_have_loss_and_gradient_zero(case):
    core, _, _, options = CASES[case]
    student, _ = features()
    loss, grad = core(student, student.copy(), **options)
    # 1 - cosine of a row with itself is a rounding away from 0; the rest is exact.
    assert abs(loss) <= 1e-13
    np.testing.assert_allclose(grad, 0, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_zeros_and_single_samples_have_gradient_zero_or_are_finite(case):
    core, _, _, options = CASES[case]
    student, teacher = features()
    loss, grad = core(np.zeros_like(student), teacher, **options)
    assert np.isfinite(loss)
    assert np.all(grad == 0)
    loss, grad = core(student, np.zeros_like(teacher), **options)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(grad))
    loss, grad = core(student[:1], teacher[:1], **options)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(grad))
    loss, grad = core(student[:0], teacher[:0], **options)
    assert loss == 0
    assert grad.shape == (0, 5, 3, 4)


@pytest.mark.parametrize("case", CASES)
def test_nan_reaches_the_loss(case):
    core, _, _, options = CASES[case]
    for which in (0, 1):
        pair = features()
        pair[which][2, 1, 1, 1] = np.nan
        loss, grad = core(*pair, **options)
        assert np.isnan(loss)
        assert np.any(np.isnan(grad))


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("dist ") and c != "dist"])
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_does_not_matter_even_where_squares_would_overflow(case, scale):
    core, _, _, options = CASES[case]
    student, teacher = features()
    factor = 2.0 ** np.round(np.log2(scale))
    loss, grad = core(student, teacher, **options)
    scaled, slope = core(student * factor, teacher * factor, **options)
    np.testing.assert_allclose(scaled, loss, rtol=1e-14)
    np.testing.assert_allclose(slope * factor, grad, rtol=1e-12)


def test_identical_samples_push_each_other_nowhere():
    student, teacher = features((5, 4))
    student[3] = student[1]
    loss, grad = distill.relational_loss(student, teacher)
    np.testing.assert_allclose(loss, reference.relational_loss(student, teacher), rtol=1e-12)
    assert np.all(np.isfinite(grad))
    # torch's normalize turns the missing direction into a slope of 1 / 1e-12.
    e = torch.tensor(student[3] - student[1], requires_grad=True)
    F.normalize(e, dim=0).sum().backward()
    assert e.grad.abs().max() > 1e11
    same = np.ones((4, 3))
    loss, grad = distill.relational_loss(same, teacher[:4])
    np.testing.assert_allclose(loss, reference.relational_loss(same, teacher[:4]), rtol=1e-12)
    assert np.all(grad == 0)


def test_close_samples_far_from_the_origin_keep_their_angles():
    # G_jk - G_ij - G_ik + G_ii would lose all digits here; distances of differences do not.
    draw = np.random.default_rng(3)
    offset = draw.standard_normal((6, 8))
    near = np.float64(2.0**26) + np.round(offset * 1024) / 1024
    loss, _ = distill.relational_loss(near, offset)
    expected, _ = distill.relational_loss(np.round(offset * 1024) / 1024, offset)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_student_and_teacher_may_differ_in_width():
    draw = np.random.default_rng(1)
    student, teacher = draw.standard_normal((6, 8)), draw.standard_normal((6, 3, 5))
    for core, composite in (
        (distill.relational_loss, relational),
        (distill.similarity_loss, similarity),
    ):
        expected, slope = by_torch(composite, student, teacher, {})
        loss, grad = core(student, teacher)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        np.testing.assert_allclose(grad, slope, atol=1e-12)
    student, teacher = draw.standard_normal((2, 8, 3, 3)), draw.standard_normal((2, 4, 3, 3))
    expected, slope = by_torch(attention, student, teacher, {})
    loss, grad = distill.attention_loss(student, teacher)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(grad, slope, atol=1e-14)


@pytest.mark.parametrize(
    ("core", "options"),
    [
        (distill.cosine_loss, {}),
        (distill.dist_loss, {}),
        (distill.feature_loss, {}),
        (distill.soft_target_loss, {}),
        (distill.soft_target_loss, {"standardize": True}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masked_tokens_count_nowhere(core, options, dtype):
    student, teacher = features((3, 7, 5), dtype=dtype)
    mask = np.random.default_rng(2).random((3, 7)) < 0.6
    student[~mask] = np.nan
    teacher[~mask] = np.inf
    expected, slope = core(student[mask], teacher[mask], **options)
    loss, grad = core(student, teacher, mask=mask, **options)
    assert loss == expected
    np.testing.assert_array_equal(grad[mask], slope)
    assert np.all(grad[~mask] == 0)
    loss, grad = core(student, teacher, mask=np.zeros_like(mask), **options)
    assert loss == 0
    assert np.all(grad == 0)


@pytest.mark.parametrize("core", [distill.relational_loss, distill.similarity_loss])
def test_masked_samples_count_nowhere(core):
    student, teacher = features((8, 5))
    mask = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
    student[~mask] = np.nan
    expected, slope = core(student[mask], teacher[mask])
    loss, grad = core(student, teacher, mask=mask)
    assert loss == expected
    np.testing.assert_array_equal(grad[mask], slope)
    assert np.all(grad[~mask] == 0)
    loss, grad = core(student, teacher, mask=np.zeros(8, bool))
    assert loss == 0
    assert np.all(grad == 0)


def test_masked_positions_are_not_attended():
    student, teacher = features((3, 6, 5))
    mask = np.random.default_rng(2).random((3, 6)) < 0.6
    student[~mask] = np.nan
    loss, grad = distill.attention_loss(student, teacher, axis=2, mask=mask)
    expected = reference.attention_loss(np.nan_to_num(student), teacher, axis=2, mask=mask)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert np.all(grad[~mask] == 0)
    slope = reference.slopes(
        lambda x: distill.attention_loss(x, teacher, axis=2, mask=mask)[0], np.nan_to_num(student)
    )
    np.testing.assert_allclose(grad, slope, atol=1e-9)


def test_masks_of_an_adaptor_and_of_labels():
    student, teacher = features((3, 7, 5))
    mask = np.random.default_rng(2).random((3, 7)) < 0.6
    weight, bias = np.random.default_rng(4).standard_normal((4, 5)), np.ones(4)
    student[~mask] = np.nan
    expected = distill.feature_loss(student[mask], teacher[mask][:, :4], weight, bias)
    found = distill.feature_loss(student, teacher[..., :4], weight, bias, mask=mask)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1][mask], expected[1])
    np.testing.assert_array_equal(found[2], expected[2])
    np.testing.assert_array_equal(found[3], expected[3])
    labels = np.random.default_rng(5).integers(0, 5, (3, 7))
    labels[~mask] = 99
    expected = distill.soft_target_loss(student[mask], teacher[mask], labels[mask])
    found = distill.soft_target_loss(student, teacher, labels, mask=mask)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1][mask], expected[1])
    rows, _ = distill.soft_target_loss(student, teacher, labels, mask=mask, reduction="none")
    assert np.all(rows[~mask] == 0)
    assert np.all(rows[mask] > 0)
    turned, _ = distill.soft_target_loss(
        np.moveaxis(student, -1, 1), np.moveaxis(teacher, -1, 1), labels, axis=1, mask=mask
    )
    assert turned == expected[0]


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("axis", [1, -1])
def test_standardized_logits_equal_the_composite(alpha, axis):
    student, teacher = features((4, 6, 5))
    labels = np.random.default_rng(5).integers(0, 5, (4, 6) if axis == -1 else (4, 5))
    labels[1, 1] = -100
    s = torch.tensor(student, requires_grad=True)
    rows, other = (x.movedim(axis, -1).flatten(0, -2) for x in (s, torch.tensor(teacher)))
    y = torch.tensor(labels).flatten()
    z, w = ((x - x.mean(1, True)) / x.std(1, keepdim=True) / 2.0 for x in (rows, other))
    kept = y != -100
    soft = F.kl_div(z[kept].log_softmax(1), w[kept].softmax(1), reduction="batchmean") * 4
    expected = alpha * soft + (1 - alpha) * F.cross_entropy(rows, y, label_smoothing=0.1)
    expected.backward()
    options = {"temperature": 2.0, "alpha": alpha, "axis": axis, "label_smoothing": 0.1}
    loss, grad = distill.soft_target_loss(student, teacher, labels, standardize=True, **options)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(grad, s.grad.numpy(), atol=1e-14)
    each, same = distill.soft_target_loss(
        student, teacher, labels, standardize=True, reduction="sum", **options
    )
    np.testing.assert_allclose(each / kept.sum().item(), loss, rtol=1e-14)
    np.testing.assert_allclose(same / kept.sum().item(), grad, atol=1e-16)
    losses, _ = distill.soft_target_loss(
        student, teacher, labels, standardize=True, reduction="none", **options
    )
    np.testing.assert_allclose(losses.sum(), each, rtol=1e-13)


def test_standardized_logits_need_no_shift_or_scale():
    student, teacher = features((4, 9))
    loss, _ = distill.soft_target_loss(student, teacher, standardize=True)
    same, _ = distill.soft_target_loss(student * 64 + 3, teacher * 1e200, standardize=True)
    np.testing.assert_allclose(same, loss, rtol=1e-12)
    student[0] = 7
    loss, grad = distill.soft_target_loss(student, teacher, standardize=True, reduction="none")
    assert np.all(grad[0] == 0)
    z = reference.standardized(teacher)[0] / 4
    log_q = reference.log_softmax(z[None])[0]
    np.testing.assert_allclose(loss[0], 16 * np.sum(np.exp(log_q) * (log_q + np.log(9))))
    loss, grad = distill.soft_target_loss(student[:, :1], teacher[:, :1], standardize=True)
    assert loss == 0
    assert np.all(grad == 0)


@pytest.mark.parametrize("shape", [(5, 4), (12, 3)])
def test_dist_equals_the_slow_formula(shape):
    student, teacher = features(shape)
    for temperature in (1.0, 3.0):
        loss, _ = distill.dist_loss(student, teacher, 2.0, 0.5, temperature)
        expected = reference.dist_loss(student, teacher, 2.0, 0.5, temperature)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_dist_of_what_does_not_vary_is_uncorrelated():
    student, teacher = features((5, 7))
    loss, grad = distill.dist_loss(np.full((5, 7), 0.3), teacher)
    assert loss == 2
    assert np.all(grad == 0)
    # One row has no relation between rows: only the classes' counts.
    loss, grad = distill.dist_loss(student[:1], teacher[:1])
    one, same = distill.dist_loss(student[:1], teacher[:1], intra=0.0)
    np.testing.assert_allclose(loss, one + 1)
    np.testing.assert_array_equal(grad, same)


@pytest.mark.parametrize("weights", [(), (1.0, 1.0, 1.0), (3.0, 0.0, 1.0)])
def test_averaged_teachers_are_the_average_of_probabilities(weights):
    draw = np.random.default_rng(6)
    teachers = [draw.standard_normal((4, 5, 3)) for _ in range(3)]
    share = np.array(weights or (1.0, 1.0, 1.0))
    share /= share.sum()
    average = distill.average_teachers(teachers, weights, temperature=2.0, axis=1)
    expected = sum(
        w * np.exp(reference.log_softmax(np.moveaxis(t, 1, -1) / 2))
        for w, t in zip(share, teachers, strict=True)
    )
    found = np.exp(reference.log_softmax(np.moveaxis(average, 1, -1) / 2))
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    # The gradient is that of the weighted losses against each teacher.
    student = draw.standard_normal((4, 5, 3))
    options = {"temperature": 2.0, "axis": 1}
    _, grad = distill.soft_target_loss(student, average, **options)
    each = [distill.soft_target_loss(student, t, **options)[1] for t in teachers]
    np.testing.assert_allclose(
        grad, sum(w * g for w, g in zip(share, each, strict=True)), atol=1e-15
    )


def test_a_class_that_no_teacher_gives_has_probability_zero():
    teachers = [np.array([[0.0, 1.0, -np.inf]]), np.array([[1.0, 0.0, -np.inf]])]
    average = distill.average_teachers(teachers)
    assert average[0, 2] == -np.inf
    np.testing.assert_allclose(average[0, 0], average[0, 1], rtol=1e-15)
    assert np.isfinite(distill.soft_target_loss(np.zeros((1, 3)), average)[0])


BAD = [
    (distill.attention_loss, {"p": 0.5}, "p must be >= 1 and finite, got 0.5"),
    (distill.attention_loss, {"axis": 0}, "axis must not be 0, the samples, got 0"),
    (distill.attention_loss, {"mask": np.ones((6, 5), bool)}, "mask must have the shape"),
    (distill.relational_loss, {"distance": -1.0}, "distance must be >= 0 and finite, got -1"),
    (distill.relational_loss, {"angle": np.nan}, "angle must be >= 0 and finite, got nan"),
    (distill.relational_loss, {"mask": np.ones(6)}, "mask must be bool, got float64"),
    (distill.relational_loss, {"teacher": np.ones((5, 2))}, "teacher must have the student's 6"),
    (distill.similarity_loss, {"teacher": np.ones((5, 2))}, "teacher must have the student's 6"),
    (distill.dist_loss, {"temperature": 0.0}, "temperature must be > 0 and finite, got 0"),
    (distill.dist_loss, {"inter": -2.0}, "inter must be >= 0 and finite, got -2"),
    (distill.dist_loss, {"teacher": np.ones((6, 5))}, "teacher must have the student's shape"),
    (distill.cosine_loss, {"teacher": np.ones((6, 5))}, "teacher must have the student's shape"),
    (distill.cosine_loss, {"teacher": np.ones((6, 5, 3, 4), int)}, "teacher must be float64"),
]


@pytest.mark.parametrize(("core", "wrong", "message"), BAD)
def test_wrong_arguments_are_named(core, wrong, message):
    student, teacher = features()
    with pytest.raises(mc.Error, match=rf"\[distill\.{core.__name__}\] {message}") as raised:
        core(student, **{"teacher": teacher, **wrong})
    assert "got" in str(raised.value)


def test_wrong_teachers_are_named():
    one = np.ones((2, 3))
    for arguments, message in (
        (([],), "teachers must hold at least one"),
        (([one, np.ones((3, 2))],), "teachers must have one shape"),
        (([one], [1.0, 2.0]), "weights must be one for each of the 1 teachers, got 2"),
        (([one], [-1.0]), "weights must be >= 0 and finite, got -1"),
        (([one], [0.0]), "weights must have a sum > 0 and finite, got 0"),
        (([one], [], 0.0), "temperature must be > 0 and finite, got 0"),
    ):
        with pytest.raises(mc.Error, match=message):
            distill.average_teachers(*arguments)
