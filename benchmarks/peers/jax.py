# SPDX-License-Identifier: Apache-2.0
"""JAX, compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Ways = Mapping[str, Callable[[], Any]]


def _straight_through(scale: Any, zero_point: int) -> Callable[[Any], Any]:
    step = scale if isinstance(scale, float) else jnp.asarray(scale)[:, None]

    @jax.custom_vjp
    def quantized(x: Any) -> Any:
        q = jnp.clip(jnp.round(x / step) + zero_point, -128, 127)
        return (q - zero_point) * step

    def backward(x: Any, gradient: Any) -> tuple[Any]:
        q = jnp.round(x / step) + zero_point
        return (gradient * ((q >= -128) & (q <= 127)),)

    quantized.defvjp(lambda x: (quantized(x), x), backward)
    return quantized


def ways_fake_quantize(x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int) -> Ways:
    array = jnp.asarray(x)
    compiled = jax.jit(_straight_through(scale, zero_point))
    return {"jax.jit, straight-through": lambda: compiled(array).block_until_ready()}


def ways_fake_quantize_both(
    x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int
) -> Ways:
    array, gradient = jnp.asarray(x), jnp.asarray(upstream)
    quantized = _straight_through(scale, zero_point)

    @jax.jit
    def both(values: Any, back: Any) -> Any:
        y, pull = jax.vjp(quantized, values)
        return y, pull(back)[0]

    return {"jax.jit, straight-through": lambda: jax.block_until_ready(both(array, gradient))}


def ways_soft_target_loss(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    alpha: float,
) -> Ways:
    s, t, y = jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(labels)

    def loss(logits: Any, target: Any, classes: Any) -> Any:
        log_student = jax.nn.log_softmax(logits / temperature)
        log_teacher = jax.nn.log_softmax(target / temperature)
        soft = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1).mean()
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], axis=-1)
        return alpha * temperature**2 * soft - (1 - alpha) * picked.mean()

    compiled = jax.jit(jax.value_and_grad(loss))
    return {"jax.jit value_and_grad": lambda: jax.block_until_ready(compiled(s, t, y))}
