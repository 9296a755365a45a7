# SPDX-License-Identifier: Apache-2.0
"""Keras models as graphs, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import keras
import moptcore as mc
import moptcore.keras as mck
import numpy as np
import pytest

# NumPy 2 asks tensors for a keyword that torch 2.13 does not take; Keras converts that way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def image_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            keras.layers.Conv2D(8, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )


def outputs_of(model: keras.Model, inputs: object) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def test_a_sequential_model_computes_the_same_as_a_graph_for_any_batch() -> None:
    model = image_model()
    graph = mck.to_graph(model)
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        x = rng.standard_normal((batch, 16, 16, 3), dtype=np.float32)
        (got,) = graph.evaluate({graph.inputs[0].name: x}).values()
        # Float32 sums of at most 3 * 3 * 8 and 512 products in another order: about 1e-6 relative.
        np.testing.assert_allclose(got, outputs_of(model, x), rtol=1e-5, atol=1e-6)


def test_a_functional_model_with_two_inputs_computes_the_same_as_a_graph() -> None:
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    joined = keras.layers.Concatenate()([first, keras.layers.BatchNormalization()(second)])
    model = keras.Model([first, second], keras.layers.Dense(2, activation="gelu")(joined))
    graph = mck.to_graph(model)
    rng = np.random.default_rng(1)
    x = [rng.standard_normal((2, n), dtype=np.float32) for n in (4, 3)]
    named = dict(zip((each.name for each in graph.inputs), x, strict=True))
    (got,) = graph.evaluate(named).values()
    np.testing.assert_allclose(got, outputs_of(model, x), rtol=1e-5, atol=1e-6)


def test_a_subclassed_model_needs_an_example() -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x: object) -> object:
            return self.dense(x) * 2.0

    model = Model()
    with pytest.raises(mc.Error, match=r"\[keras.to_graph\] example must be given"):
        mck.to_graph(model)
    x = np.random.default_rng(2).standard_normal((2, 4), dtype=np.float32)
    graph = mck.to_graph(model, x)
    (got,) = graph.evaluate({graph.inputs[0].name: x}).values()
    np.testing.assert_allclose(got, outputs_of(model, x), rtol=1e-5, atol=1e-6)


def test_anything_but_a_keras_model_is_refused_by_name() -> None:
    with pytest.raises(mc.DTypeError, match=r"\[keras.to_graph\] model must be a keras.Model, got"):
        mck.to_graph("model.keras")
