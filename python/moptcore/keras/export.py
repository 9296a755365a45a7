# SPDX-License-Identifier: Apache-2.0
"""`to_graph`: a Keras model as a graph, through Keras' own ONNX export or that of torch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from moptcore import DTypeError, Error, UnsupportedError
from moptcore.graph import Model, load

__all__ = ["to_graph"]

_WHERE = "keras.to_graph"
# What the export of each backend asks for beside Keras.
_NEEDS = {"torch": "onnx and onnxscript", "tensorflow": "tf2onnx", "jax": "jax2onnx"}
# Extents of free axes, even and odd ones by turns: a trace keeps what padding or a loop makes of
# one, and models that halve an axis again and again take only some. The first that run are taken.
_TRACED = (16, 32, 64, 224, 8, 4, 2)
_COMPARED = ((7, 11), (13, 7), (7, 7), (13, 13), (32, 64), (64, 32), (32, 32), (64, 64), (96, 96))
_BATCHES = (3, 1)
_ADVICE = (
    "give these axes a fixed size in keras.Input, or pass example= of the real size: the graph's "
    "inputs then have its size in all axes but the batch"
)


def to_graph(model: Any, example: Any = None) -> Model:
    """What `model` computes in inference, as a graph: to optimize, count, cut or run.

    `example` is an input, or a list or dict of inputs as `model` takes them; models that know
    their inputs (Sequential and functional ones) need none. The batch axis is free, and without an
    example every axis that is None. The weights are copied. The graph is compared with the model
    at two extents of the free axes: where they differ, as for a loop over time, Error names the
    axes. Raises DTypeError for anything but a Keras model, Error where the inputs are unknown, and
    UnsupportedError with Keras' own words for what it cannot export.
    """
    if not isinstance(model, keras.Model):
        raise DTypeError(f"[{_WHERE}] model must be a keras.Model, got {type(model).__name__}")
    inputs = _Inputs(_symbolic(model) if example is None else example)
    # Keras exports models that were called; one call builds what is not built yet.
    traced = inputs.traced(model)
    with tempfile.TemporaryDirectory(prefix="moptcore-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            with warnings.catch_warnings():
                # The exporters beneath Keras warn of themselves and of what they trace.
                warnings.simplefilter("ignore")
                if keras.backend.backend() == "torch":
                    _export_torch(model, inputs, traced, path)
                else:
                    signature = [inputs.signature()]
                    model.export(path, format="onnx", verbose=False, input_signature=signature)
        except ImportError as error:
            backend = keras.backend.backend()
            raise UnsupportedError(
                f"[{_WHERE}] exporting from Keras on {backend} needs "
                f"{_NEEDS.get(backend, 'more')}, install it: {error}"
            ) from error
        except Exception as error:
            advice = f"; {inputs.described()} may be what it cannot: {_ADVICE}"
            raise UnsupportedError(
                f"[{_WHERE}] model must be one that Keras can export to ONNX, got "
                f"{type(error).__name__}: {_first_line(error)}{advice if inputs.free else ''}"
            ) from error
        graph = load(path)
    _compare(graph, model, inputs)
    return graph


def _symbolic(model: keras.Model) -> Any:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise Error(f"[{_WHERE}] example must be given for a model that does not know its inputs")
    # Functional models keep how their inputs were given: a tensor, a list or a dict of them.
    structure = getattr(model, "_inputs_struct", None)
    return structure if structure is not None else inputs[0]


class _Inputs:
    """What the model takes: its shapes with None for free axes, and values for them."""

    def __init__(self, structure: Any) -> None:
        self._structure = structure
        self._leaves = keras.tree.flatten(structure)
        self._given = not any(isinstance(each, keras.KerasTensor) for each in self._leaves)
        self.names = [
            each.name if isinstance(each, keras.KerasTensor) else f"input_{i}"
            for i, each in enumerate(self._leaves)
        ]
        self.shapes = [self._shape(each) for each in self._leaves]
        self._dtypes = [keras.backend.standardize_dtype(each.dtype) for each in self._leaves]
        self.free = [
            (name, axis)
            for name, shape in zip(self.names, self.shapes, strict=True)
            for axis, extent in enumerate(shape)
            if extent is None and axis > 0
        ]

    def signature(self) -> Any:
        """For Keras' own export."""
        specs = [
            keras.InputSpec(
                shape=shape,
                dtype=dtype,
                name=each.name if isinstance(each, keras.KerasTensor) else None,
            )
            for each, shape, dtype in zip(self._leaves, self.shapes, self._dtypes, strict=True)
        ]
        return self.packed(specs)

    def packed(self, leaves: list[Any]) -> Any:
        return keras.tree.pack_sequence_as(self._structure, leaves)

    def traced(self, model: Any) -> list[Any]:
        """Ones of the first extents that the model takes."""
        reasons = []
        for extent in _TRACED if self.free else _TRACED[:1]:
            ones = [
                keras.ops.ones([n or 1 for n in self._filled(shape, 2, (extent, extent))], dtype)
                for shape, dtype in zip(self.shapes, self._dtypes, strict=True)
            ]
            try:
                model(self.packed(ones), training=False)
            except Exception as error:
                if not self.free:
                    raise
                reasons.append(error)
                continue
            return ones
        raise Error(
            f"[{_WHERE}] example must be given for a model that runs at none of the extents "
            f"{', '.join(map(str, _TRACED))} of its free axes ({self.described()}): "
            f"{_first_line(reasons[0])}"
        ) from reasons[0]

    def trials(self) -> Iterator[tuple[str, list[np.ndarray[Any, Any]]]]:
        """Values to compare with, of other extents each time, and what is said of them."""
        random = np.random.default_rng(0)
        for turn, extents in enumerate(_COMPARED if self.free else _COMPARED[:1]):
            batch = _BATCHES[turn % 2]
            values = []
            for each, shape, dtype in zip(self._leaves, self.shapes, self._dtypes, strict=True):
                filled = self._filled(shape, batch, extents)
                if self._given:
                    rows = np.asarray(keras.ops.convert_to_numpy(each))
                    values.append(np.resize(rows, filled).astype(rows.dtype))
                elif "int" in dtype or dtype == "bool":
                    # Valid as tokens, labels and masks of every model.
                    values.append(random.integers(0, 2, filled).astype(dtype))
                else:
                    values.append(random.uniform(-1.0, 1.0, filled).astype(dtype))
            said = [
                f"axis {axis} of {name!r} at {values[i].shape[axis]}"
                for i, (name, shape) in enumerate(zip(self.names, self.shapes, strict=True))
                for axis, extent in enumerate(shape)
                if extent is None and (axis > 0 or not self.free)
            ]
            yield ", ".join(said), values

    def _shape(self, each: Any) -> tuple[int | None, ...]:
        shape = tuple(each.shape)
        if not shape or isinstance(each, keras.KerasTensor):
            return shape
        return (None, *shape[1:])

    @staticmethod
    def _filled(
        shape: tuple[int | None, ...], batch: int, extents: tuple[int, int]
    ) -> tuple[int, ...]:
        turn = iter(extents * len(shape))
        return tuple(
            extent if extent is not None else batch if axis == 0 else next(turn)
            for axis, extent in enumerate(shape)
        )

    def described(self) -> str:
        return ", ".join(f"axis {axis} of {name!r}" for name, axis in self.free)


def _export_torch(model: Any, inputs: _Inputs, ones: list[Any], path: Path) -> None:
    """As Keras does it, but for the extents that are traced: Keras takes 1 for each free axis."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *leaves: Any) -> list[Any]:
            found = self.model(inputs.packed(list(leaves)), training=False)
            leaves_found: list[Any] = keras.tree.flatten(found)
            return leaves_found

    axes = {
        name: {
            axis: "batch" if axis == 0 else f"dim_{i}_{axis}"
            for axis, extent in enumerate(shape)
            if extent is None
        }
        for i, (name, shape) in enumerate(zip(inputs.names, inputs.shapes, strict=True))
    }
    torch.onnx.export(
        Flat(),
        tuple(ones),
        str(path),
        input_names=inputs.names,
        dynamic_axes={name: free for name, free in axes.items() if free},
        dynamo=False,
    )


def _compare(graph: Model, model: Any, inputs: _Inputs) -> None:
    """Raises Error where the graph and the model differ."""
    wanted = 2 if inputs.free else 1
    compared = 0
    reason: Exception | None = None
    for said, values in inputs.trials():
        arguments = inputs.packed([keras.ops.convert_to_tensor(each) for each in values])
        try:
            expected = _ordered(graph, model(arguments, training=False))
        except Exception as error:
            # Extents that the model itself refuses say nothing about the graph.
            reason = error
            continue
        named = dict(zip((info.name for info in graph.inputs), values, strict=True))
        if fault := _fault(graph, named, expected):
            again = _difference(expected, _ordered(graph, model(arguments, training=False)))
            if again > 0.0:
                warnings.warn(
                    f"[{_WHERE}] the graph was not compared with the model, which gives other "
                    f"outputs each time it is called (by {again:.2g} of their magnitude)",
                    stacklevel=3,
                )
                return
            advice = f": {_ADVICE}" if inputs.free else ""
            raise Error(
                f"[{_WHERE}] model must be one whose export computes the same at every extent of "
                f"its free axes, got a graph that {fault} with {said}{advice}"
            )
        compared += 1
        if compared == wanted:
            return
    if compared == 0:
        raise Error(
            f"[{_WHERE}] example must be given for a model that runs at none of the extents which "
            f"its graph is compared at: {_first_line(reason)}"
        ) from reason


def _fault(graph: Model, named: dict[str, Any], expected: list[np.ndarray[Any, Any]]) -> str:
    """What is wrong with the graph's outputs, or ''."""
    try:
        found = graph.evaluate(named)
    except Error as error:
        return f"does not run ({_first_line(error)})"
    difference = _difference(expected, list(found.values()))
    if difference == np.inf:
        return "gives another shape"
    # Float32 sums in another order are off by some 1e-6, 16-bit floats by 2^-8; a step too few or
    # a column of padding on the wrong side by more than either.
    allowed = 2e-2 if any(each.dtype.itemsize == 2 for each in expected) else 1e-4
    return f"is off by {difference:.2g} of the output" if difference > allowed else ""


def _difference(expected: list[np.ndarray[Any, Any]], found: list[Any]) -> float:
    """The largest one in parts of its output's magnitude; infinite where shapes differ."""
    worst = 0.0
    if len(expected) != len(found):
        return float(np.inf)
    for want, got in zip(expected, found, strict=True):
        if want.shape != np.shape(got):
            return float(np.inf)
        if want.size == 0:
            continue
        wide = want.astype(np.float64)
        apart = np.abs(wide - np.asarray(got).astype(np.float64))
        if np.isnan(apart).any() and not np.array_equal(np.isnan(wide), np.isnan(apart)):
            return float(np.inf)
        scale = max(float(np.nanmax(np.abs(wide), initial=0.0)), 1e-30)
        worst = max(worst, float(np.nanmax(apart, initial=0.0)) / scale)
    return worst


def _ordered(graph: Model, outputs: Any) -> list[np.ndarray[Any, Any]]:
    """The model's outputs in the order of the graph's."""
    names = [info.name for info in graph.outputs]
    if isinstance(outputs, dict) and set(outputs) == set(names):
        outputs = [outputs[name] for name in names]
    return [np.asarray(keras.ops.convert_to_numpy(each)) for each in keras.tree.flatten(outputs)]


def _first_line(error: Exception | None) -> str:
    return str(error).strip().partition("\n")[0]
