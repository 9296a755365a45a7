#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/cluster_tfmot.npz: what TFMOT 0.8 makes of some weights.

usage: TF_USE_LEGACY_KERAS=1 scripts/golden/cluster.py (needs tensorflow and TFMOT)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.python.core.clustering.keras import (
    cluster_config,
    clustering_algorithm,
    clustering_centroids,
)

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "cluster_tfmot.npz"
INITS = {
    "linear": cluster_config.CentroidInitialization.LINEAR,
    "density": cluster_config.CentroidInitialization.DENSITY_BASED,
    "random": cluster_config.CentroidInitialization.RANDOM,
    "kmeans++": cluster_config.CentroidInitialization.KMEANS_PLUS_PLUS,
}
SEED = 17


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    sparse = rng.normal(scale=0.1, size=(40, 25))
    sparse[np.abs(sparse) < 0.08] = 0
    kernel = rng.normal(scale=0.2, size=(3, 3, 4, 5))
    kernel[np.abs(kernel) < 0.1] = 0
    found = {
        "dense": rng.normal(scale=0.05, size=(40, 25)),
        "skewed": rng.gamma(2.0, size=700) - 0.5,
        "sparse": sparse,
        "kernel": kernel,
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def main() -> None:
    arrays = {f"weights/{name}": value for name, value in weights().items()}
    for name, value in weights().items():
        for init, kind in INITS.items():
            for clusters in (3, 8, 16):
                for preserve in (False, True):
                    per_channel = name == "kernel"
                    tf.random.set_seed(SEED)
                    factory = clustering_centroids.CentroidsInitializerFactory
                    centroids = factory.get_centroid_initializer(kind)(
                        tf.constant(value), clusters, per_channel, "channels_last", preserve
                    ).get_cluster_centroids()
                    algorithm = (
                        clustering_algorithm.ClusteringAlgorithmPerChannel
                        if per_channel
                        else clustering_algorithm.ClusteringAlgorithm
                    )(
                        tf.Variable(centroids),
                        cluster_config.GradientAggregation.SUM,
                        "channels_last",
                    )
                    indices = algorithm.get_pulling_indices(tf.constant(value))
                    case = f"{name}/{init}/{clusters}/{int(preserve)}"
                    arrays[f"centroids/{case}"] = centroids.numpy()
                    arrays[f"indices/{case}"] = indices.numpy().astype(np.uint8)
    value = tf.constant(weights()["dense"])
    for reduction in ("SUM", "AVG"):
        centroids = tf.Variable(arrays["centroids/dense/linear/8/0"])
        algorithm = clustering_algorithm.ClusteringAlgorithm(
            centroids, cluster_config.GradientAggregation[reduction]
        )
        upstream = np.random.default_rng(6).normal(size=value.shape).astype(np.float32)
        with tf.GradientTape() as tape:
            clustered = algorithm.get_clustered_weight(algorithm.get_pulling_indices(value), value)
            loss = tf.reduce_sum(clustered * upstream)
        gradient = tape.gradient(loss, centroids)
        arrays["gradient/upstream"] = upstream
        arrays[f"gradient/{reduction}"] = tf.convert_to_tensor(gradient).numpy()
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
