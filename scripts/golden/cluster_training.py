#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/cluster_training.npz: steps of SGD on a layer that TFMOT 0.8 clusters.

usage: TF_USE_LEGACY_KERAS=1 scripts/golden/cluster_training.py (needs tensorflow and TFMOT)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras import cluster, cluster_config

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "cluster_training.npz"
CLUSTERS, STEPS, RATE = 8, 3, 0.05


def main() -> None:
    rng = np.random.default_rng(21)
    kernel = rng.normal(scale=0.3, size=(12, 10)).astype(np.float32)
    inputs = rng.normal(size=(STEPS, 16, 12)).astype(np.float32)
    targets = rng.normal(size=(STEPS, 16, 10)).astype(np.float32)
    arrays = {"kernel": kernel, "inputs": inputs, "targets": targets}
    for name in ("SUM", "AVG"):
        layer = tf_keras.layers.Dense(10, use_bias=False, input_shape=(12,))
        plain = tf_keras.Sequential([layer])
        plain.set_weights([kernel])
        model = cluster.cluster_weights(
            plain,
            number_of_clusters=CLUSTERS,
            cluster_centroids_init=cluster_config.CentroidInitialization.LINEAR,
            cluster_gradient_aggregation=cluster_config.GradientAggregation[name],
        )
        wrapper = model.layers[0]
        optimizer = tf_keras.optimizers.SGD(RATE)
        for step in range(STEPS):
            with tf.GradientTape() as tape:
                error = model(inputs[step], training=True) - targets[step]
                loss = tf.reduce_sum(tf.square(error)) / error.shape[0]
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            arrays[f"{name}/{step}/centroids"] = wrapper.cluster_centroids["kernel"].numpy()
            arrays[f"{name}/{step}/indices"] = wrapper.pulling_indices["kernel"].numpy()
            arrays[f"{name}/{step}/original"] = wrapper.original_clusterable_weights[
                "kernel"
            ].numpy()
            arrays[f"{name}/{step}/loss"] = loss.numpy()
            print(name, step, [v.name for v in variables], loss.numpy())
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
