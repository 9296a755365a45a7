# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys

import moptcore as mc
import numpy as np
import pytest
from reference import lowrank as reference

pytest.importorskip("moptcore._runtime", reason="built without oneDNN", exc_type=ImportError)
from moptcore import lowrank

DTYPES = [np.float64, np.float32, np.float16]
SHAPES = [(40, 70), (70, 40), (64, 64), (3, 200)]


def draw(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def decaying(shape, decay=0.9, dtype=np.float32, seed=0):
    """A matrix with singular values 1, decay, decay^2, ..."""
    rng = np.random.default_rng(seed)
    k = min(shape)
    left = np.linalg.qr(rng.standard_normal((shape[0], k)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], k)))[0]
    return ((left * decay ** np.arange(k)) @ right.T).astype(dtype)


def error(w, *factors):
    wide = [np.asarray(factor, np.float64) for factor in factors]
    return float(np.linalg.norm(np.asarray(w, np.float64) - lowrank.reconstruct(*wide)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_truncated_svd_is_the_optimum(shape, dtype):
    w = draw(shape, dtype)
    for rank in (1, 2, lowrank.largest_useful_rank(*shape)):
        u, v = lowrank.factorize(w, rank=rank)
        assert u.shape == (shape[0], rank)
        assert v.shape == (rank, shape[1])
        assert u.dtype == v.dtype == dtype
        # The factors are rounded: each product is off by two half units in the last place, which
        # adds in squares to the optimum; the decomposition itself is exact to double precision.
        rounding = float(np.finfo(dtype).eps) * np.linalg.norm(w.astype(np.float64))
        best = reference.optimal_error(w, rank)
        assert error(w, u, v) <= np.hypot(best, rounding) * (1 + 1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_randomized_svd_comes_close_to_the_optimum(shape, whitened, dtype):
    w = decaying(shape, 0.7, dtype)
    x = draw((50, shape[1]), np.float64, 1)
    rank = lowrank.largest_useful_rank(*shape) // 2 or 1
    u, v = lowrank.factorize(
        w, rank=rank, method="randomized", whiten=x.T @ x if whitened else None
    )
    best = (
        reference.optimal_output_error(w, x, rank) if whitened else reference.optimal_error(w, rank)
    )
    difference = w.astype(np.float64) - u.astype(np.float64) @ v.astype(np.float64)
    found = np.linalg.norm(difference @ x.T) if whitened else np.linalg.norm(difference)
    size = np.linalg.norm(w.astype(np.float64) @ x.T if whitened else w.astype(np.float64))
    # Halko et al., theorem 10.6 with q = 4, p = 16: within 1 % here, and float32 products.
    assert found <= 1.01 * best + 4 * max(float(np.finfo(dtype).eps), 1e-6) * size


@pytest.mark.parametrize("method", ["svd", "randomized"])
def test_equal_seeds_give_equal_bits_and_other_seeds_other_projections(method):
    w = draw((200, 300))
    first = lowrank.factorize(w, rank=5, method=method, seed=7)
    again = lowrank.factorize(w, rank=5, method=method, seed=7)
    other = lowrank.factorize(w, rank=5, method=method, seed=8)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(first[0], other[0]) == (method == "svd")


@pytest.mark.parametrize("kind", ["flat", "decaying"])
@pytest.mark.parametrize("shape", [(600, 400), (400, 600)])
def test_the_krylov_terms_are_within_the_tolerance(shape, kind):
    if kind == "flat":
        w = draw(shape)
    else:
        rng = np.random.default_rng(1)
        left = np.linalg.qr(rng.standard_normal((shape[0], 400)))[0]
        right = np.linalg.qr(rng.standard_normal((shape[1], 400)))[0]
        w = ((left * np.arange(1, 401) ** -0.7) @ right.T).astype(np.float32)
    best = reference.optimal_error(w, 32)
    # Orthonormal rows and products of float32 are good to about 1e-6.
    for tolerance in (1e-2, 1e-4):
        for seed in (0, 1):
            u, v = lowrank.factorize(w, rank=32, method="krylov", seed=seed, tolerance=tolerance)
            assert error(w, u, v) <= best * (1 + tolerance + 4e-6)
            np.testing.assert_allclose(
                np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1), rtol=1e-5
            )
            s = np.linalg.svd(w, compute_uv=False)[:32]
            # Each singular value from below.
            assert ((u**2).sum(axis=0) <= s * (1 + 1e-5)).all()


def test_krylov_whitens():
    w, x = decaying((300, 400), 0.97), draw((500, 400), np.float64, 1)
    x *= np.linspace(0.1, 2, 400)
    u, v = lowrank.factorize(w, rank=24, method="krylov", whiten=x.T @ x)
    best = reference.optimal_output_error(w, x, 24)
    difference = w.astype(np.float64) - u.astype(np.float64) @ v.astype(np.float64)
    assert np.linalg.norm(x @ difference.T) <= best * (1 + 1e-4 + 4e-6)


def test_where_krylov_cannot_tell_the_exact_decomposition_is_taken():
    low = draw((300, 5), np.float64) @ draw((5, 400), np.float64, 1)
    for w, given in (
        (low, {"rank": 20}),
        (np.zeros((300, 400)), {"rank": 20}),
        (draw((300, 40), np.float64), {"rank": 30}),
        (decaying((60, 90), 0.8, np.float64), {"energy": 0.9}),
    ):
        found = lowrank.factorize(w.astype(np.float32), method="krylov", **given)
        exact = lowrank.factorize(w.astype(np.float32), method="svd", **given)
        assert all(np.array_equal(a, b) for a, b in zip(found, exact, strict=True))
    for tolerance in (0.0, 2.0, float("nan")):
        with pytest.raises(mc.Error, match=r"tolerance must be in \[1e-6, 1\]"):
            lowrank.factorize(low, rank=2, method="krylov", tolerance=tolerance)


@pytest.mark.parametrize("method", ["svd", "randomized", "krylov"])
def test_the_bits_are_those_of_any_number_of_threads(method):
    for shape in ((700, 300), (300, 700)):
        w = decaying(shape, 0.98)
        threads = mc.get_num_threads()
        try:
            found = []
            for count in (1, 2, 3, 8):
                mc.set_num_threads(count)
                found.append(lowrank.factorize(w, rank=20, method=method))
        finally:
            mc.set_num_threads(threads)
        for each in found[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(found[0], each, strict=True))


def test_one_thread_means_one():
    """OpenMP has its own idea of how many; its threads stay once they are there."""
    program = """
import os
import numpy as np
import moptcore as mc
from moptcore import lowrank

mc.set_num_threads(1)
w = np.random.default_rng(0).standard_normal((1500, 1500)).astype(np.float32)
before = len(os.listdir("/proc/self/task"))
for method in ("randomized", "svd"):
    lowrank.factorize(w[: 1500 if method == "randomized" else 100], rank=32, method=method)
print(len(os.listdir("/proc/self/task")) - before)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "0"


@pytest.mark.parametrize("method", ["svd", "randomized"])
@pytest.mark.parametrize("shape", SHAPES)
def test_terms_share_their_norm_and_have_a_fixed_sign(shape, method):
    u, v = lowrank.factorize(draw(shape, np.float64), rank=2, method=method)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1), rtol=1e-12)
    assert (u[np.abs(u).argmax(axis=0), range(2)] > 0).all()
    if method == "svd":
        s = np.linalg.svd(draw(shape, np.float64), compute_uv=False)
        np.testing.assert_allclose((u**2).sum(axis=0), s[:2], rtol=1e-12)
        np.testing.assert_allclose(u.T @ u, np.diag(s[:2]), atol=1e-12 * s[0])


@pytest.mark.parametrize("method", ["svd", "randomized"])
@pytest.mark.parametrize(
    ("decay", "given"), [(0.8, {"energy": 0.9}), (0.8, {"error": 0.1}), (0.5, {"error": 1e-3})]
)
def test_the_rank_is_the_least_that_suffices(given, decay, method):
    w = decaying((60, 90), decay, np.float64)
    u, v = lowrank.factorize(w, method=method, **given)
    lost = error(w, u, v) / np.linalg.norm(w)
    allowed = given.get("error", np.sqrt(1 - given.get("energy", 1)))
    assert lost <= allowed * (1 + 1e-9)
    less = reference.optimal_error(w, u.shape[1] - 1) / np.linalg.norm(w)
    if method == "svd":
        assert less > allowed


@pytest.mark.parametrize("params", [0.05, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(40, 70), (64, 64)])
def test_params_bound_what_the_factors_hold(shape, params):
    u, v = lowrank.factorize(draw(shape), params=params)
    most = params * shape[0] * shape[1]
    assert u.size + v.size <= most
    larger = u.size + v.size + sum(shape)
    assert larger > most or larger >= shape[0] * shape[1]


def test_a_rank_that_grows_the_matrix_is_refused_with_the_largest_useful_one():
    w = draw((30, 40))
    largest = lowrank.largest_useful_rank(30, 40)
    assert largest == max(r for r in range(1, 30) if r * 70 < 30 * 40)
    lowrank.factorize(w, rank=largest)
    match = (
        rf"\[lowrank.factorize\] rank must be <= {largest}, the largest that makes 30 x 40 smaller"
    )
    with pytest.raises(mc.Error, match=match):
        lowrank.factorize(w, rank=largest + 1)
    with pytest.raises(mc.Error, match=rf"energy must need a rank <= {largest}.*got 30"):
        lowrank.factorize(w, energy=1.0)
    with pytest.raises(mc.Error, match="w must be of a shape that a rank makes smaller, got 1 x 9"):
        lowrank.factorize(draw((1, 9)), rank=1)
    assert lowrank.largest_useful_rank(1, 9) == 0
    assert lowrank.largest_useful_rank(2**32, 2**32) == 2**31 - 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "exactly one of rank, energy, params and error must be given, got 0"),
        ({"rank": 1, "error": 0.1}, "exactly one of .* got 2"),
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"energy": 0.0}, r"energy must be in \(0, 1\], got 0"),
        ({"energy": float("nan")}, "energy must be"),
        ({"params": 1.0}, r"params must be in \(0, 1\), got 1"),
        ({"params": 0.01}, "params must allow rank 1, at least 0.2"),
        ({"error": 1.0}, r"error must be in \[0, 1\), got 1"),
        ({"rank": 1, "method": "magic"}, "method must be svd, randomized or krylov, got magic"),
        ({"rank": 1, "oversampling": -1}, "oversampling must be >= 0, got -1"),
        ({"rank": 1, "iterations": -1}, "iterations must be >= 0, got -1"),
        ({"rank": 1, "whiten": np.eye(3)}, r"whiten must have shape \(10, 10\), got \(3, 3\)"),
        ({"rank": 1, "whiten": -np.eye(10)}, "whiten must be positive semidefinite"),
        (
            {"rank": 1, "whiten": np.eye(10) + 5 * np.eye(10)[::-1]},
            "whiten must be positive semidefinite",
        ),
        ({"rank": 1, "whiten": np.triu(np.ones((10, 10)))}, "whiten must be symmetric"),
    ],
)
def test_bad_arguments_are_named(arguments, match):
    with pytest.raises(mc.Error, match=match):
        lowrank.factorize(draw((10, 10)), **arguments)


def test_bad_matrices_are_named():
    bad = draw((10, 10))
    bad[3, 4] = np.inf
    with pytest.raises(mc.NonFiniteError, match="w must not contain NaN or infinities"):
        lowrank.factorize(bad, rank=1)
    with pytest.raises(mc.NonFiniteError, match="whiten must not contain NaN"):
        lowrank.factorize(draw((10, 10)), rank=1, whiten=bad)
    with pytest.raises(mc.Error, match="w must be a matrix"):
        lowrank.factorize(draw((10,)), rank=1)
    with pytest.raises(mc.Error, match="w must be a matrix"):
        lowrank.factorize(np.zeros((0, 5), np.float32), rank=1)
    with pytest.raises(mc.DTypeError, match="w must be float64"):
        lowrank.factorize(np.ones((10, 10), np.int32), rank=1)


def test_strides_and_frameworks_are_taken_as_they_are():
    w = draw((40, 60))
    expected = lowrank.factorize(w, rank=3)
    strided = lowrank.factorize(np.asfortranarray(w), rank=3)
    for a, b in zip(expected, strided, strict=True):
        np.testing.assert_array_equal(a, b)
    reversed_ = lowrank.factorize(np.ascontiguousarray(w[::-1, ::-1])[::-1, ::-1], rank=3)
    for a, b in zip(expected, reversed_, strict=True):
        np.testing.assert_array_equal(a, b)
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        u, v = lowrank.factorize(torch.from_numpy(w).to(dtype), rank=3)
        assert u.dtype == v.dtype == dtype
    assert torch.allclose(lowrank.reconstruct(u, v), u @ v, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_neither_overflow_nor_vanish(dtype, scale):
    w = (draw((20, 30), np.float64) * scale).astype(dtype)
    for method in ("svd", "randomized"):
        u, v = lowrank.factorize(w, rank=4, method=method, iterations=20)
        assert error(w, u, v) <= reference.optimal_error(w, 4) * (1 + 1e-4)
    s = np.linalg.svd(w.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(lowrank.singular_values(w), s, rtol=1e-10)


def test_matrices_of_low_rank_and_zeros_are_exact():
    w = draw((30, 5), np.float64) @ draw((5, 40), np.float64, 1)
    for given in ({"error": 1e-7}, {"energy": 1.0}):
        u, v = lowrank.factorize(w.astype(np.float32), **given)
        assert u.shape[1] == 5
        # float32 factors of float32 weights
        assert error(w, u, v) <= 1e-6 * np.linalg.norm(w)
    u, v = lowrank.factorize(w, error=0.0)
    assert u.shape[1] == 5
    assert error(w, u, v) <= 1e-14 * np.linalg.norm(w)
    for method in ("svd", "randomized"):
        u, v = lowrank.factorize(w, rank=12, method=method)
        assert error(w, u, v) <= 1e-13 * np.linalg.norm(w)
        u, v = lowrank.factorize(np.zeros((30, 40), np.float32), rank=3, method=method)
        assert not u.any()
        assert not v.any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("samples", [200, 12])
@pytest.mark.parametrize("shape", [(20, 35), (35, 20)])
def test_whitening_gives_the_least_error_of_the_output(shape, samples, dtype):
    """Also where the inputs span only a part of their space: samples < n."""
    w = draw(shape, dtype)
    mixing = draw((shape[1], shape[1]), np.float64, 2) * np.linspace(0.05, 3, shape[1])
    x = draw((samples, shape[1]), np.float64, 1) @ mixing
    rank = 6
    u, v = (each.astype(np.float64) for each in lowrank.factorize(w, rank=rank, whiten=x.T @ x))
    best = reference.optimal_output_error(w, x, rank)
    size = np.linalg.norm(x @ w.T.astype(np.float64))
    found = np.linalg.norm(x @ (w - u @ v).T)
    # The optimum but for the rounding of the factors.
    assert found <= np.hypot(best, 4 * float(np.finfo(dtype).eps) * size) * (1 + 1e-9)
    plain = np.linalg.norm(x @ (w - lowrank.reconstruct(*lowrank.factorize(w, rank=rank))).T)
    assert found < plain
    # Given u, least squares finds no better v, nor given v a better u.
    better_v = np.linalg.lstsq(u, w, rcond=None)[0]
    better_u = np.linalg.lstsq(x @ v.T, x @ w.T, rcond=None)[0].T
    for a, b in ((u, better_v), (better_u, v)):
        assert np.linalg.norm(x @ (w - a @ b).T) >= found * (1 - 1e-6)
    s = np.linalg.svd(w.astype(np.float64) @ x.T, compute_uv=False)
    values = lowrank.singular_values(w, whiten=x.T @ x)
    count = min(len(s), len(values))
    # Squares are exact to some 1e-15 of the largest.
    np.testing.assert_allclose(values[:count], s[:count], atol=3e-7 * s[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_numpys(shape, dtype):
    w = decaying(shape, 0.8, dtype)
    s = np.linalg.svd(w.astype(np.float64), compute_uv=False)
    found = lowrank.singular_values(w)
    assert found.dtype == np.float64
    atol = 1e-14 if dtype == np.float64 else 1e-7
    np.testing.assert_allclose(found, s, rtol=1e-9, atol=atol * s[0])


CONVOLUTIONS = [(24, 16, 3, 3), (8, 12, 5, 3), (10, 6, 1, 4), (9, 7, 1, 1)]


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_convolutions_by_svd_are_optimal(shape):
    w = draw(shape, np.float64)
    out, inputs, kh, kw = shape
    first, last = lowrank.channel_svd(w, rank=3)
    assert first.shape == (3, inputs, kh, kw)
    assert last.shape == (out, 3, 1, 1)
    best = reference.optimal_error(w.reshape(out, -1), 3)
    assert error(w, first, last) == pytest.approx(best, rel=1e-12)
    vertical, horizontal = lowrank.spatial_svd(w, rank=3)
    assert vertical.shape == (3, inputs, kh, 1)
    assert horizontal.shape == (out, 3, 1, kw)
    best = reference.optimal_error(reference.unfold_spatial(w), 3)
    assert error(w, vertical, horizontal) == pytest.approx(best, rel=1e-12)


def test_convolutions_in_a_row_compute_what_their_reconstruction_does():
    w = draw((6, 5, 3, 3), np.float64)
    x = draw((5, 8, 9), np.float64, 1)
    for factors in (
        lowrank.channel_svd(w, rank=4),
        lowrank.spatial_svd(w, rank=4),
        lowrank.tucker2(w, rank=(4, 3)),
        # Nothing asks the kernels to be of extent 1 outside the middle.
        (
            draw((4, 5, 2, 3), np.float64),
            draw((3, 4, 3, 2), np.float64),
            draw((6, 3, 1, 2), np.float64),
        ),
    ):
        y = x
        for factor in factors:
            y = reference.convolution(y, factor)
        whole = reference.convolution(x, lowrank.reconstruct(*factors))
        np.testing.assert_allclose(y, whole, atol=1e-11)
    with pytest.raises(mc.Error, match="factors must take as many channels as the one before"):
        lowrank.reconstruct(w, w)
    with pytest.raises(mc.Error, match="factors must be one or more"):
        lowrank.reconstruct()


def test_a_patch_moment_whitens_a_convolution():
    w = draw((12, 4, 3, 3), np.float64)
    images = draw((4, 9, 9), np.float64, 1)
    patches = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    patches = np.moveaxis(patches, 0, 2).reshape(49, -1)
    first, last = lowrank.channel_svd(w, rank=5, whiten=patches.T @ patches)
    exact = reference.convolution(images, w)
    found = reference.convolution(reference.convolution(images, first), last)
    best = reference.optimal_error(exact.reshape(12, -1), 5)
    assert np.linalg.norm(found - exact) == pytest.approx(best, rel=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tucker_improves_on_the_higher_order_svd_and_recovers_exact_ranks(dtype):
    w = draw((16, 12, 3, 3), dtype)
    energy = reference.hosvd_energy(w)
    for ranks in ((5, 4), (1, 1), (8, 2)):
        first, core, last = lowrank.tucker2(w, rank=ranks)
        assert first.shape == (ranks[1], 12, 1, 1)
        assert core.shape == (*ranks, 3, 3)
        assert last.shape == (16, ranks[0], 1, 1)
        start = lowrank.tucker2(w, rank=ranks, iterations=0)
        start_error = np.sqrt(energy[-1, -1] - energy[ranks[0] - 1, ranks[1] - 1])
        rounding = 4 * float(np.finfo(dtype).eps) * np.sqrt(energy[-1, -1])
        assert error(w, *start) == pytest.approx(start_error, abs=rounding)
        assert error(w, first, core, last) <= error(w, *start) + rounding
        np.testing.assert_allclose(
            last[:, :, 0, 0].T @ last[:, :, 0, 0], np.eye(ranks[0]), atol=8 * np.finfo(dtype).eps
        )
    exact = np.einsum(
        "oa,abkl,bi->oikl", draw((16, 3)), draw((3, 2, 3, 3), seed=1), draw((2, 12), seed=2)
    )
    factors = lowrank.tucker2(exact, error=1e-3)
    assert factors[1].shape == (3, 2, 3, 3)
    assert error(exact, *factors) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    "given", [{"params": 0.4}, {"params": 0.1}, {"energy": 0.5}, {"error": 0.6}]
)
def test_tucker_ranks_are_the_best_of_all_pairs(given):
    w = decaying((16, 12 * 9), 0.8, np.float64).reshape(16, 12, 3, 3)
    energy = reference.hosvd_energy(w)
    total = energy[-1, -1]
    pairs = {
        (a, b): (reference.tucker_parameters(w.shape, a, b), energy[a - 1, b - 1])
        for a in range(1, 17)
        for b in range(1, 13)
    }
    _, core, _ = factors = lowrank.tucker2(w, **given)
    cost, kept = pairs[core.shape[:2]]
    assert cost == sum(factor.size for factor in factors) < w.size
    if "params" in given:
        most = given["params"] * w.size
        assert cost <= most
        best = max(kept for cost, kept in pairs.values() if cost <= most)
        assert kept == pytest.approx(best, rel=1e-12)
    else:
        enough = total * (given["energy"] if "energy" in given else 1 - given["error"] ** 2)
        assert kept >= enough * (1 - 1e-12)
        assert cost == min(cost for cost, kept in pairs.values() if kept >= enough)
        assert error(w, *factors) ** 2 <= (total - enough) * (1 + 1e-9)


def test_tucker_refuses_ranks_that_grow_the_weight():
    w = draw((8, 8, 3, 3))
    with pytest.raises(mc.Error, match="rank must make w smaller than its 576 parameters, got 704"):
        lowrank.tucker2(w, rank=(8, 8))
    with pytest.raises(mc.Error, match="energy must be within reach of ranks that make w smaller"):
        lowrank.tucker2(w, energy=1.0)
    with pytest.raises(mc.Error, match=r"params must allow ranks \(1, 1\)"):
        lowrank.tucker2(w, params=0.01)
    with pytest.raises(mc.Error, match="rank must be a pair in"):
        lowrank.tucker2(w, rank=(9, 1))
    with pytest.raises(mc.Error, match="exactly one of"):
        lowrank.tucker2(w, rank=(1, 1), energy=0.5)
    with pytest.raises(mc.Error, match=r"w must have shape \[out, in, kh, kw\]"):
        lowrank.tucker2(draw((8, 8)), energy=0.5)


@pytest.mark.parametrize("shape", [(7, 5, 3, 2), (4, 6, 1, 3), (3, 2, 1, 1)])
def test_tucker_choices_are_all_pairs_worth_taking(shape):
    w = decaying((shape[0], np.prod(shape[1:])), 0.6, np.float64).reshape(shape)
    energy = reference.hosvd_energy(w)
    pairs = {
        (a, b): (reference.tucker_parameters(shape, a, b), 1 - energy[a - 1, b - 1] / energy.max())
        for a in range(1, shape[0] + 1)
        for b in range(1, shape[1] + 1)
    }
    worth = {
        pair: (cost, loss)
        for pair, (cost, loss) in pairs.items()
        if cost < w.size
        and not any(
            (c <= cost and x < loss - 1e-14) or (c < cost and x <= loss + 1e-14)
            for c, x in pairs.values()
        )
    }
    ranks, parameters, losses = lowrank.tucker2_choices(w)
    assert {tuple(pair) for pair in ranks.tolist()} == set(worth)
    assert (np.diff(parameters) > 0).all()
    assert (np.diff(losses) < 0).all()
    for pair, cost, loss in zip(ranks.tolist(), parameters, losses, strict=True):
        assert worth[tuple(pair)] == (cost, pytest.approx(loss, abs=1e-13))
        factors = lowrank.tucker2(w, rank=tuple(pair))
        assert sum(factor.size for factor in factors) == cost
        assert error(w, *factors) ** 2 <= (loss + 1e-12) * energy.max()
    assert len(lowrank.tucker2_choices(np.zeros((8, 8, 3, 3), np.float32))[0]) == 1
    with pytest.raises(mc.Error, match=r"tucker2_choices\] w must have shape \[out, in, kh, kw\]"):
        lowrank.tucker2_choices(draw((8, 8)))


@pytest.mark.parametrize("seed", range(5))
def test_allocated_choices_are_the_best_of_all_for_what_they_cost(seed):
    """Choices of no common pattern: in no order, some dominated, some larger than their tensor."""
    rng = np.random.default_rng(seed)
    sizes = [30, 50, 41]
    choices = [
        [
            (int(p), float(x))
            for p, x in zip(rng.integers(1, size + 5, 9), rng.random(9), strict=True)
        ]
        for size in sizes
    ]
    cheapest = sum(
        min(*(p for p, _ in table), size) for table, size in zip(choices, sizes, strict=True)
    )
    for most in range(cheapest, sum(sizes) + 1, 3):
        taken = lowrank.allocate_choices(choices, sizes, params=min((most + 0.5) / sum(sizes), 1.0))
        found = [
            (size, 0.0) if index is None else table[index]
            for index, table, size in zip(taken, choices, sizes, strict=True)
        ]
        cost, lost = (sum(column) for column in zip(*found, strict=True))
        assert cost <= most
        assert all(
            index is None or p < size
            for index, (p, _), size in zip(taken, found, sizes, strict=True)
        )
        assert lost >= reference.best_choice(choices, sizes, most) - 1e-12
        # Along the hull nothing of that cost is better; between two corners, one step at most.
        step = max(sizes)
        if cost - step >= cheapest:
            assert lost <= reference.best_choice(choices, sizes, cost - step) + 1e-12
    for allowed in (0.7, 0.4, 0.1, 0.0):
        taken = lowrank.allocate_choices(choices, sizes, error=allowed)
        losses = [0 if i is None else table[i][1] for i, table in zip(taken, choices, strict=True)]
        assert sum(losses) / 3 <= allowed**2 + 1e-12


def test_on_the_hull_choices_are_the_optimum():
    """Convex tables: greedy steps are optimal at every budget that they meet exactly."""
    sizes = [40, 40]
    choices = [[(10 * k, 0.5**k) for k in (1, 2, 3)], [(10 * k, 0.1**k) for k in (1, 2, 3)]]
    for most in range(20, 81, 10):
        taken = lowrank.allocate_choices(choices, sizes, params=most / 80)
        lost = sum(0 if i is None else table[i][1] for i, table in zip(taken, choices, strict=True))
        assert lost == pytest.approx(reference.best_choice(choices, sizes, most), abs=1e-15)
    weighted = lowrank.allocate_choices(choices, sizes, params=0.5, importance=[0, 1])
    assert weighted == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([], [], 0.5), "sizes must not be empty"),
        (([[]], [4, 5], 0.5), "choices must be as many as the sizes, 2, got 1"),
        (([[(0, 0.5)]], [4], 0.5), "choices must have parameters >= 1, got 0"),
        (([[(1, 1.5)]], [4], 0.5), r"choices must have a loss in \[0, 1\], got 1.5"),
        (([[(1, float("nan"))]], [4], 0.5), "choices must have a loss"),
        (([[(1, 0.5)]], [0], 0.5), "sizes must be >= 1, got 0"),
        (
            ([[(3, 0.5)]], [4], 0.5),
            "params must allow the cheapest choice everywhere, at least 0.75",
        ),
        (([[(4, 0.5)]], [4], 0.5), "params must allow the cheapest choice everywhere, at least 1"),
        (([[(1, 0.5)]], [4], 0.5, 0.5), "exactly one of params and error"),
    ],
)
def test_bad_choices_are_named(arguments, match):
    with pytest.raises(mc.Error, match=match):
        lowrank.allocate_choices(*arguments)


SMALL = [(6, 5), (4, 7), (5, 5)]


def spectra(seed=0):
    rng = np.random.default_rng(seed)
    return [np.sort(rng.exponential(size=min(shape)) ** 2)[::-1] for shape in SMALL]


@pytest.mark.parametrize("seed", range(5))
def test_allocated_ranks_are_the_best_of_all_for_what_they_cost(seed):
    values = spectra(seed)
    table = list(reference.all_allocations(values, SMALL))
    total = sum(m * n for m, n in SMALL)
    # Least useful energy that one step of any matrix adds.
    cheapest = min(cost for _, cost, _ in table)
    for params in np.linspace(cheapest / total, 1, 23):
        choice = tuple(lowrank.allocate_ranks(values, SMALL, params=float(params)))
        cost, lost = reference.allocation(values, SMALL, choice)
        assert cost <= params * total
        best = min(error for _, other, error in table if other <= params * total)
        # One step less than the budget may be open: the best with one step less is no better.
        step = max(m * n - ((m * n - 1) // (m + n) - 1) * (m + n) for m, n in SMALL)
        assert (
            lost
            <= min((error for _, other, error in table if other <= cost - step), default=np.inf)
            + 1e-12
        )
        assert lost >= best - 1e-12
    for allowed in (0.9, 0.5, 0.3, 0.1, 0.01, 0.0):
        choice = tuple(lowrank.allocate_ranks(values, SMALL, error=allowed))
        cost, lost = reference.allocation(values, SMALL, choice)
        assert lost <= allowed + 1e-12
        # Nothing with as few parameters has a smaller error by more than the last step's gain.
        fewest = min(cost for _, cost, error in table if error <= allowed + 1e-12)
        assert fewest <= cost < fewest + step


@pytest.mark.parametrize("seed", range(5))
def test_equal_shapes_make_the_allocation_optimal_at_every_budget(seed):
    """Equal costs: the largest singular values of all win, whatever the budget."""
    rng = np.random.default_rng(seed)
    shapes = [(6, 6)] * 3
    # Tails so small that keeping a matrix whole never pays before its last useful rank.
    values = [np.sort(rng.uniform(1, 3, 6) * [1, 1, 1e-6, 1e-7, 1e-8, 1e-9])[::-1] for _ in shapes]
    table = list(reference.all_allocations(values, shapes))
    for steps in range(3, 7):
        params = steps * 12 / 108
        choice = tuple(lowrank.allocate_ranks(values, shapes, params=params + 1e-9))
        cost, lost = reference.allocation(values, shapes, choice)
        assert cost == steps * 12
        best = min(error for _, other, error in table if other <= cost)
        assert lost == pytest.approx(best, abs=1e-15)


def test_allocation_weighs_by_importance_and_keeps_what_no_rank_makes_smaller():
    values = [np.array([3.0, 2.0, 1.0, 0.5]), np.array([30.0, 20.0, 10.0, 5.0])]
    shapes = [(4, 6), (4, 6)]
    alike = lowrank.allocate_ranks(values, shapes, params=0.7)
    swapped = lowrank.allocate_ranks(values[::-1], shapes, params=0.7)
    assert sorted(map(str, alike)) == sorted(map(str, swapped))
    first = lowrank.allocate_ranks(values, shapes, params=0.75, importance=[1.0, 0.0])
    second = lowrank.allocate_ranks(values, shapes, params=0.75, importance=[0.0, 1.0])
    assert first == [None, 1] or first == [2, 1]
    assert second == first[::-1]
    assert lowrank.allocate_ranks([[1.0], [2.0, 1.0]], [(1, 9), (2, 9)], params=1.0) == [None, None]
    for arguments, match in [
        ({}, "exactly one of params and error"),
        ({"params": 0.1}, "params must allow rank 1 everywhere, at least 0.41"),
        ({"params": 0.0}, r"params must be in \(0, 1\]"),
        ({"error": -1.0}, r"error must be in \[0, 1\)"),
        ({"error": 0.5, "importance": [1.0]}, "importance must be as many as the shapes, 2, got 1"),
        ({"error": 0.5, "importance": [1.0, -1.0]}, "importance must be finite and >= 0, got -1"),
    ]:
        with pytest.raises(mc.Error, match=match):
            lowrank.allocate_ranks(values, shapes, **arguments)
    with pytest.raises(mc.Error, match="singular_values must hold all 4 of matrix 0, got 2"):
        lowrank.allocate_ranks([[2.0, 1.0], values[1]], shapes, params=0.5)
    with pytest.raises(mc.Error, match="descending, got 2"):
        lowrank.allocate_ranks([[1.0, 2.0, 0.0, 0.0], values[1]], shapes, params=0.5)


def test_a_missing_library_is_reported_with_what_to_install():
    code = """
import sys
sys.modules["moptcore._runtime"] = None  # importing it raises ImportError
import moptcore as mc
try:
    mc.lowrank
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[lowrank]" in done.stdout
    assert "pip install onednn-cpu-gomp" in done.stdout


def test_sklearn_randomized_svd_is_no_better():
    extmath = pytest.importorskip("sklearn.utils.extmath")
    w = decaying((300, 200), 0.98)
    u, s, v = extmath.randomized_svd(w, 20, random_state=0)
    ours = error(w, *lowrank.factorize(w, rank=20, method="randomized"))
    # Both are near the optimum; ours by 16 extra directions where theirs has 10.
    assert ours <= np.linalg.norm(w - (u * s) @ v) * 1.001
