# SPDX-License-Identifier: Apache-2.0
"""Clusters within 1e-4 of the optimum, and the step that trains them, against peers.

scikit-learn and kmeans1d take seconds for a million weights and run once or twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import kmeans1d
import moptcore as mc
import numpy as np
import torch
from harness import interleave, show
from sklearn.cluster import KMeans

CLUSTERS = 32
SLOW = 1 << 20  # weights up to which the slow peers are asked


def error(weights: np.ndarray, centroids: np.ndarray) -> float:
    indices = mc.cluster.assign(weights.astype(np.float64), centroids.astype(np.float64))
    return float(np.square(weights.astype(np.float64) - centroids[indices]).sum())


def torch_lloyd(weights: torch.Tensor, iterations: int = 10) -> torch.Tensor:
    centroids = torch.quantile(weights[:: max(1, weights.numel() // 65536)], _SHARES)
    for _ in range(iterations):
        found = torch.bucketize(weights, (centroids[1:] + centroids[:-1]) / 2)
        sums = torch.bincount(found, weights, minlength=CLUSTERS)
        centroids = (sums / torch.bincount(found, minlength=CLUSTERS).clamp(min=1)).float()
    return centroids


_SHARES = (torch.arange(CLUSTERS) + 0.5) / CLUSTERS


def main(count: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(count, np.float32)
    tensor = torch.from_numpy(weights)
    column = weights[:, None]
    out = np.empty(count, np.uint8)

    def ours() -> mc.cluster.Codebook:
        return mc.cluster.kmeans(weights, CLUSTERS, exact=False)

    exact = mc.cluster.kmeans(weights, CLUSTERS, exact=True)
    best = error(weights, exact.centroids)
    found = error(weights, ours().centroids)
    assert best * (1 - 1e-6) <= found <= best * (1 + 1e-4), (best, found)
    print(f"\nerror above the optimum: moptcore {found / best - 1:.1e}")

    ways: dict[str, Callable[[], object]] = {
        "moptcore kmeans(exact=False)": ours,
        "one pass: read floats, write a byte each": lambda: np.greater(
            weights, 0.5, out=out.view(bool)
        ),
        "torch bucketize and bincount, 10 Lloyd steps": lambda: torch_lloyd(tensor),
    }
    if count <= SLOW:
        peer = KMeans(CLUSTERS, random_state=0)
        theirs, _ = kmeans1d.cluster(weights, CLUSTERS)[::-1]
        cost = error(weights, np.asarray(theirs))
        assert abs(cost - best) <= 1e-5 * best, (cost, best)
        ways["moptcore kmeans(exact=True)"] = lambda: mc.cluster.kmeans(
            weights, CLUSTERS, exact=True
        )
        ways["scikit-learn KMeans"] = lambda: peer.fit(column)
        ways["kmeans1d"] = lambda: kmeans1d.cluster(weights, CLUSTERS)
    title = f"{count:,} float32, {mc.get_num_threads()} threads"
    show(
        f"{CLUSTERS} clusters within 1e-4 of the optimum, {title}",
        interleave(ways, seconds=8),
        "moptcore kmeans(exact=False)",
    )

    centroids = exact.centroids
    book = torch.from_numpy(centroids)
    middles = (book[1:] + book[:-1]) / 2
    upstream = rng.standard_normal(count, np.float32)
    gradient = torch.from_numpy(upstream)
    values = np.empty(count, np.float32)

    def step() -> np.ndarray:
        indices = mc.cluster.assign(weights, centroids, out=out)
        mc.cluster.lookup(indices, centroids, out=values)
        return mc.cluster.centroid_gradient(upstream, indices, CLUSTERS)

    def torch_step() -> torch.Tensor:
        indices = torch.bucketize(tensor, middles)
        book[indices]
        return torch.bincount(indices, gradient, minlength=CLUSTERS)

    # Sums of some ten thousand numbers of about 1, rounded to float32.
    np.testing.assert_allclose(step(), torch_step().numpy(), rtol=1e-5, atol=1e-2)
    show(
        f"assign, look up and sum the gradient, {CLUSTERS} clusters, {title}",
        interleave(
            {
                "moptcore assign + lookup + centroid_gradient": step,
                "one pass: copy the weights": lambda: np.copyto(values, weights),
                "torch bucketize + index + bincount": torch_step,
            }
        ),
        "moptcore assign + lookup + centroid_gradient",
    )


if __name__ == "__main__":
    for size in [int(text) for text in sys.argv[1:]] or [1 << 20, 1 << 24]:
        main(size)
