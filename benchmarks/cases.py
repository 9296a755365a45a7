# SPDX-License-Identifier: Apache-2.0
"""What is timed against the peers: one case for each goal, through the public API, with out=.

A case makes its data once, as NumPy arrays that every peer converts to what it takes before the
clock runs, and says when a peer's answer agrees with ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import moptcore as mc
import numpy as np

Way = Callable[[], Any]
MILLION = 1 << 20
SCALE, ZERO_POINT = 0.03125, 3  # a power of two: dividing and multiplying by 1/scale agree


@dataclass(frozen=True)
class Case:
    """`operation` X has `ways_X` in benchmarks/peers: the same from `arguments`."""

    title: str
    operation: str
    arguments: Mapping[str, Any]
    ours: Way
    agree: Callable[[Any, Any], None]
    memory: Way | None = None
    goals: Mapping[str, str] = field(default_factory=dict)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def equal(ours: Any, theirs: Any) -> None:
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


# ---- prune -------------------------------------------------------------------------------------


def magnitude_mask(count: int) -> Case:
    weights, sparsity = normal(count // 1024, 1024), 0.8
    out = np.empty(weights.shape, bool)

    def agree(ours: Any, theirs: Any) -> None:
        # Peers round the number of zeros down or up, and keep ties or not.
        kept = np.asarray(theirs).astype(bool)
        assert abs(int(ours.sum()) - int(kept.sum())) <= 2
        assert np.abs(weights[~kept]).max() <= np.abs(weights[kept]).min()
        assert np.count_nonzero(ours ^ kept) <= 2

    return Case(
        f"exact magnitude mask, 80 %, {count // MILLION} M",
        "magnitude_mask",
        {"weights": weights, "sparsity": sparsity},
        lambda: mc.prune.magnitude_mask(weights, sparsity, out=out),
        agree,
        lambda: np.greater(weights, 0.5, out=out),
        {"pytorch": ">= 200", "tfmot": ">= 300", "numpy": ">= 15"}
        | ({"memory": "<= 2.5"} if count == 64 * MILLION else {}),
    )


def structured_mask() -> Case:
    weights = normal(512, 512, 3, 3)
    out = np.empty(512, bool)

    def agree(ours: Any, theirs: Any) -> None:
        equal(ours, np.asarray(theirs).reshape(512, -1)[:, 0] != 0)

    return Case(
        "Ln channel mask, 50 %, [512, 512, 3, 3]",
        "structured_mask",
        {"weights": weights, "sparsity": 0.5},
        lambda: mc.prune.structured_mask(weights, 0.5, axis=0, ord=2, out=out),
        agree,
        lambda: np.max(weights),
        {"pytorch": ">= 25"},
    )


def nm_mask() -> Case:
    weights = normal(4096, 4096)
    out = np.empty(weights.shape, bool)
    return Case(
        "2:4 mask, [4096, 4096]",
        "nm_mask",
        {"weights": weights},
        lambda: mc.prune.nm_mask(weights, 2, 4, out=out),
        equal,
        lambda: np.greater(weights, 0.5, out=out),
        {"pytorch": ">= 100", "memory": "<= 1.5"},
    )


# ---- quant -------------------------------------------------------------------------------------


def fake_quantize(count: int, *, channels: bool, backward: bool) -> Case:
    x, upstream = normal(count // 1024, 1024) * 2, normal(count // 1024, 1024, seed=1)
    scale: Any = SCALE
    axis = None
    if channels:
        scale = np.exp2(-3.0 - np.arange(len(x)) % 4).astype(np.float32)
        axis = 0
    qp = mc.quant.QParams(scale, 0 if channels else ZERO_POINT, "int8", axis=axis)
    out, gradient = np.empty_like(x), np.empty_like(x)
    bits = np.empty((count + 7) // 8, np.uint8)

    def forward() -> np.ndarray:
        return mc.quant.fake_quantize(x, qp, out=out)

    def both() -> tuple[np.ndarray, np.ndarray]:
        mc.quant.fake_quantize(x, qp, out=out, bits=bits)
        return out, mc.quant.fake_quantize_backward(upstream, bits, out=gradient)

    def agree(ours: Any, theirs: Any) -> None:
        if backward:
            (ours, ours_gradient), (theirs, their_gradient) = ours, theirs
            # A saturated value's gradient is cut at the border itself by some and beyond by others.
            differ = np.count_nonzero(ours_gradient != np.asarray(their_gradient))
            assert differ <= 1e-3 * count, differ
        # Ties are rounded before or after the zero point is added: one step at most, at few.
        step = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        assert step.max() <= 2 * np.max(scale), step.max()
        assert np.count_nonzero(step > 1e-6) <= 1e-3 * count

    def memory() -> None:
        np.copyto(out, x)
        if backward:
            np.copyto(gradient, upstream)

    what = "forward + backward" if backward else "forward"
    kind = "per channel" if channels else "per tensor"
    goals = {"pytorch": ">= 25"}
    if backward:
        goals |= {"jax": ">= 2", "tensorflow": ">= 2"}
    return Case(
        f"fake-quant {what}, {kind}, {count // MILLION} M",
        f"fake_quantize{'_both' if backward else ''}",
        {"x": x, "upstream": upstream, "scale": scale, "zero_point": 0 if channels else ZERO_POINT},
        both if backward else forward,
        agree,
        memory,
        goals,
    )


def range_of(*, channels: bool) -> Case:
    x = normal(4096, 4096)

    def ours() -> tuple[Any, Any]:
        observer = mc.quant.MinMaxObserver(axis=0 if channels else None)
        observer.update(x)
        return observer.min, observer.max

    def agree(ours: Any, theirs: Any) -> None:
        equal(ours[0], theirs[0])
        equal(ours[1], theirs[1])

    return Case(
        f"min/max observer, {'per channel' if channels else 'per tensor'}, 16 M",
        "range_of",
        {"x": x, "channels": channels},
        ours,
        agree,
        lambda: np.max(x),
        {"pytorch": ">= 15"} if channels else {"memory": "<= 1.1"},
    )


def histogram() -> Case:
    x = normal(4096, 4096)
    observer = mc.quant.HistogramObserver(bins=2048)
    observer.update(x)

    def agree(ours: Any, theirs: Any) -> None:
        assert abs(float(ours) - float(theirs)) <= 0.02 * float(theirs), (ours, theirs)

    def ours() -> float:
        observer.update(x)
        return float(np.max(observer.max))

    return Case(
        "histogram observer, an update of 16 M",
        "histogram",
        {"x": x},
        ours,
        agree,
        lambda: np.max(x),
        {"pytorch": ">= 12"},
    )


def calibration(method: str) -> Case:
    x = normal(4096, 4096)

    def ours() -> float:
        kind = mc.quant.EntropyObserver if method == "entropy" else mc.quant.PercentileObserver
        observer = kind()
        observer.update(x)
        qp = observer.qparams(dtype="int8", symmetric=True)
        return float(qp.scale) * 127

    def agree(ours: Any, theirs: Any) -> None:
        # Thresholds of histograms of different bins.
        assert abs(ours - theirs) <= 0.1 * theirs, (ours, theirs)

    return Case(
        f"{method} calibration, collect and search, 16 M",
        "calibration",
        {"x": x, "method": method},
        ours,
        agree,
        lambda: np.max(x),
        {"onnxruntime": ">= 12"},
    )


# ---- distill -----------------------------------------------------------------------------------


def soft_target_loss(rows: int, classes: int) -> Case:
    student, teacher = normal(rows, classes), normal(rows, classes, seed=1)
    labels = np.random.default_rng(2).integers(classes, size=rows)
    gradient = np.empty_like(student)

    def agree(ours: Any, theirs: Any) -> None:
        np.testing.assert_allclose(float(ours[0]), float(theirs[0]), rtol=1e-5)
        np.testing.assert_allclose(
            ours[1], np.asarray(theirs[1]), rtol=1e-3, atol=1e-6 * float(np.abs(ours[1]).max())
        )

    goals = {
        (128, 1000): {"pytorch": ">= 10"},
        (256, 128256): {"pytorch": ">= 25", "memory": "<= 2"},
    }.get((rows, classes), {})
    compiled = {"torch_compile": ">= 6", "tensorflow": ">= 6", "jax": ">= 6"}
    return Case(
        f"soft-target loss and gradient, [{rows}, {classes}]",
        "soft_target_loss",
        {
            "student": student,
            "teacher": teacher,
            "labels": labels,
            "temperature": 4.0,
            "alpha": 0.7,
        },
        lambda: mc.distill.soft_target_loss(student, teacher, labels, 4.0, 0.7, out=gradient),
        agree,
        lambda: np.add(student, teacher, out=gradient),
        goals | compiled,
    )


# ---- cluster -----------------------------------------------------------------------------------


def squared_error(values: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest centroid."""
    centroids = np.sort(np.asarray(centroids, np.float64).ravel())
    middles = (centroids[1:] + centroids[:-1]) / 2
    total = 0.0
    for part in np.array_split(values.ravel(), max(1, values.size // MILLION)):
        total += float(np.square(part - centroids[np.searchsorted(middles, part)]).sum())
    return total


def kmeans(count: int, k: int = 32) -> Case:
    weights = normal(count // 1024, 1024)

    def agree(ours: Any, theirs: Any) -> None:
        # Ours is the optimum, to 1e-4; nobody's error is smaller than that.
        mine, other = squared_error(weights, ours.centroids), squared_error(weights, theirs)
        assert mine <= other * (1 + 1e-4), (mine, other)

    return Case(
        f"k-means, {k} clusters, {count // MILLION} M",
        "kmeans",
        {"weights": weights, "k": k},
        lambda: mc.cluster.kmeans(weights, k, exact=False),
        agree,
        lambda: np.max(weights),
        {"memory": "<= 15"}
        if count == 16 * MILLION
        else {"scikit_learn": ">= 300", "kmeans1d": ">= 1500"},
    )


def cluster_step(count: int, k: int = 32) -> Case:
    weights, upstream = normal(count // 1024, 1024), normal(count // 1024, 1024, seed=1)
    centroids = np.linspace(-4, 4, k, dtype=np.float32)
    indices = np.empty(weights.shape, np.uint8)
    out = np.empty_like(weights)

    def ours() -> tuple[Any, Any]:
        book = mc.cluster.assign(weights, centroids, out=indices)
        mc.cluster.lookup(book, centroids, out=out)
        return out, mc.cluster.centroid_gradient(upstream, book, k)

    def agree(ours: Any, theirs: Any) -> None:
        equal(ours[0], theirs[0])
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-3, atol=0.5)

    return Case(
        f"clustering step: assign, look up, gradient; {k} clusters, {count // MILLION} M",
        "cluster_step",
        {"weights": weights, "upstream": upstream, "centroids": centroids},
        ours,
        agree,
        lambda: np.copyto(out, weights),
        {"tfmot": ">= 40"},
    )


# ---- lowrank -----------------------------------------------------------------------------------


def truncated_svd(rows: int, columns: int, rank: int = 64) -> Case:
    w = normal(rows, columns)
    kept = float(np.square(np.linalg.svd(w, compute_uv=False)[:rank].astype(np.float64)).sum())
    optimum = np.sqrt(float(np.square(w.astype(np.float64)).sum()) - kept)

    def error(factors: Any) -> float:
        u, v = (np.asarray(factor, np.float64) for factor in factors)
        return float(np.linalg.norm(w - u @ v)) / optimum

    def agree(ours: Any, theirs: Any) -> None:
        assert error(ours) <= 1 + 1e-4, error(ours)
        assert error(theirs) <= 1.03, error(theirs)

    return Case(
        f"truncated SVD, rank {rank}, {rows} x {columns}, Gaussian",
        "truncated_svd",
        {"w": w, "rank": rank},
        lambda: mc.lowrank.factorize(w, rank=rank, method="krylov"),
        agree,
        lambda: np.max(w),
        {"numpy": ">= 30" if rows == columns else ">= 28"},
    )


# name -> (operation, what makes the case); no peer has time for k-means of 16 M
_TABLE: dict[str, tuple[str, Callable[[], Case]]] = {
    "mask-1M": ("magnitude_mask", lambda: magnitude_mask(MILLION)),
    "mask-16M": ("magnitude_mask", lambda: magnitude_mask(16 * MILLION)),
    "mask-64M": ("magnitude_mask", lambda: magnitude_mask(64 * MILLION)),
    "channels": ("structured_mask", structured_mask),
    "two-of-four": ("nm_mask", nm_mask),
    "fake-quant-1M": (
        "fake_quantize",
        lambda: fake_quantize(MILLION, channels=False, backward=False),
    ),
    "fake-quant-16M": (
        "fake_quantize",
        lambda: fake_quantize(16 * MILLION, channels=False, backward=False),
    ),
    "fake-quant-both-1M": (
        "fake_quantize_both",
        lambda: fake_quantize(MILLION, channels=False, backward=True),
    ),
    "fake-quant-both-16M": (
        "fake_quantize_both",
        lambda: fake_quantize(16 * MILLION, channels=False, backward=True),
    ),
    "fake-quant-channel-1M": (
        "fake_quantize",
        lambda: fake_quantize(MILLION, channels=True, backward=False),
    ),
    "fake-quant-channel-both-16M": (
        "fake_quantize_both",
        lambda: fake_quantize(16 * MILLION, channels=True, backward=True),
    ),
    "range": ("range_of", lambda: range_of(channels=False)),
    "range-channel": ("range_of", lambda: range_of(channels=True)),
    "histogram": ("histogram", histogram),
    "entropy": ("calibration", lambda: calibration("entropy")),
    "percentile": ("calibration", lambda: calibration("percentile")),
    "loss-128x1000": ("soft_target_loss", lambda: soft_target_loss(128, 1000)),
    "loss-64x32000": ("soft_target_loss", lambda: soft_target_loss(64, 32_000)),
    "loss-256x128256": ("soft_target_loss", lambda: soft_target_loss(256, 128_256)),
    "kmeans-1M": ("kmeans", lambda: kmeans(MILLION)),
    "kmeans-16M": ("kmeans_alone", lambda: kmeans(16 * MILLION)),
    "cluster-step-1M": ("cluster_step", lambda: cluster_step(MILLION)),
    "svd-1024": ("truncated_svd", lambda: truncated_svd(1024, 1024)),
    "svd-4096": ("truncated_svd", lambda: truncated_svd(4096, 1024)),
}
OPERATIONS = {name: operation for name, (operation, _) in _TABLE.items()}
CASES = {name: make for name, (_, make) in _TABLE.items()}
