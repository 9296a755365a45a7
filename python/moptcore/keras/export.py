# SPDX-License-Identifier: Apache-2.0
"""`to_graph`: a Keras model as a graph, through Keras' own ONNX export."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras

from moptcore import DTypeError, Error, UnsupportedError
from moptcore.graph import Model, load

__all__ = ["to_graph"]

_WHERE = "keras.to_graph"
# What the export of each backend asks for beside Keras.
_NEEDS = {"torch": "onnx and onnxscript", "tensorflow": "tf2onnx", "jax": "tensorflow and tf2onnx"}


def to_graph(model: Any, example: Any = None) -> Model:
    """What `model` computes in inference, as a graph: to optimize, count, cut or run.

    `example` is an input, or a list or dict of inputs as `model` takes them; models that know
    their inputs (Sequential and functional ones) need none. The batch axis is free. The weights
    are copied. Raises DTypeError for anything but a Keras model, Error where the inputs are
    unknown, and UnsupportedError with Keras' own words for what it cannot export.
    """
    if not isinstance(model, keras.Model):
        raise DTypeError(f"[{_WHERE}] model must be a keras.Model, got {type(model).__name__}")
    inputs = _symbolic(model) if example is None else example
    # Keras exports models that were called; one call builds what is not built yet.
    model(_zeros(inputs), training=False)
    with tempfile.TemporaryDirectory(prefix="moptcore-") as folder:
        path = Path(folder) / "model.onnx"
        signature = [keras.tree.map_structure(_spec, inputs)]
        try:
            with warnings.catch_warnings():
                # The exporters beneath Keras warn of themselves and of what they trace.
                warnings.simplefilter("ignore")
                model.export(path, format="onnx", verbose=False, input_signature=signature)
        except ImportError as error:
            backend = keras.backend.backend()
            raise UnsupportedError(
                f"[{_WHERE}] exporting from Keras on {backend} needs "
                f"{_NEEDS.get(backend, 'more')}, install it: {error}"
            ) from error
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise UnsupportedError(
                f"[{_WHERE}] model must be one that Keras can export to ONNX, got "
                f"{type(error).__name__}: {first}"
            ) from error
        return load(path)


def _symbolic(model: keras.Model) -> Any:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise Error(f"[{_WHERE}] example must be given for a model that does not know its inputs")
    # Functional models keep how their inputs were given: a tensor, a list or a dict of them.
    structure = getattr(model, "_inputs_struct", None)
    return structure if structure is not None else inputs[0]


def _zeros(inputs: Any) -> Any:
    return keras.tree.map_structure(
        lambda each: keras.ops.zeros([1 if n is None else n for n in each.shape], each.dtype),
        inputs,
    )


def _spec(each: Any) -> keras.InputSpec:
    return keras.InputSpec(
        shape=(None, *tuple(each.shape)[1:]),
        dtype=keras.backend.standardize_dtype(each.dtype),
        name=each.name if isinstance(each, keras.KerasTensor) else None,
    )
