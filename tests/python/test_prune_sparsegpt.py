# SPDX-License-Identifier: Apache-2.0
"""Reconstruction against inverses taken anew for each column, and against what it should beat."""

from __future__ import annotations

import copy
import math
import pickle

import moptcore as mc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import prune as reference

prune = mc.prune


def inputs(samples, features, seed=0):
    """Correlated inputs whose features differ in size, as activations do."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((samples, max(1, features // 4)))
    mix = rng.standard_normal((hidden.shape[1], features)) / math.sqrt(hidden.shape[1])
    noise = 0.3 * rng.standard_normal((samples, features))
    return (hidden @ mix + noise) * rng.gamma(2.0, 0.5, features)


def problem(rows, cols, seed=0):
    x = inputs(4 * cols, cols, seed)
    w = np.random.default_rng(seed + 1).standard_normal((rows, cols))
    return w, 2 * x.T @ x, x


def error(w, new, x):
    return np.linalg.norm(x @ (new - w).T) / np.linalg.norm(x @ w.T)


# Statistics


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_statistics_of_batches_are_those_of_the_whole(dtype):
    x = torch.from_numpy(inputs(700, 37)).to(getattr(torch, dtype))
    whole = x.double().numpy()
    norm, hessian = prune.InputNorm(37), prune.InputHessian(37)
    other_norm, other_hessian = prune.InputNorm(37), prune.InputHessian(37)
    for statistic in (norm, hessian):
        statistic.update(x[:100])
        statistic.update(x[100:400].reshape(3, 100, 37))
    for statistic in (other_norm, other_hessian):
        statistic.update(x[400:].T.reshape(37, 10, 30), axis=0)
    norm.merge(other_norm)
    hessian.merge(other_hessian)
    assert norm.count == hessian.count == 700
    # 700 roundings of sums of terms of one sign, or bounded by such sums.
    np.testing.assert_allclose(norm.norm(), np.linalg.norm(whole, axis=0), rtol=700 * 2**-53)
    got = hessian.hessian()
    bound = 2 * np.abs(whole).T @ np.abs(whole)
    assert (np.abs(got - 2 * whole.T @ whole) <= 1400 * 2**-53 * bound).all()
    np.testing.assert_array_equal(got, got.T)


def test_statistics_continue_from_their_state():
    x = inputs(90, 5)
    for kind in (prune.InputNorm, prune.InputHessian):
        first, whole = kind(5), kind(5)
        first.update(x[:50])
        whole.update(x[:50])
        whole.update(x[50:])
        loaded = kind(5)
        loaded.load_state_dict(first.state_dict())
        for twin in (loaded, pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
            twin.update(x[50:])
            assert twin.count == 90
            assert twin.features == 5
            np.testing.assert_array_equal(twin.state_dict()["sums"], whole.state_dict()["sums"])
        state = first.state_dict()
        for bad, message in [
            ({"kind": state["kind"]}, "state must have the keys kind, sums, count"),
            ({**state, "kind": "Other"}, f"state must be of an {kind.__name__}, got Other"),
            ({**state, "count": "many"}, "count must be a whole number"),
            (kind(4).state_dict(), "sums must be those of 5 features, got 4"),
        ]:
            with pytest.raises(mc.FormatError, match=message):
                loaded.load_state_dict(bad)


def test_statistics_refuse_what_they_cannot_add():
    for statistic in (prune.InputNorm(3), prune.InputHessian(3)):
        bad = np.ones((4, 3))
        bad[2, 1] = math.inf
        with pytest.raises(
            mc.NonFiniteError, match=r"update\] inputs must be finite, got inf at fl"
        ):
            statistic.update(bad)
        with pytest.raises(
            mc.Error, match=r"inputs must have 3 features along axis 0, got \(4, 3\)"
        ):
            statistic.update(np.ones((4, 3)), axis=0)
        with pytest.raises(mc.DTypeError, match="inputs must be float64, float32"):
            statistic.update(np.ones((4, 3), int))
        with pytest.raises(mc.Error, match="other must have 3 features, got 2"):
            statistic.merge(type(statistic)(2))
        assert statistic.count == 0
        with pytest.raises(mc.Error, match="features must be"):
            type(statistic)(0)


# Reconstruction


def test_a_pruned_first_input_gives_the_update_of_optimal_brain_surgeon():
    w, h, _ = problem(3, 8)
    mask = np.ones((3, 8), bool)
    mask[:, 0] = False
    new, kept = prune.sparsegpt(w, h, mask=mask, damping=0)
    np.testing.assert_array_equal(kept, mask)
    inverse = np.linalg.inv(h)
    expected = w - np.outer(w[:, 0] / inverse[0, 0], inverse[0])
    # The condition of this matrix times a few roundings.
    tolerance = 8 * np.linalg.cond(h) * 2**-52
    np.testing.assert_allclose(new, expected, rtol=0, atol=tolerance * np.abs(w).max())
    assert (new[:, 0] == 0).all()
    # And it is the least-squares answer of the remaining weights.
    rise = [(d @ h @ d) / 2 for d in new - w]
    np.testing.assert_allclose(
        rise, prune.obs_score(w, np.diag(inverse).copy(), axis=1)[:, 0], rtol=1e-6
    )


@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 21),
    block=st.integers(1, 24),
    way=st.sampled_from(["sparsity", "pattern", "mask"]),
    share=st.floats(0, 0.99),
    m=st.integers(1, 6),
    dead=st.integers(0, 3),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_reconstruction_follows_the_inverses_of_what_is_left(
    rows, cols, block, way, share, m, dead, seed
):
    w, h, _ = problem(rows, cols, seed)
    h[:dead] = h[:, :dead] = 0
    options = {
        "sparsity": {"sparsity": share},
        "pattern": {"n": 1 + seed % m, "m": m},
        "mask": {"mask": prune.random_mask((rows, cols), share, seed)},
    }[way]
    options |= {"block_size": block, "damping": 0.05}
    new, kept = prune.sparsegpt(w, h, **options)
    expected, mask = reference.sparsegpt(w, h, **options)
    np.testing.assert_array_equal(kept, mask)
    # Damping bounds the condition by 1 + 20 n; the rest are roundings of inverses in double.
    np.testing.assert_allclose(new, expected, rtol=0, atol=1e-9 * max(1, np.abs(expected).max()))
    assert (new[~kept] == 0).all()
    assert not np.signbit(new[~kept]).any()
    if way == "sparsity":
        assert (~kept).sum() == reference.zero_count(w.size, share)


def test_large_layers_follow_it_too():
    w, h, _ = problem(33, 300, 7)
    new, kept = prune.sparsegpt(w, h, sparsity=0.6)
    expected, mask = reference.sparsegpt(w, h, sparsity=0.6, damping=0.01)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(new, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_the_output_suffers_less_than_under_masks_alone():
    w, h, x = problem(64, 256, 3)
    norm = prune.InputNorm(256)
    norm.update(x)
    for sparsity in (0.5, 0.7):
        magnitude = error(w, prune.apply_mask(w, prune.magnitude_mask(w, sparsity)), x)
        scores = prune.wanda_score(w, norm.norm())
        wanda = error(w, prune.apply_mask(w, prune.row_mask(w, sparsity, scores=scores)), x)
        new, _ = prune.sparsegpt(w, h, sparsity=sparsity)
        assert error(w, new, x) < 0.85 * wanda
        assert error(w, new, x) < 0.5 * magnitude
    pattern, kept = prune.sparsegpt(w, h, n=2, m=4)
    assert (kept.reshape(-1, 4).sum(1) == 2).all()
    assert error(w, pattern, x) < 0.5 * error(w, prune.apply_mask(w, prune.nm_mask(w, 2, 4)), x)
    # A mask of someone else's gains by the repair alone.
    repaired, kept = prune.sparsegpt(w, h, mask=prune.magnitude_mask(w, 0.5))
    assert error(w, repaired, x) < 0.8 * error(w, w * kept, x)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_weights_of_any_dtype_and_stride_in_place_or_not(dtype):
    w, h, _ = problem(12, 20)
    weights = torch.from_numpy(w.T.copy()).to(getattr(torch, dtype)).T
    expected, mask = prune.sparsegpt(weights.double().numpy(), h, sparsity=0.5)
    new, kept = prune.sparsegpt(weights, h, sparsity=0.5)
    assert new.dtype == weights.dtype
    np.testing.assert_array_equal(kept.numpy(), mask)
    # The same numbers, rounded once (in float on the way to 16 bits).
    assert torch.equal(new, torch.from_numpy(expected).float().to(new.dtype).type_as(new)) or (
        dtype == "float64" and np.array_equal(new.numpy(), expected)
    )
    _, bits = prune.sparsegpt(weights, h, sparsity=0.5, out=weights, packed=True)
    assert torch.equal(weights, new)
    np.testing.assert_array_equal(prune.unpack_mask(bits, (12, 20)).numpy(), mask)
    _, same = prune.sparsegpt(w, h, mask=prune.pack_mask(mask))
    np.testing.assert_array_equal(same, mask)


def test_threads_do_not_change_a_bit():
    w, h, _ = problem(70, 150)
    expected, _ = prune.sparsegpt(w, h, sparsity=0.5, block_size=64)
    threads = mc.get_num_threads()
    try:
        for count in (1, 3):
            mc.set_num_threads(count)
            new, _ = prune.sparsegpt(w, h, sparsity=0.5, block_size=64)
            np.testing.assert_array_equal(new, expected)
    finally:
        mc.set_num_threads(threads)


def test_inputs_that_are_always_zero_go_first_and_touch_nothing():
    w, h, _ = problem(4, 8)
    h[:, 5] = h[5] = 0
    new, kept = prune.sparsegpt(w, h, sparsity=4 / 32)
    assert not kept[:, 5].any()
    np.testing.assert_array_equal(np.delete(new, 5, 1), np.delete(w, 5, 1))
    new, kept = prune.sparsegpt(w, h, sparsity=2 / 32)
    np.testing.assert_array_equal(new[kept], w[kept])


@pytest.mark.parametrize(
    ("change", "error_type", "message"),
    [
        ({"sparsity": None}, mc.Error, "exactly one of sparsity, n and m, and mask must .* got 0"),
        ({"n": 2, "m": 4}, mc.Error, "exactly one of sparsity, n and m, and mask .* got 2"),
        ({"sparsity": None, "n": 2}, mc.Error, "n and m must be given together"),
        ({"sparsity": 1.0}, mc.Error, r"sparsity must be in \[0, 1\), got 1"),
        ({"sparsity": None, "n": 5, "m": 4}, mc.Error, r"n must be in \[1, m\], got 5"),
        ({"block_size": 0}, mc.Error, "block_size must be >= 1"),
        ({"damping": -1.0}, mc.Error, "damping must be finite and >= 0, got -1"),
        ({"hessian": np.eye(2)}, mc.Error, r"hessian must have the shape \(3, 3\), got \(2, 2\)"),
        (
            {"hessian": -np.eye(3)},
            mc.Error,
            "positive definite once damped, raise damping, got a p",
        ),
        ({"hessian": np.triu(np.ones((3, 3)))}, mc.Error, r"symmetric, got 0 and 1 at \(1, 0\)"),
        (
            {"hessian": np.full((3, 3), np.nan)},
            mc.NonFiniteError,
            "hessian must be finite, got nan",
        ),
        (
            {"weights": np.full((2, 3), np.inf)},
            mc.NonFiniteError,
            "weights must be finite, got inf",
        ),
        ({"weights": np.ones(3)}, mc.Error, "weights must have 2 dimensions"),
        ({"weights": np.ones((2, 3), int)}, mc.DTypeError, "weights must be float64"),
        ({"sparsity": None, "mask": np.ones((3, 2), bool)}, mc.Error, r"mask must have the shape"),
    ],
)
def test_reconstruction_refuses_bad_arguments(change, error_type, message):
    arguments = {"weights": np.ones((2, 3)), "hessian": np.eye(3), "sparsity": 0.5} | change
    with pytest.raises(error_type, match=message):
        prune.sparsegpt(**arguments)
