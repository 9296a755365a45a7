# SPDX-License-Identifier: Apache-2.0
"""TensorFlow and the losses of its Keras, with and without XLA."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

Ways = Mapping[str, Callable[[], Any]]

threads = int(os.environ["OMP_NUM_THREADS"])
tf.config.threading.set_intra_op_parallelism_threads(threads)
tf.config.threading.set_inter_op_parallelism_threads(threads)


def _limits(scale: Any, zero_point: int) -> tuple[tf.Tensor, tf.Tensor]:
    # The operator has the grid 0..255 of uint8; channels are its last axis.
    scale = np.asarray(scale, np.float32)
    return tf.constant(scale * (-128 - zero_point)), tf.constant(scale * (127 - zero_point))


def _operator(scale: Any) -> Callable[..., tf.Tensor]:
    if isinstance(scale, float):
        return tf.quantization.fake_quant_with_min_max_vars
    return tf.quantization.fake_quant_with_min_max_vars_per_channel


def _layout(array: np.ndarray, scale: Any) -> np.ndarray:
    return array if isinstance(scale, float) else np.ascontiguousarray(array.T)


def _back(tensor: tf.Tensor, scale: Any) -> Any:
    return tensor if isinstance(scale, float) else np.asarray(tensor).T


class _Lazy:
    """An answer that is laid out as ours only when it is compared."""

    def __init__(self, tensor: tf.Tensor, scale: Any) -> None:
        self._tensor, self._scale = tensor, scale

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(_back(self._tensor, self._scale), dtype)


def ways_fake_quantize(x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int) -> Ways:
    tensor = tf.constant(_layout(x, scale))
    low, high = _limits(scale, zero_point)
    operator = _operator(scale)
    return {"TensorFlow fake_quant_with_min_max": lambda: _Lazy(operator(tensor, low, high), scale)}


def ways_fake_quantize_both(
    x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int
) -> Ways:
    tensor, gradient = tf.constant(_layout(x, scale)), tf.constant(_layout(upstream, scale))
    low, high = _limits(scale, zero_point)
    operator = _operator(scale)

    @tf.function
    def run(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            y = operator(values, low, high)
        return y, tape.gradient(y, values, output_gradients=gradient)

    def both() -> tuple[_Lazy, _Lazy]:
        y, back = run(tensor)
        return _Lazy(y, scale), _Lazy(back, scale)

    return {"TensorFlow fake_quant_with_min_max": both}


def ways_soft_target_loss(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    alpha: float,
) -> Ways:
    s, t, y = tf.constant(student), tf.constant(teacher), tf.constant(labels)
    divergence = tf.keras.losses.KLDivergence()
    entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def composite(jit: bool) -> Callable[[], Any]:
        @tf.function(jit_compile=jit)
        def step(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(logits)
                soft = divergence(
                    tf.nn.softmax(t / temperature), tf.nn.softmax(logits / temperature)
                )
                loss = alpha * temperature**2 * soft + (1 - alpha) * entropy(y, logits)
            return loss, tape.gradient(loss, logits)

        return lambda: step(s)

    return {"Keras KL + CE, tf.function": composite(False), "Keras KL + CE, XLA": composite(True)}
