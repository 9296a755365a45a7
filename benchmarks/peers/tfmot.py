# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Model Optimization Toolkit, on the Keras 2 that it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.python.core.clustering.keras import clustering_algorithm
from tensorflow_model_optimization.python.core.clustering.keras.cluster_config import (
    GradientAggregation,
)
from tensorflow_model_optimization.python.core.sparsity.keras import (
    pruning_impl,
    pruning_schedule,
)

Ways = Mapping[str, Callable[[], Any]]

threads = int(os.environ["OMP_NUM_THREADS"])
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)


def ways_magnitude_mask(weights: np.ndarray, sparsity: float) -> Ways:
    variable = tf.Variable(weights)
    pruning = pruning_impl.Pruning(
        training_step_fn=lambda: tf.constant(1, tf.int64),
        pruning_vars=[(variable, tf.Variable(tf.ones_like(variable)), tf.Variable(0.0))],
        pruning_schedule=pruning_schedule.ConstantSparsity(sparsity, 0),
        block_size=(1, 1),
        block_pooling_type="AVG",
    )
    update = tf.function(lambda: pruning._update_mask(variable))
    return {"TFMOT mask update": lambda: update()[1]}


def ways_cluster_step(weights: np.ndarray, upstream: np.ndarray, centroids: np.ndarray) -> Ways:
    variable, gradient = tf.Variable(weights), tf.constant(upstream)
    book = tf.Variable(centroids)
    algorithm = clustering_algorithm.ClusteringAlgorithm(book, GradientAggregation.SUM)

    @tf.function
    def step() -> tuple[tf.Tensor, tf.Tensor]:
        indices = algorithm.get_pulling_indices(variable)
        with tf.GradientTape() as tape:
            tape.watch([variable, book])
            clustered = algorithm.get_clustered_weight(indices, variable)
        found = tape.gradient(clustered, book, output_gradients=gradient)
        return clustered, tf.convert_to_tensor(found)

    return {"TFMOT cluster step": step}
