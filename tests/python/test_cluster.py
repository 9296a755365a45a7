# SPDX-License-Identifier: Apache-2.0
"""Codebooks: the optimum against every partition and against peers, primitives against NumPy."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import kmeans1d
import moptcore as mc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moptcore import cluster
from reference import cluster as reference
from sklearn.cluster import KMeans

INITS = ["optimal", "linear", "density", "random", "kmeans++"]
DTYPES = [np.float64, np.float32, np.float16]


def error(weights: np.ndarray, book: cluster.Codebook) -> float:
    return reference.squared_error(np.asarray(weights), np.asarray(book.lookup()))


def rounding(values: np.ndarray) -> float:
    """What double arithmetic may lose on sums of squares of so few values."""
    spread = float(np.ptp(values)) if values.size else 0.0
    return 1e-13 * values.size * spread**2


values = st.one_of(
    st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=10),
    st.lists(st.floats(-100, 100), min_size=1, max_size=10),
)


@given(values, st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_the_optimum_is_the_least_of_all_partitions(numbers: list[float], k: int) -> None:
    weights = np.array(numbers)
    book = cluster.kmeans(weights, k)
    assert abs(error(weights, book) - reference.least_error(weights, k)) <= rounding(weights)


@pytest.mark.parametrize("k", [2, 5, 16, 100, 256])
@pytest.mark.parametrize("kind", ["normal", "uniform", "laplace", "whole", "clumps"])
def test_the_optimum_costs_what_the_exact_peer_finds(k: int, kind: str) -> None:
    rng = np.random.default_rng(k)
    weights = {
        "normal": lambda: rng.normal(size=3000),
        "uniform": lambda: rng.uniform(-1, 1, 3000),
        "laplace": lambda: rng.laplace(size=3000),
        "whole": lambda: rng.integers(-200, 200, 3000).astype(np.float64),
        "clumps": lambda: (rng.integers(0, 20, 3000) + rng.normal(scale=1e-3, size=3000)) * 1.0,
    }[kind]()
    peer = kmeans1d.cluster(weights, k)
    theirs = reference.squared_error(weights, np.asarray(peer.centroids)[peer.clusters])
    ours = error(weights, cluster.kmeans(weights, k))
    assert ours <= theirs * (1 + 1e-9)
    assert ours >= theirs * (1 - 1e-6)


def test_no_iteration_of_a_peer_finds_less() -> None:
    weights = np.random.default_rng(1).normal(size=4000)
    for k in [4, 16]:
        peer = KMeans(k, n_init=3, random_state=0).fit(weights[:, None])
        assert error(weights, cluster.kmeans(weights, k)) <= peer.inertia_ * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_clumps_much_narrower_than_their_distances_are_cut_exactly(dtype: type) -> None:
    # 16 clumps of 32 neighbours at distance d: 4 runs of 8 each, of 42 d^2 each, are the optimum.
    d = 2.0**-30 if dtype is np.float64 else 2.0**-17
    values = (np.arange(16)[:, None] + d * np.arange(32)).astype(dtype)
    shuffled = np.random.default_rng(0).permutation(values.ravel())
    book = cluster.kmeans(shuffled, 64, exact=True)
    # Differences of neighbours and their squares are exact in double.
    squares = np.square(book.lookup().astype(np.float64) - shuffled)
    assert book.k == 64
    rounding = 0 if dtype is np.float64 else 1e-6
    np.testing.assert_allclose(squares.sum(), 64 * 42 * d * d, rtol=rounding)


@pytest.mark.parametrize("init", INITS)
def test_no_start_of_lloyd_finds_less_than_the_optimum(init: str) -> None:
    weights = np.random.default_rng(2).normal(size=5000).astype(np.float32)
    best = error(weights, cluster.kmeans(weights, 16))
    found = error(weights, cluster.kmeans(weights, 16, init=init, seed=3))
    start = cluster.init_centroids(weights, 16, init, seed=3)
    before = cluster.Codebook(start, cluster.assign(weights, start))
    # Centroids are rounded to float32, by up to 2^-24 of their magnitude.
    assert best <= found * (1 + 1e-6)
    assert found <= error(weights, before) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("init", INITS)
def test_few_values_are_kept_as_they_are(init: str, dtype: type) -> None:
    weights = np.array([0.3, -1.7, 0.3, 2.5, -1.7], dtype)
    book = cluster.kmeans(weights, 7, init=init)
    np.testing.assert_array_equal(book.centroids, np.unique(weights))
    np.testing.assert_array_equal(book.lookup(), weights)


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60),
    st.integers(1, 12),
    st.sampled_from(INITS),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_a_codebook_is_small_sorted_and_does_not_see_the_order(numbers, k, init, random) -> None:
    weights = np.array(numbers, np.float32)
    book = cluster.kmeans(weights, k, init=init)
    assert book.centroids.dtype == np.float32
    assert book.indices.dtype == np.uint8
    assert 1 <= book.centroids.size <= k
    assert np.unique(book.lookup()).size <= k
    assert (np.diff(book.centroids) >= 0).all()
    np.testing.assert_array_equal(
        np.abs(weights - book.lookup()),
        np.abs(weights[:, None] - book.centroids).min(-1),
    )
    random.shuffle(numbers)
    other = cluster.kmeans(np.array(numbers, np.float32), k, init=init)
    np.testing.assert_array_equal(book.centroids, other.centroids)


@pytest.mark.parametrize("init", INITS)
def test_centroids_move_with_the_weights(init: str) -> None:
    weights = np.random.default_rng(4).normal(size=2000)
    book = cluster.kmeans(weights, 8, init=init)
    moved = cluster.kmeans(weights * 4 + 32, 8, init=init)
    # Doubles of magnitude 50 round by 2^-48 each, sums of them by as much relative to their size.
    np.testing.assert_allclose(moved.centroids, book.centroids * 4 + 32, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_magnitudes_do_not_matter(scale: float) -> None:
    weights = np.random.default_rng(5).normal(size=500)
    book = cluster.kmeans(weights, 6)
    scaled = cluster.kmeans(weights * scale, 6)
    np.testing.assert_array_equal(scaled.indices, book.indices)
    np.testing.assert_allclose(scaled.centroids, book.centroids * scale, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 2, 5, 16, 33, 300])
def test_assignment_is_the_nearest_with_the_lowest_index(k: int, dtype: type) -> None:
    rng = np.random.default_rng(k)
    weights = rng.integers(-40, 40, 3000).astype(dtype) / 8
    centroids = rng.integers(-40, 40, k).astype(dtype) / 4
    indices = cluster.assign(weights, centroids)
    assert indices.dtype == (np.uint8 if k <= 256 else np.uint16)
    np.testing.assert_array_equal(indices, reference.nearest(weights, centroids))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("spread", ["even", "close", "far"])
def test_assignment_does_not_care_how_centroids_are_spread(spread: str, dtype: type) -> None:
    rng = np.random.default_rng(12)
    centroids = {
        "even": lambda: np.linspace(-3, 3, 200),
        # More middles than one in a share of 2^-11 of the range, and than eight.
        "close": lambda: np.concatenate([np.arange(3) / 1024, [1 / 64], np.linspace(-8, 8, 60)]),
        "far": lambda: np.concatenate([np.arange(100) / 1024, [-3e4, 3e4]]),
    }[spread]()
    centroids = np.unique(centroids.astype(dtype))
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    weights = np.concatenate([rng.normal(size=2000), middles, centroids, [-6e4, 6e4]]).astype(dtype)
    wide = weights.astype(np.float64)
    # Below a middle the lower one is nearer, at it both are and the lower index is taken. Sums and
    # halves of these are exact in double but for float64's, which round to even as linspace does.
    expected = np.searchsorted(middles, wide, side="left")
    found = cluster.assign(weights, centroids)
    if dtype is np.float64:
        distance = np.abs(wide[:, None] - centroids)
        assert (distance[np.arange(wide.size), found] <= distance.min(-1) + 2.0**-50).all()
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("k", [5, 40, 300])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_large_tensors_are_looked_up_and_summed_like_small_ones(k: int, dtype: type) -> None:
    rng = np.random.default_rng(k)
    size = 5_000_011  # from 16 MiB on results are written past the caches
    indices = rng.integers(0, k, size).astype(np.uint8 if k <= 256 else np.uint16)
    centroids = rng.normal(size=k).astype(dtype)
    np.testing.assert_array_equal(cluster.lookup(indices, centroids), centroids[indices])
    # Whole numbers add up exactly in any order; float16 holds the sums of so few.
    grad = rng.integers(-1, 2, size).astype(dtype)
    if dtype is np.float16:
        grad[2000:] = 0
    expected = np.bincount(indices, grad.astype(np.float64), minlength=k)
    np.testing.assert_array_equal(cluster.centroid_gradient(grad, indices, k), expected)


def test_assignment_at_a_middle_that_no_float_holds() -> None:
    low, high = np.float32(1.0), np.nextafter(np.float32(1.0), np.float32(2.0))
    weights = np.array([low, high], np.float32)
    for centroids in ([low, high], [high, low]):
        book = np.array(centroids, np.float32)
        np.testing.assert_array_equal(book[cluster.assign(weights, book)], weights)


@pytest.mark.parametrize(
    ("axis", "group_size"), [(None, None), (0, None), (-1, None), (1, 2), (None, 7), (2, 100)]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_groups_are_clustered_alone(axis, group_size, dtype: type) -> None:
    rng = np.random.default_rng(6)
    weights = np.asarray(rng.normal(size=(4, 6, 5)).astype(dtype).transpose(2, 0, 1))
    group = reference.groups(weights.shape, axis, group_size)
    book = cluster.kmeans(weights, 3, axis=axis, group_size=group_size)
    clustered = book.lookup()
    assert clustered.dtype == dtype
    centroids = np.atleast_2d(book.centroids)
    assert centroids.shape[0] == group.max() + 1
    np.testing.assert_array_equal(clustered, centroids[group, book.indices])
    for row in range(centroids.shape[0]):
        alone = cluster.kmeans(np.ascontiguousarray(weights[group == row]), 3)
        np.testing.assert_array_equal(centroids[row, : alone.centroids.size], alone.centroids)
        np.testing.assert_array_equal(clustered[group == row], alone.lookup())
    indices = cluster.assign(weights, book.centroids, axis=axis, group_size=group_size)
    np.testing.assert_array_equal(indices, book.indices)


def test_rows_with_fewer_centroids_repeat_the_largest() -> None:
    weights = np.array([[1.0, 1, 1, 1], [1, 2, 3, 4]])
    book = cluster.kmeans(weights, 3, axis=0)
    np.testing.assert_array_equal(book.centroids[0], [1, 1, 1])
    zeros = np.array([[-2.0, -1, 0, 0, 0], [1, 2, 3, 4, 0]])
    book = cluster.kmeans(zeros, 4, axis=0, preserve_zeros=True)
    np.testing.assert_array_equal(book.centroids[0], [-2, -1, -1, 0])
    np.testing.assert_array_equal(book.lookup()[0], zeros[0])


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1e-3, -1e-3, 0.5, -0.7, 2.0, 3.25]), min_size=1),
    st.integers(2, 5),
    st.sampled_from(INITS),
)
@settings(max_examples=200, deadline=None)
def test_zeros_stay_and_nothing_else_joins_their_centroid(numbers, k, init) -> None:
    weights = np.array(numbers)
    book = cluster.kmeans(weights, k, init=init, preserve_zeros=True)
    clustered = book.lookup()
    zero = weights == 0
    assert (clustered[zero] == 0).all()
    assert np.unique(clustered).size <= k
    if zero.any() and not zero.all():
        assert not np.isin(book.indices[~zero], book.indices[zero]).any()
        rest = cluster.kmeans(weights[~zero], k - 1, init=init)
        np.testing.assert_array_equal(clustered[~zero], rest.lookup())
    again = cluster.assign(weights, book.centroids, preserve_zeros=True)
    np.testing.assert_array_equal(again, book.indices)


def test_assignment_to_preserve_zeros_needs_a_zero_centroid() -> None:
    with pytest.raises(mc.Error, match="must hold 0 to preserve zeros"):
        cluster.assign(np.array([0.0, 1.0]), np.array([1.0, 2.0]), preserve_zeros=True)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_the_centroids_is_what_torch_sums(reduction: str, dtype) -> None:
    torch.manual_seed(0)
    centroids = torch.randn(9, dtype=dtype, requires_grad=True)
    indices = torch.randint(0, 8, (50, 60))
    grad = torch.randn(50, 60, dtype=dtype)
    centroids[indices].backward(grad)
    expected = centroids.grad.clone()
    if reduction == "mean":
        expected /= torch.bincount(indices.reshape(-1), minlength=9).clamp(min=1)
    found = cluster.centroid_gradient(grad, indices, 9, reduction=reduction)
    # torch adds 375 numbers of about 1 in the dtype, we in double.
    tolerance = 375 * float(torch.finfo(dtype).eps) * 4
    assert found.dtype == dtype
    assert found[8] == 0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("axis", "group_size"), [(0, None), (1, 2), (None, 11)])
def test_gradients_of_groups(axis, group_size) -> None:
    rng = np.random.default_rng(7)
    grad = rng.normal(size=(6, 5, 4))
    indices = rng.integers(0, 3, (6, 5, 4)).astype(np.uint16)
    group = reference.groups(grad.shape, axis, group_size)
    for reduction in ["sum", "mean"]:
        found = cluster.centroid_gradient(
            grad, indices, 3, reduction=reduction, axis=axis, group_size=group_size
        )
        expected = reference.centroid_gradient(grad, indices, 3, reduction == "mean", group)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_results_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(8)
    weights = rng.normal(size=300_000).astype(np.float32)
    threads = mc.get_num_threads()
    found = []
    try:
        for count in [1, 2, 3]:
            mc.set_num_threads(count)
            book = cluster.kmeans(weights, 16)
            coarse = cluster.kmeans(weights, 16, exact=False)
            gradient = cluster.centroid_gradient(weights, book.indices, 16)
            found.append((book.centroids, book.indices, coarse.centroids, gradient))
    finally:
        mc.set_num_threads(threads)
    for other in found[1:]:
        for left, right in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(left, right)


def hard_weights(kind: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(9)
    normal = rng.normal(size=size)
    weights = {
        "normal": lambda: normal,
        "laplace": lambda: rng.laplace(size=size),
        "student": lambda: rng.standard_t(2.5, size),
        "cauchy": lambda: rng.standard_cauchy(size),
        "outlier": lambda: normal,
        "bimodal": lambda: np.where(rng.random(size) < 0.5, 0.01 * normal - 3, normal + 2),
        "zeros": lambda: normal * (rng.random(size) < 0.1),
        "far": lambda: normal + 1000,
        "uniform": lambda: rng.random(size),
        "lattice": lambda: np.round(normal * 64) / 16,
    }[kind]()
    if kind in ("student", "outlier"):
        weights[7] = 1e6
    return weights


HARD = [
    "normal",
    "laplace",
    "student",
    "cauchy",
    "outlier",
    "bimodal",
    "zeros",
    "far",
    "uniform",
    "lattice",
]


@pytest.mark.parametrize("preserve_zeros", [False, True])
@pytest.mark.parametrize("kind", HARD)
def test_the_error_exceeds_the_optimum_by_no_more_than_the_tolerance(
    kind: str, preserve_zeros: bool
) -> None:
    weights = hard_weights(kind, 60_000)
    for k in [2, 16, 48]:
        best = error(weights, cluster.kmeans(weights, k, preserve_zeros=preserve_zeros, exact=True))
        for tolerance in [1e-2, 1e-4]:
            near = cluster.kmeans(
                weights, k, preserve_zeros=preserve_zeros, exact=False, tolerance=tolerance
            )
            # Sums of squares up to 1e12 (the outlier's) round by 2^-52 of them, a few times.
            slack = 2.0**-50 * float(np.square(weights).sum())
            assert best * (1 - 1e-9) <= error(weights, near) + slack
            assert error(weights, near) <= best * (1 + tolerance) + slack


def test_one_far_value_does_not_spoil_the_rest() -> None:
    weights = hard_weights("outlier", 60_000).astype(np.float32)
    near = cluster.kmeans(weights, 16, exact=False)
    alone = cluster.kmeans(np.delete(weights, 7), 15, exact=True)
    assert near.centroids[-1] == 1e6
    # The same borders but for some weights next to them, a share of 2^-15 of all at most each.
    np.testing.assert_allclose(near.centroids[:-1], alone.centroids, rtol=0, atol=0.01)
    own = error(np.delete(weights, 7), alone)
    assert error(weights, near) <= own * (1 + 1e-4 + 1e-6)


def test_a_tolerance_of_zero_is_exact() -> None:
    weights = hard_weights("laplace", 20_000).astype(np.float32)
    exact = cluster.kmeans(weights, 9, exact=True)
    same = cluster.kmeans(weights, 9, exact=False, tolerance=0)
    np.testing.assert_array_equal(exact.centroids, same.centroids)
    for tolerance in [-1e-4, np.nan]:
        with pytest.raises(mc.Error, match=r"\[cluster.kmeans\] tolerance must be >= 0"):
            cluster.kmeans(weights, 9, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_values_of_a_large_tensor_are_found(dtype: type) -> None:
    weights = (np.random.default_rng(3).integers(0, 40, 50_000) * 0.37).astype(dtype)
    book = cluster.kmeans(weights, 64, exact=False)
    np.testing.assert_array_equal(book.centroids, np.unique(weights))
    np.testing.assert_array_equal(book.lookup(), weights)


def test_out_is_filled_and_given_back() -> None:
    weights = np.random.default_rng(10).normal(size=(3, 4)).astype(np.float32)
    book = cluster.kmeans(weights, 4)
    indices = np.empty((3, 4), np.uint8)
    assert cluster.assign(weights, book.centroids, out=indices) is indices
    result = np.empty((4, 3), np.float32).T
    assert book.lookup(out=result) is result
    np.testing.assert_array_equal(result, book.centroids[indices])
    moved = np.empty(4, np.float32)
    assert cluster.lloyd(weights, book.centroids, out=moved) is moved
    np.testing.assert_allclose(moved, book.centroids, rtol=1e-6)


def test_results_are_of_the_caller_s_kind() -> None:
    weights = torch.randn(4, 8)
    book = cluster.kmeans(weights.bfloat16(), 3, axis=0)
    assert book.centroids.dtype == torch.bfloat16
    assert book.indices.dtype == torch.uint8
    assert book.lookup().dtype == torch.bfloat16
    np.testing.assert_array_equal(
        cluster.kmeans(weights, 3).centroids.numpy(), cluster.kmeans(weights.numpy(), 3).centroids
    )


def test_a_codebook_can_be_copied_and_described() -> None:
    weights = np.random.default_rng(11).normal(size=(3, 8))
    book = cluster.kmeans(weights, 5, axis=0, group_size=2)
    assert (book.axis, book.group_size, book.k, book.bits) == (0, 2, 5, 3)
    assert repr(book) == (
        "Codebook(centroids of shape (2, 5), indices of shape (3, 8), axis=0, group_size=2)"
    )
    for other in [pickle.loads(pickle.dumps(book)), copy.deepcopy(book)]:
        np.testing.assert_array_equal(other.lookup(), book.lookup())
    with pytest.raises(mc.Error, match=r"centroids must have shape \(2, k\)"):
        cluster.Codebook(book.centroids[:1], book.indices, axis=0, group_size=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("exact", [True, False])
def test_what_is_not_finite_is_refused(value: float, exact: bool) -> None:
    weights = np.linspace(0, 1, 100)
    weights[17] = value
    for call in [
        lambda: cluster.kmeans(weights, 4, exact=exact),
        lambda: cluster.init_centroids(weights, 4, "linear"),
        lambda: cluster.lloyd(weights, np.zeros(2)),
        lambda: cluster.assign(weights, np.zeros(2)),
        lambda: cluster.assign(np.zeros(2), weights),
    ]:
        with pytest.raises(mc.NonFiniteError, match="must be finite"):
            call()


def test_bad_arguments_are_named() -> None:
    weights = np.arange(6.0).reshape(2, 3)
    cases = [
        (lambda: cluster.kmeans(weights, 0), r"k must be in \[1, 65536\], got 0"),
        (lambda: cluster.kmeans(weights, 65537), r"k must be in \[1, 65536\], got 65537"),
        (lambda: cluster.kmeans(weights, 1, preserve_zeros=True), r"k must be in \[2, 65536\]"),
        (lambda: cluster.kmeans(weights, 2, init="best"), "init must be optimal, linear"),
        (lambda: cluster.kmeans(weights, 2, group_size=0), "group_size must be >= 1, got 0"),
        (lambda: cluster.kmeans(weights, 2, seed=-1), "seed must be in"),
        (lambda: cluster.kmeans(weights, 2, max_iterations=-1), "max_iterations must be >= 0"),
        (lambda: cluster.kmeans(weights, 2, compat="torch"), "compat must be None or tfmot"),
        (lambda: cluster.kmeans(np.zeros((0, 3)), 2), r"at least one element, got \(0, 3\)"),
        (lambda: cluster.assign(weights, np.zeros((2, 2))), "centroids must have 1 dimension"),
        (lambda: cluster.assign(weights, np.zeros(2), axis=0), r"shape \(2, k\)"),
        (lambda: cluster.lookup(np.array([0, 2]), np.zeros(2)), r"indices must be in \[0, 2\)"),
        (lambda: cluster.lookup(np.array([-1]), np.zeros(2)), r"indices must be in \[0, 2\)"),
        (lambda: cluster.centroid_gradient(weights, np.zeros((2, 3), int), 0), "k must be in"),
        (
            lambda: cluster.centroid_gradient(weights, np.zeros((2, 3), int), 2, reduction="max"),
            "reduction must be sum or mean",
        ),
    ]
    for call, text in cases:
        with pytest.raises(mc.Error, match=text):
            call()
    with pytest.raises(mc.DTypeError, match="weights must be float64"):
        cluster.kmeans(np.arange(4), 2)
    with pytest.raises(mc.DTypeError, match="indices must be integers"):
        cluster.lookup(np.zeros(3), np.zeros(2))
    with pytest.raises(IndexError, match="axis must be in"):
        cluster.kmeans(weights, 2, axis=2)


GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "cluster_tfmot.npz")
CASES = sorted(key.split("/", 1)[1] for key in GOLDEN.files if key.startswith("centroids/"))


@pytest.mark.parametrize("case", CASES)
def test_compat_tfmot_gives_its_bits(case: str) -> None:
    """k-means++ too: TFMOT always seeds it with 9, so that it is no more random than the rest."""
    name, init, k, preserve = case.split("/")
    book = cluster.kmeans(
        GOLDEN[f"weights/{name}"],
        int(k),
        init=init,
        axis=-1 if name == "kernel" else None,
        preserve_zeros=preserve == "1",
        seed=17,
        compat="tfmot",
    )
    np.testing.assert_array_equal(book.centroids, GOLDEN[f"centroids/{case}"])
    np.testing.assert_array_equal(book.indices, GOLDEN[f"indices/{case}"])


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("/0")])
def test_no_start_of_tfmot_costs_less_than_the_optimum(case: str) -> None:
    name, _, k, _ = case.split("/")
    weights = GOLDEN[f"weights/{name}"]
    axis = -1 if name == "kernel" else None
    theirs = cluster.lookup(GOLDEN[f"indices/{case}"], GOLDEN[f"centroids/{case}"], axis=axis)
    ours = cluster.kmeans(weights, int(k), axis=axis)
    assert error(weights, ours) <= reference.squared_error(weights, theirs)


@pytest.mark.parametrize(("reduction", "peer"), [("sum", "SUM"), ("mean", "AVG")])
def test_the_gradient_of_the_centroids_is_what_tfmot_sums(reduction: str, peer: str) -> None:
    upstream = GOLDEN["gradient/upstream"]
    indices = GOLDEN["indices/dense/linear/8/0"]
    found = cluster.centroid_gradient(upstream, indices, 8, reduction=reduction)
    # A thousand numbers of about 1, added in float32 there.
    np.testing.assert_allclose(found, GOLDEN[f"gradient/{peer}"], rtol=0, atol=1000 * 2.0**-23)


def test_small_weights_become_zero_in_tfmot_and_stay_nonzero_here() -> None:
    weights = GOLDEN["weights/sparse"].copy()
    weights.reshape(-1)[0] = 1e-4
    theirs = cluster.kmeans(weights, 3, init="kmeans++", preserve_zeros=True, compat="tfmot")
    ours = cluster.kmeans(weights, 3, preserve_zeros=True)
    assert theirs.lookup().reshape(-1)[0] == 0
    assert ours.lookup().reshape(-1)[0] != 0
    for book in [theirs, ours]:
        assert (book.lookup()[weights == 0] == 0).all()


def test_distances_that_float32_rounds_to_one_are_told_apart_here() -> None:
    weights = np.array([2.0**30], np.float32)
    centroids = np.array([0.0, 1.0], np.float32)
    assert cluster.assign(weights, centroids, compat="tfmot")[0] == 0
    assert np.abs(weights[:, None] - centroids).argmin(-1)[0] == 0
    assert cluster.assign(weights, centroids)[0] == 1


def test_compat_tfmot_takes_what_tfmot_takes() -> None:
    with pytest.raises(mc.DTypeError, match="must be float32 with compat tfmot"):
        cluster.kmeans(np.zeros(3), 2, init="linear", compat="tfmot")
    with pytest.raises(mc.UnsupportedError, match="init must be linear, density"):
        cluster.kmeans(np.zeros(3, np.float32), 2, compat="tfmot")
    with pytest.raises(mc.Error, match=r"k must be at most the weights \(3\), got 4"):
        cluster.kmeans(np.zeros(3, np.float32), 4, init="kmeans++", compat="tfmot")


TRAINING = np.load(Path(__file__).parents[1] / "golden" / "cluster_training.npz")


@pytest.mark.parametrize(("reduction", "peer"), [("sum", "SUM"), ("mean", "AVG")])
def test_steps_of_training_are_those_of_tfmot(reduction: str, peer: str) -> None:
    """Assign hidden weights, look up, and move centroids and hidden weights by SGD."""
    hidden = TRAINING["kernel"]
    centroids = cluster.init_centroids(hidden, 8, "linear", compat="tfmot")
    for step, (x, target) in enumerate(zip(TRAINING["inputs"], TRAINING["targets"], strict=True)):
        indices = cluster.assign(hidden, centroids, compat="tfmot")
        np.testing.assert_array_equal(indices, TRAINING[f"{peer}/{step}/indices"])
        rest = x @ cluster.lookup(indices, centroids) - target
        gradient = 2 / len(x) * x.T @ rest
        moved = cluster.centroid_gradient(gradient, indices, 8, reduction=reduction)
        centroids = centroids - np.float32(0.05) * moved
        hidden = hidden - np.float32(0.05) * gradient
        # Gradients of up to 10 are sums of 16 products and then of up to 40 of them, in float32;
        # a step takes 0.05 of them, and their errors grow about tenfold with each of three steps.
        limit = 0.05 * 10 * 56 * 2.0**-24 * 10**step
        close = {"rtol": 0, "atol": limit}
        np.testing.assert_allclose(centroids, TRAINING[f"{peer}/{step}/centroids"], **close)
        np.testing.assert_allclose(hidden, TRAINING[f"{peer}/{step}/original"], **close)
        loss = np.square(rest).sum() / len(x)
        np.testing.assert_allclose(loss, TRAINING[f"{peer}/{step}/loss"], rtol=1e-5)
