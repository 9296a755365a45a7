# SPDX-License-Identifier: Apache-2.0
"""Scores against their formulas, autograd and slow loops, and the masks that take them."""

from __future__ import annotations

import math

import moptcore as mc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import prune as reference

prune = mc.prune

FLOATS = ["float64", "float32", "float16", "bfloat16"]


def tensor(shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return torch.from_numpy(np.asarray(values)).to(getattr(torch, dtype))


def exact(x):
    return x.double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)


PAIRS = {
    "taylor": (lambda w, g, o: prune.taylor_score(w, g, out=o), lambda w, g: (w * g) ** 2),
    "absolute taylor": (
        lambda w, g, o: prune.taylor_score(w, g, squared=False, out=o),
        lambda w, g: np.abs(w * g),
    ),
    "snip": (lambda w, g, o: prune.snip_score(w, g, total=3.0, out=o), lambda w, g: abs(w * g) / 3),
    "obs": (
        lambda w, g, o: prune.obs_score(w, abs(g) + 0.5, out=o),
        lambda w, g: w**2 / (2 * (abs(g) + 0.5)),
    ),
    "obd": (lambda w, g, o: prune.obd_score(w, g, out=o), lambda w, g: w**2 * g / 2),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", PAIRS)
def test_elementwise_scores_follow_their_formula_for_every_dtype_and_stride(kind, dtype):
    score, formula = PAIRS[kind]
    w, g = tensor((7, 9), dtype, 1), tensor((9, 7), dtype, 2).T
    # The sum that the OBS case adds to g rounds in the dtype itself.
    expected = formula(exact(w), exact(g) if kind != "obs" else exact(abs(g) + 0.5) - 0.5)
    result = score(w, g, None)
    assert result.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    # At most four roundings in double, and one to the result's dtype.
    np.testing.assert_allclose(
        exact(result), expected, rtol=2**-23 if dtype != "float64" else 1e-15
    )
    out = torch.empty((9, 7), dtype=result.dtype).T
    assert score(w, g, out) is out
    assert torch.equal(out, result)


@pytest.mark.parametrize("dtype", FLOATS)
def test_magnitude_and_batch_norm_scores_are_magnitudes(dtype):
    w = tensor((5, 6), dtype).T
    assert torch.equal(prune.magnitude_score(w).double(), w.abs().double())
    assert torch.equal(prune.batch_norm_score(w[0]).double(), w[0].abs().double())


def test_taylor_is_the_first_order_change_of_the_loss_that_autograd_sees():
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4, dtype=torch.float64)
    x = torch.randn(32, 6, dtype=torch.float64)
    layer(x).square().mean().backward()
    # With a gate of one on every weight, dL/dgate = w dL/dw.
    gate = torch.ones_like(layer.weight, requires_grad=True)
    torch.nn.functional.linear(
        x, layer.weight.detach() * gate, layer.bias
    ).square().mean().backward()
    score = prune.taylor_score(layer.weight.detach(), layer.weight.grad, squared=False)
    torch.testing.assert_close(score, gate.grad.abs(), rtol=1e-12, atol=0)
    # SNIP is the same, normalized.
    snip = prune.snip_score(layer.weight.detach(), layer.weight.grad)
    torch.testing.assert_close(snip, gate.grad.abs() / gate.grad.abs().sum(), rtol=1e-12, atol=0)


def test_snip_scores_add_up_to_one_over_a_tensor_or_a_network():
    pairs = [(tensor((5, 7), seed=s), tensor((5, 7), seed=s + 9)) for s in range(3)]
    # 35 float32 roundings of numbers that add up to one.
    assert exact(prune.snip_score(*pairs[0])).sum() == pytest.approx(1, abs=35 * 2**-24)
    total = sum(prune.snip_total(w, g) for w, g in pairs)
    assert total == pytest.approx(
        sum(float((w.double() * g.double()).abs().sum()) for w, g in pairs), rel=1e-14
    )
    whole = sum(exact(prune.snip_score(w, g, total=total)).sum() for w, g in pairs)
    assert whole == pytest.approx(1, abs=105 * 2**-24)
    assert prune.snip_score(np.zeros(3), np.ones(3)).tolist() == [0, 0, 0]


def test_movement_accumulates_what_training_adds_over_the_steps():
    rng = np.random.default_rng(3)
    scores = np.zeros((4, 5))
    expected = np.zeros((4, 5))
    for _ in range(4):
        w, g = rng.standard_normal((2, 4, 5))
        assert prune.movement_score(w, g, out=scores) is scores
        expected -= w * g
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(prune.movement_score(w, g), 0.0 - w * g)
    # Weights moving away from zero score above those moving to it.
    away, towards = prune.movement_score(np.array([1.0, 1.0]), np.array([-2.0, 2.0]))
    assert away > 0 > towards
    with pytest.raises(mc.Error, match=r"\[prune.movement_score\] scores must not be an input"):
        prune.movement_score(w, g, out=w)


def test_wanda_multiplies_each_column_by_the_norm_of_its_input():
    w = tensor((3, 4))
    norms = torch.tensor([1.0, 0.0, 2.0, 0.5])
    assert torch.equal(prune.wanda_score(w, norms), w.abs() * norms)
    conv = tensor((3, 4, 2, 2))
    assert torch.equal(prune.wanda_score(conv, norms), conv.abs() * norms[:, None, None])
    assert torch.equal(prune.wanda_score(w.T, norms, axis=0), (w.abs() * norms).T)
    with pytest.raises(mc.Error, match="input_norm must be >= 0, got -1 at flat index 1"):
        prune.wanda_score(w, np.array([0.0, -1, 0, 0]))
    with pytest.raises(mc.Error, match=r"input_norm must have the shape \(4,\), got \(3,\)"):
        prune.wanda_score(w, np.ones(3))


def test_obs_is_what_the_loss_rises_by_when_the_others_adapt():
    rng = np.random.default_rng(4)
    half = rng.standard_normal((6, 6))
    hessian = half @ half.T + np.eye(6)
    w = rng.standard_normal(6)
    scores = prune.obs_score(w, np.diag(np.linalg.inv(hessian)))
    for q in range(6):
        # Brute force: minimize d' H d / 2 with d_q = -w_q fixed.
        rest = np.delete(np.arange(6), q)
        move = np.zeros(6)
        move[q] = -w[q]
        move[rest] = np.linalg.solve(
            hessian[np.ix_(rest, rest)], -hessian[np.ix_(rest, [q])][:, 0] * move[q]
        )
        assert scores[q] == pytest.approx(move @ hessian @ move / 2, rel=1e-10)
    rows = rng.standard_normal((3, 6))
    diagonal = np.diag(np.linalg.inv(hessian)).copy()
    np.testing.assert_allclose(
        prune.obs_score(rows, diagonal, axis=1), rows**2 / diagonal / 2, rtol=1e-15
    )
    np.testing.assert_allclose(
        prune.obd_score(rows, np.diag(hessian).copy(), axis=-1),
        rows**2 * np.diag(hessian) / 2,
        rtol=1e-15,
    )
    with pytest.raises(mc.Error, match=r"inverse_hessian_diagonal must be > 0, got 0 at"):
        prune.obs_score(w, np.zeros(6))


@pytest.mark.parametrize("dtype", FLOATS)
def test_lamp_divides_by_what_outranks(dtype):
    w = tensor((6, 7), dtype, 5).T
    result = prune.lamp_score(w)
    np.testing.assert_allclose(exact(result), reference.lamp_score(exact(w)), rtol=2**-23)
    ties = np.array([1.0, -1.0, 0.0, 1.0])
    np.testing.assert_array_equal(prune.lamp_score(ties), [1, 1 / 2, 0, 1 / 3])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("ties", [False, True])
def test_lamp_of_many_blocks_is_the_same_at_any_thread_count(dtype, ties):
    rng = np.random.default_rng(17)
    values = rng.integers(-50, 51, 200_003) / 8 if ties else rng.standard_normal(200_003)
    w = torch.from_numpy(values).to(getattr(torch, dtype))
    w[1234] = math.nan
    threads = mc.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            mc.set_num_threads(count)
            results.append(exact(prune.lamp_score(w)))
    finally:
        mc.set_num_threads(threads)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    assert math.isnan(results[0][1234])
    # The definition with one sort; the reference sums anew for every element.
    squares = np.delete(exact(w), 1234) ** 2
    order = np.argsort(-squares, kind="stable")
    expected = np.empty_like(squares)
    expected[order] = squares[order] / np.cumsum(squares[order])
    # Both sums of up to 2e5 positive terms may be off by as many roundings of double; scores of
    # 16-bit weights are float32.
    rounding = 5e-11 if dtype == "float64" else 2**-23
    np.testing.assert_allclose(np.delete(results[0], 1234), expected, rtol=rounding, atol=2**-149)


def test_lamp_survives_extreme_weights():
    np.testing.assert_array_equal(prune.lamp_score(np.array([1e-300, 1e-300])), [1, 0.5])
    np.testing.assert_array_equal(prune.lamp_score(np.array([1e300, -1e300])), [1, 0.5])
    np.testing.assert_array_equal(prune.lamp_score(np.array([math.inf, 3, -math.inf])), [1, 0, 1])
    np.testing.assert_array_equal(prune.lamp_score(np.array([2.0, math.nan])), [1, math.nan])
    np.testing.assert_array_equal(prune.lamp_score(np.zeros(2)), [0, 0])


def test_global_masks_of_lamp_scores_empty_no_layer():
    layers = [np.full((4, 5), 1e-3), np.random.default_rng(0).standard_normal(500)]
    by_magnitude = prune.global_mask(layers, 0.9)
    by_lamp = prune.global_mask(layers, 0.9, scores=[prune.lamp_score(w) for w in layers])
    assert by_magnitude[0].sum() == 0
    assert by_lamp[0].sum() >= 1
    assert sum(mask.size - mask.sum() for mask in by_lamp) == 468
    # Within a layer the order is that of the magnitudes.
    for w, mask in zip(layers, by_lamp, strict=True):
        share = 1 - mask.sum() / mask.size
        np.testing.assert_array_equal(mask, prune.magnitude_mask(w, share))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_fpgm_adds_the_distances_to_all_other_slices(axis):
    w = tensor((5, 6, 11), seed=6)
    # Sums of squares of 66 numbers and of 6 roots in double, then one rounding to float32.
    np.testing.assert_allclose(
        exact(prune.fpgm_score(w, axis)), reference.fpgm_score(exact(w), axis), rtol=2**-23
    )
    # The slice that is the median of the others goes first.
    rows = np.array([[0.0, 5], [3, 5], [4, 5], [9, 5], [4.5, 5]])
    mask = prune.structured_mask(rows, 0.2, scores=prune.fpgm_score(rows))
    np.testing.assert_array_equal(mask, [True, True, False, True, True])


def test_every_mask_takes_scores():
    w = tensor((8, 8))
    g = tensor((8, 8), seed=1)
    score = prune.taylor_score(w, g)
    ranked = exact(score)
    for mask, expected in [
        (prune.magnitude_mask(w, 0.5, scores=score), reference.magnitude_mask(w, 0.5, ranked)),
        (prune.global_mask([w], 0.5, scores=[score])[0], reference.magnitude_mask(w, 0.5, ranked)),
        (prune.nm_mask(w, 2, 4, scores=score), reference.nm_mask(w, 2, 4, scores=ranked)),
        (prune.block_mask(w, 0.5, (2, 2), scores=score),
         reference.block_mask(w, 0.5, (2, 2), scores=ranked)),
        (prune.row_mask(w, 0.5, scores=score), reference.row_mask(w, 0.5, scores=ranked)),
        (prune.structured_mask(w, 0.5, scores=score.sum(1)),
         reference.keep_highest(exact(score.sum(1)), 4)),
    ]:  # fmt: skip
        np.testing.assert_array_equal(mask.numpy(), expected)


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    axis=st.integers(-4, 3),
    sparsity=st.floats(0, 0.999),
    dtype=st.sampled_from(FLOATS),
    packed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_row_masks_rank_every_slice_by_itself(shape, axis, sparsity, dtype, packed):
    axis = axis % len(shape)
    values = np.random.default_rng(0).integers(-3, 4, shape) / 4
    w = torch.from_numpy(values).to(getattr(torch, dtype)).mT if len(shape) > 1 else values
    expected = reference.row_mask(exact(w), sparsity, axis)
    mask = prune.row_mask(w, sparsity, axis, packed=packed)
    if packed:
        mask = prune.unpack_mask(mask, w.shape)
    np.testing.assert_array_equal(np.asarray(mask), expected)
    scores = -exact(w)
    np.testing.assert_array_equal(
        np.asarray(prune.row_mask(w, sparsity, axis, scores=scores)),
        reference.row_mask(exact(w), sparsity, axis, scores),
    )


def test_row_masks_of_long_rows_and_nan():
    w = np.random.default_rng(1).standard_normal((3, 10_000)).astype(np.float32)
    np.testing.assert_array_equal(prune.row_mask(w, 0.7), reference.row_mask(w, 0.7))
    w[1, 7] = math.nan
    with pytest.raises(mc.NonFiniteError, match="NaN at flat index 10007"):
        prune.row_mask(w, 0.7)
    assert not prune.row_mask(w, 0.7, nonfinite="prune_first")[1, 7]
    assert prune.row_mask(w, 0.7, nonfinite="keep")[1, 7]
    assert prune.row_mask(np.zeros((0, 3)), 0.5).shape == (0, 3)


def test_scores_pass_nan_on_to_the_policy_of_the_mask():
    w = np.array([1.0, math.nan, 3.0, 2.0])
    for score in [
        prune.magnitude_score(w),
        prune.taylor_score(w, np.ones(4)),
        prune.snip_score(w, np.ones(4)),
        prune.lamp_score(w),
        prune.obd_score(w, np.ones(4)),
    ]:
        assert np.isnan(score).tolist() == [False, True, False, False]
        with pytest.raises(mc.NonFiniteError, match="NaN at flat index 1"):
            prune.magnitude_mask(w, 0.5, scores=score)
        pruned = prune.magnitude_mask(w, 0.5, scores=score, nonfinite="prune_first")
        assert pruned.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda w: prune.magnitude_score(np.ones(3, int)),
            mc.DTypeError,
            "weights must be float64",
        ),
        (
            lambda w: prune.taylor_score(w, np.ones(3)),
            mc.Error,
            r"grad must have the shape \(2, 3\)",
        ),
        (lambda w: prune.snip_score(w, w, total=-1), mc.Error, "total must be >= 0, got -1"),
        (lambda w: prune.batch_norm_score(w), mc.Error, "gamma must have 1 dimension"),
        (lambda w: prune.fpgm_score(np.float64(1)), mc.Error, "at least 1 dimension"),
        (
            lambda w: prune.wanda_score(w, np.ones(3), axis=2),
            IndexError,
            r"axis must be in \[-2, 2\)",
        ),
        (lambda w: prune.magnitude_score(w, out=np.ones((2, 3), np.float32)), TypeError, "float64"),
        (
            lambda w: prune.taylor_score(w[:, :2], w[:, 1:], out=w[:, 1:]),
            mc.Error,
            "must not overlap",
        ),
    ],
)
def test_scores_refuse_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((2, 3)))


# Bounds for each layer


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    sparsity=st.floats(0, 0.99),
    shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=4, max_size=4),
    seed=st.integers(0, 9),
    dtypes=st.lists(st.sampled_from(FLOATS), min_size=4, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_global_masks_keep_the_bounds_of_each_layer_and_the_total(
    sizes, sparsity, shares, seed, dtypes
):
    rng = np.random.default_rng(seed)
    layers = [
        torch.from_numpy(rng.integers(-4, 5, n) / 4.0).to(getattr(torch, dtype))
        for n, dtype in zip(sizes, dtypes, strict=False)
    ]
    minimum = [min(pair) for pair in shares][: len(sizes)]
    maximum = [max(pair) for pair in shares][: len(sizes)]
    zeros = reference.zero_count(sum(sizes), sparsity)
    least = sum(reference.zero_count(n, s) for n, s in zip(sizes, minimum, strict=True))
    greatest = sum(reference.zero_count(n, s) for n, s in zip(sizes, maximum, strict=True))
    if not least <= zeros <= greatest:
        with pytest.raises(mc.Error, match=rf"must allow {zeros} zeros, got {least} to {greatest}"):
            prune.global_mask(layers, sparsity, minimum=minimum, maximum=maximum)
        return
    masks = prune.global_mask(layers, sparsity, minimum=minimum, maximum=maximum)
    ranked = [np.abs(exact(w)) for w in layers]
    for mask, expected in zip(
        masks,
        reference.bounded_global_mask(ranked, sparsity, minimum, maximum),
        strict=True,
    ):
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_bounds_that_do_not_bind_change_nothing():
    rng = np.random.default_rng(2)
    layers = [rng.standard_normal(30_000), rng.standard_normal((50, 400)) * 2]
    scores = [rng.integers(-(2**62), 2**62, w.shape) for w in layers]
    for given_scores in (None, scores):
        free = prune.global_mask(layers, 0.6, scores=given_scores)
        bound = prune.global_mask(layers, 0.6, scores=given_scores, minimum=0.0, maximum=1)
        for a, b in zip(free, bound, strict=True):
            np.testing.assert_array_equal(a, b)
    masks = prune.global_mask(layers, 0.6, maximum=[0.65, 0.9], packed=True)
    kept = [prune.unpack_mask(m, w.shape).sum() for m, w in zip(masks, layers, strict=True)]
    assert kept == [10_500, 9_500]


def test_bounds_are_checked():
    w = [np.ones(4), np.ones(4)]
    for bounds, message in [
        ({"minimum": 0.8, "maximum": 0.5}, r"minimum must be <= maximum \(0.5\) for weights\[0\]"),
        ({"minimum": [0.1]}, r"minimum must be one number or as many as weights \(2\), got 1"),
        ({"maximum": [0.5, 1.5]}, r"maximum\[1\] must be in \[0, 1\], got 1.5"),
        ({"minimum": math.nan}, r"minimum must be in \[0, 1\], got nan"),
        ({"maximum": 0.25}, "minimum and maximum must allow 4 zeros, got 0 to 2"),
    ]:
        with pytest.raises(mc.Error, match=message):
            prune.global_mask(w, 0.5, **bounds)
    with pytest.raises(mc.DTypeError, match="minimum must be a number, got 'a lot'"):
        prune.global_mask(w, 0.5, minimum="a lot")
    with pytest.raises(mc.NonFiniteError, match=r"weights\[1\] .* NaN at flat index 2"):
        prune.global_mask([np.ones(3), np.array([1, 2, math.nan])], 0.5, minimum=0.1)


# Regrowth


@given(
    size=st.integers(1, 40),
    fraction=st.floats(0, 1),
    sparsity=st.floats(0, 0.99),
    seed=st.integers(0, 99),
    packed=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_regrowth_exchanges_the_lowest_for_the_largest_gradients(
    size, fraction, sparsity, seed, packed
):
    rng = np.random.default_rng(seed)
    w, g = rng.integers(-3, 4, (2, size)) / 4
    mask = prune.random_mask(size, sparsity, seed)
    expected = reference.regrow(mask, w, g, fraction)
    if packed:
        result = prune.regrow(prune.pack_mask(mask), w, g, fraction)
        assert result.dtype == np.uint8
        result = prune.unpack_mask(result, size)
    else:
        result = prune.regrow(mask, w, g, fraction)
    np.testing.assert_array_equal(result, expected)
    assert result.sum() == mask.sum()


def test_regrowth_of_a_large_layer_in_place():
    rng = np.random.default_rng(8)
    w, g = rng.standard_normal((2, 100, 333)).astype(np.float32)
    mask = prune.magnitude_mask(w, 0.8)
    before = mask.copy()
    assert prune.regrow(mask, w, g, 0.3, out=mask) is mask
    np.testing.assert_array_equal(mask, reference.regrow(before, w, g, 0.3))
    # Dropped weights with a large gradient may come back at once, as in the paper.
    assert 0 < (before & ~mask).sum() <= 1998


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_regrowth_shares_ties_out_alike_at_any_thread_count(dtype):
    rng = np.random.default_rng(4)
    w, g = (
        torch.from_numpy(rng.integers(-5, 6, 200_003) / 4).to(getattr(torch, dtype))
        for _ in range(2)
    )
    mask = torch.from_numpy(rng.random(200_003) < 0.2)
    threads = mc.get_num_threads()
    try:
        for count in (1, 2, 5):
            mc.set_num_threads(count)
            np.testing.assert_array_equal(
                prune.regrow(mask, w, g.float(), 0.3).numpy(),
                reference.regrow(mask.numpy(), exact(w), exact(g), 0.3),
            )
    finally:
        mc.set_num_threads(threads)


def test_regrowth_obeys_the_policy_for_nan_where_it_matters():
    mask = np.array([True, True, False, False])
    w = np.array([1.0, math.nan, math.nan, 0])
    with pytest.raises(mc.NonFiniteError, match=r"weights must not .* NaN at flat index 1"):
        prune.regrow(mask, w, np.ones(4), 0.5)
    w[1] = 2
    assert prune.regrow(mask, w, np.array([0.0, 1, 3, 2]), 0.5).tolist() == [0, 1, 1, 0]
    g = np.array([0.0, 1, math.nan, 2])
    with pytest.raises(mc.NonFiniteError, match=r"grad must not .* NaN at flat index 2"):
        prune.regrow(mask, w, g, 0.5)
    assert prune.regrow(mask, w, g, 0.5, nonfinite="prune_first").tolist() == [0, 1, 0, 1]
    assert prune.regrow(mask, w, g, 0.5, nonfinite="keep").tolist() == [0, 1, 1, 0]
    for bad, message in [
        (lambda: prune.regrow(mask, w, g, 1.5), r"fraction must be in \[0, 1\], got 1.5"),
        (lambda: prune.regrow(mask, w, g[:3], 0.5), r"grad must have the shape of weights, \(4,\)"),
        (lambda: prune.regrow(mask[:3], w, g, 0.5), r"mask must have the shape \(4,\)"),
    ]:
        with pytest.raises(mc.Error, match=message):
            bad()


# Schedules


def test_cosine_regrowth_follows_its_formula():
    schedule = prune.CosineRegrowth(0.3, 10, 110, 20)
    for step in range(130):
        t = min(max((step - 10) / 100, 0), 1)
        expected = 0.3 * (1 + math.cos(math.pi * t)) / 2
        assert schedule.fraction(step) == pytest.approx(expected, abs=1e-16)
    assert [step for step in range(200) if schedule.should_regrow(step)] == [10, 30, 50, 70, 90]
    assert eval(repr(schedule), vars(prune)) == schedule
    with pytest.raises(mc.Error, match=r"initial_fraction must be in \[0, 1\], got 2"):
        prune.CosineRegrowth(2.0, 0, 5)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 16), (8, 8), (1, 2)])
def test_gradual_nm_falls_from_dense_to_n_of_m(n, m):
    schedule = prune.GradualNM(n, m, 100, 500, 3.0, 50)
    kept = [schedule.kept(step) for step in range(600)]
    assert kept[:101] == [m] * 101
    assert kept[500:] == [n] * 100
    assert kept == sorted(kept, reverse=True)
    for step in range(600):
        t = min(max((step - 100) / 400, 0), 1)
        # Away from the ties of rounding, where one ulp of pow may decide.
        wanted = n + (m - n) * (1 - t) ** 3
        assert abs(kept[step] - wanted) <= 0.5 + 1e-12
        assert schedule.sparsity(step) == 1 - kept[step] / m
    assert [s for s in range(600) if schedule.should_prune(s)] == list(range(100, 501, 50))
    w = np.random.default_rng(0).standard_normal((4, 2 * m))
    for step in (0, 250, 500):
        mask = prune.nm_mask(w, schedule.kept(step), m)
        assert (mask.reshape(-1, m).sum(1) == schedule.kept(step)).all()
    assert prune.GradualNM.from_config(schedule.get_config()) == schedule


def test_gradual_nm_refuses_what_is_no_pattern():
    for arguments, message in [
        ((0, 4, 0, 9), r"n must be in \[1, m\], got 0"),
        ((5, 4, 0, 9), r"n must be in \[1, m\], got 5"),
        ((2, 4, 9, 9), r"end_step must be > begin_step \(9\)"),
        ((2, 4, 0, 9, 0.0), "power must be finite and > 0"),
        ((1, 0, 0, 9), "m must be >= 1"),
    ]:
        with pytest.raises(mc.Error, match=message):
            prune.GradualNM(*arguments)


def staircase(step):
    return 0.1 * min(step // 10, 8)


def test_functions_are_schedules():
    import copy
    import pickle

    schedule = prune.FunctionSchedule(staircase, 10, 95, 20)
    assert [schedule.sparsity(s) for s in (0, 10, 20, 90, 300)] == [
        staircase(s) for s in (10, 10, 20, 90, 95)
    ]
    assert [s for s in range(200) if schedule.should_prune(s)] == [10, 30, 50, 70, 90, 95]
    assert prune.FunctionSchedule(staircase).should_prune(10**9)
    for twin in (
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        prune.FunctionSchedule.from_config(schedule.get_config()),
    ):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
    assert schedule != prune.FunctionSchedule(lambda step: 0.1, 10, 95, 20)
    assert schedule.function is staircase


def test_a_function_that_gives_no_sparsity_is_named():
    schedule = prune.FunctionSchedule(lambda step: 1.0 + step, 3)
    with pytest.raises(
        mc.Error,
        match=r"FunctionSchedule\] function must return a sparsity in \[0, 1\) at step 3, got 4",
    ):
        schedule.sparsity(0)
    with pytest.raises(mc.DTypeError, match="function must return a number at step 0, got 'half'"):
        prune.FunctionSchedule(lambda step: "half").sparsity(0)
    with pytest.raises(mc.DTypeError, match="function must be callable with a step, got 3"):
        prune.FunctionSchedule(3)
    with pytest.raises(ZeroDivisionError):
        prune.FunctionSchedule(lambda step: 1 / 0).sparsity(0)
    with pytest.raises(mc.Error, match=r"end_step must be -1 or >= begin_step \(9\), got 3"):
        prune.FunctionSchedule(staircase, 9, 3)
