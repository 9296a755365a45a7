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


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "Bidirectional"])
def test_a_loop_over_a_free_axis_is_refused_by_the_name_of_the_axis(layer: str) -> None:
    cell = keras.layers.LSTM(8) if layer == "Bidirectional" else getattr(keras.layers, layer)(8)
    if layer == "Bidirectional":
        cell = keras.layers.Bidirectional(cell)
    model = keras.Sequential([keras.Input((None, 16), name="words"), cell, keras.layers.Dense(3)])
    with pytest.raises(mc.Error, match=r"with axis 1 of 'words' at 7: .*example= of the real size"):
        mck.to_graph(model)


def test_padding_that_is_wrong_at_odd_sizes_is_refused() -> None:
    model = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.MaxPooling2D(2, padding="same")]
    )
    with pytest.raises(mc.Error, match=r"give these axes a fixed size in keras\.Input"):
        mck.to_graph(model)


def test_an_example_fixes_the_length_of_a_loop_in_the_graph() -> None:
    model = keras.Sequential([keras.Input((None, 16)), keras.layers.LSTM(8)])
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 7, 16), dtype=np.float32)
    graph = mck.to_graph(model, x)
    (info,) = graph.inputs
    assert info.shape == ("batch", 7, 16)
    for batch in (1, 4):
        x = rng.standard_normal((batch, 7, 16), dtype=np.float32)
        (got,) = graph.evaluate({info.name: x}).values()
        np.testing.assert_allclose(got, outputs_of(model, x), rtol=1e-5, atol=1e-6)


def test_convolutions_with_free_height_and_width_compute_the_same_at_other_sizes() -> None:
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(8, 3, strides=2, padding="same"),
            keras.layers.UpSampling2D(),
            keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
        ]
    )
    graph = mck.to_graph(model)
    (info,) = graph.inputs
    assert [isinstance(extent, int) for extent in info.shape] == [False, False, False, True]
    rng = np.random.default_rng(4)
    for size in ((2, 16, 16), (1, 31, 20), (3, 9, 33)):
        x = rng.standard_normal((*size, 3), dtype=np.float32)
        (got,) = graph.evaluate({info.name: x}).values()
        np.testing.assert_allclose(got, outputs_of(model, x), rtol=1e-5, atol=1e-5)


def test_a_model_that_takes_few_extents_is_compared_at_those() -> None:
    first = keras.Input((None, None, 2))
    half = keras.layers.AveragePooling2D(8)(first)
    whole = keras.layers.UpSampling2D(8)(half)
    joined = keras.layers.Concatenate()([keras.layers.Conv2D(2, 3, padding="same")(first), whole])
    graph = mck.to_graph(keras.Model(first, joined))
    model = keras.Model(first, joined)
    x = np.random.default_rng(5).standard_normal((1, 24, 40, 2), dtype=np.float32)
    (got,) = graph.evaluate({graph.inputs[0].name: x}).values()
    np.testing.assert_allclose(got, outputs_of(model, x), rtol=1e-5, atol=1e-6)


def test_a_model_that_gives_other_outputs_each_time_is_exported_with_a_warning() -> None:
    class Counting(keras.layers.Layer):
        calls = 0

        def call(self, x: object) -> object:
            self.calls += 1
            return x + float(self.calls)

    model = keras.Sequential([keras.Input((4,)), Counting()])
    with pytest.warns(UserWarning, match="gives other outputs each time"):
        mck.to_graph(model)


def test_anything_but_a_keras_model_is_refused_by_name() -> None:
    with pytest.raises(mc.DTypeError, match=r"\[keras.to_graph\] model must be a keras.Model, got"):
        mck.to_graph("model.keras")
