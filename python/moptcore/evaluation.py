# SPDX-License-Identifier: Apache-2.0
"""What a model costs and what it is worth: accuracy, loss, parameters, bytes, latency."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moptcore._core import Error

__all__ = [
    "Evaluation",
    "FileSizes",
    "Latency",
    "TensorSummary",
    "classification_score",
    "evaluate",
    "evaluate_onnx",
    "file_sizes",
    "measure_latency",
    "onnx_tensors",
]

Call = Callable[[], object]
Data = tuple[ArrayLike, ArrayLike] | Iterable[tuple[ArrayLike, ArrayLike]]


@dataclasses.dataclass(frozen=True)
class Latency:
    """Percentiles of the time of one call, in milliseconds."""

    p50: float
    p90: float
    p99: float
    repeats: int

    def to_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class FileSizes:
    """Bytes of a file as it lies on disk, and after gzip -9."""

    plain: int
    gzip: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`nonzeros` counts parameters whose real value is not zero, so q != zero_point for integers.

    Fields that were not measured are None.
    """

    accuracy: float
    loss: float
    parameters: int
    nonzeros: int
    size_bytes: int | None = None
    gzip_bytes: int | None = None
    latency: Latency | None = None

    @property
    def sparsity(self) -> float:
        return 1.0 - self.nonzeros / self.parameters if self.parameters else 0.0

    def to_dict(self) -> dict[str, float | int | None]:
        """One flat dict, ready for JSON; the latency percentiles as `latency_p50_ms` and so on."""
        flat = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        flat.pop("latency")
        for name in ("p50", "p90", "p99"):
            flat[f"latency_{name}_ms"] = getattr(self.latency, name) if self.latency else None
        flat["sparsity"] = self.sparsity
        return flat


@dataclasses.dataclass(frozen=True)
class TensorSummary:
    """A constant of an ONNX graph. `role` is "weight", "scale", "zero_point" or "shape"."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    elements: int
    zeros: int
    size_bytes: int


@overload
def measure_latency(calls: Call, *, warmup: int = ..., repeats: int = ...) -> Latency: ...
@overload
def measure_latency(
    calls: Mapping[str, Call], *, warmup: int = ..., repeats: int = ...
) -> dict[str, Latency]: ...
def measure_latency(
    calls: Call | Mapping[str, Call], *, warmup: int = 10, repeats: int = 100
) -> Latency | dict[str, Latency]:
    """Times a call, or several of them interleaved.

    Every round runs each call once and starts with another one, so that a slow moment of the
    machine falls on all of them alike. The garbage collector rests meanwhile.
    """
    where = "evaluation.measure_latency"
    if warmup < 0:
        raise Error(f"[{where}] warmup must be >= 0, got {warmup}")
    if repeats < 1:
        raise Error(f"[{where}] repeats must be >= 1, got {repeats}")
    named = dict(calls) if isinstance(calls, Mapping) else {"": calls}
    if not named:
        raise Error(f"[{where}] calls must hold at least one callable, got none")
    for name, call in named.items():
        if not callable(call):
            raise TypeError(f"[{where}] calls must be callable, got {call!r} for {name!r}")
    order = list(named)
    milliseconds: dict[str, list[float]] = {name: [] for name in order}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(warmup + repeats):
            first = turn % len(order)
            for name in order[first:] + order[:first]:
                call = named[name]
                start = time.perf_counter_ns()
                call()
                nanoseconds = time.perf_counter_ns() - start
                if turn >= warmup:
                    milliseconds[name].append(nanoseconds * 1e-6)
    finally:
        if collecting:
            gc.enable()
    found = {}
    for name, times in milliseconds.items():
        p50, p90, p99 = (float(p) for p in np.percentile(times, (50, 90, 99)))
        found[name] = Latency(p50, p90, p99, repeats)
    return found if isinstance(calls, Mapping) else found[""]


def file_sizes(path: str | os.PathLike[str]) -> FileSizes:
    """Bytes of the file at `path`, plain and gzipped (level 9, no time stamp)."""
    content = Path(path).read_bytes()
    return FileSizes(len(content), len(gzip.compress(content, compresslevel=9, mtime=0)))


def classification_score(logits: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """(accuracy, mean cross-entropy in nats) of logits [rows, classes] against integer labels."""
    where = "evaluation.classification_score"
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels)
    if z.ndim != 2 or z.shape[0] == 0 or z.shape[1] == 0:
        raise Error(f"[{where}] logits must have shape [rows, classes], got {z.shape}")
    if y.dtype.kind not in "iu":
        raise TypeError(f"[{where}] labels must be integers, got {y.dtype}")
    if y.shape != z.shape[:1]:
        raise Error(f"[{where}] labels must have shape {z.shape[:1]}, got {y.shape}")
    if y.min() < 0 or y.max() >= z.shape[1]:
        bad = int(y.min() if y.min() < 0 else y.max())
        raise Error(f"[{where}] labels must be in [0, {z.shape[1]}), got {bad}")
    top = z.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=1))
    loss = log_sum - z[np.arange(len(y)), y]
    return float((z.argmax(axis=1) == y).mean()), float(loss.mean())


def onnx_tensors(path: str | os.PathLike[str]) -> list[TensorSummary]:
    """The constants of an ONNX file: initializers and `Constant` nodes of the main graph.

    Zeros of a quantized tensor are the elements equal to its zero point.
    """
    onnx = _needs("onnx", "evaluation.onnx_tensors")
    graph = onnx.load(os.fspath(path)).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    values[node.output[0]] = onnx.numpy_helper.to_array(attribute.t)
    roles: dict[str, str] = {}
    zero_points: dict[str, tuple[str, int]] = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            roles[node.input[1]] = "scale"
            if len(node.input) > 2:
                roles[node.input[2]] = "zero_point"
                if node.op_type == "DequantizeLinear":
                    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                    zero_points[node.input[0]] = (node.input[2], axis)
    found = []
    for name, value in values.items():
        # Shapes, axes and indices are int64 in ONNX; no weight is.
        role = roles.get(name, "shape" if value.dtype in (np.int64, np.bool_) else "weight")
        zero: Any = 0
        if name in zero_points and zero_points[name][0] in values:
            point, axis = values[zero_points[name][0]], zero_points[name][1]
            along = [1] * value.ndim
            if point.size > 1:
                along[axis] = -1
            zero = point.reshape(along)
        bits = 4 if value.dtype.name in ("int4", "uint4") else 8 * value.dtype.itemsize
        found.append(
            TensorSummary(
                name=name,
                shape=tuple(value.shape),
                dtype=value.dtype.name,
                role=role,
                elements=int(value.size),
                zeros=int(np.count_nonzero(value == zero)),
                size_bytes=(int(value.size) * bits + 7) // 8,
            )
        )
    return found


@overload
def evaluate_onnx(
    models: str | os.PathLike[str],
    data: Data,
    *,
    batch_size: int = ...,
    threads: int | None = ...,
    latency: bool = ...,
    warmup: int = ...,
    repeats: int = ...,
) -> Evaluation: ...
@overload
def evaluate_onnx(
    models: Mapping[str, str | os.PathLike[str]],
    data: Data,
    *,
    batch_size: int = ...,
    threads: int | None = ...,
    latency: bool = ...,
    warmup: int = ...,
    repeats: int = ...,
) -> dict[str, Evaluation]: ...
def evaluate_onnx(
    models: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    data: Data,
    *,
    batch_size: int = 256,
    threads: int | None = None,
    latency: bool = True,
    warmup: int = 10,
    repeats: int = 100,
) -> Evaluation | dict[str, Evaluation]:
    """Runs an ONNX classifier, or several by name, in ONNX Runtime over `data`, and reads its file.

    A file has one input, its first output is logits [rows, classes]. The latency is that of one
    sample (or of one batch, where the file fixes the batch); several models are timed interleaved.
    Sizes include external data files. `data` given as batches must allow one pass per model.
    """
    where = "evaluation.evaluate_onnx"
    if batch_size < 1:
        raise Error(f"[{where}] batch_size must be >= 1, got {batch_size}")
    paths = dict(models) if isinstance(models, Mapping) else {"": models}
    found, calls = {}, {}
    for name, path in paths.items():
        session = _Session(path, threads, where)
        found[name] = session.score(data, batch_size)
        calls[name] = session.call
    if latency:
        times = measure_latency(calls, warmup=warmup, repeats=repeats)
        found = {
            name: dataclasses.replace(each, latency=times[name]) for name, each in found.items()
        }
    return found if isinstance(models, Mapping) else found[""]


def evaluate(model: Any, data: Data, **options: Any) -> Any:
    """Evaluates an ONNX file, or a dict of them, as evaluate_onnx does, and a torch module as
    moptcore.torch.evaluate does."""
    if isinstance(model, (str, os.PathLike, Mapping)):
        return evaluate_onnx(model, data, **options)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return importlib.import_module("moptcore.torch").evaluate(model, data, **options)
    raise TypeError(
        "[evaluation.evaluate] model must be the path of an ONNX file or a torch.nn.Module, "
        f"got {type(model).__name__}"
    )


class _Session:
    """An ONNX file in ONNX Runtime, and the sample that it is timed with."""

    def __init__(self, path: str | os.PathLike[str], threads: int | None, where: str) -> None:
        runtime = _needs("onnxruntime", where)
        if not Path(path).is_file():
            raise Error(f"[{where}] path must be an existing ONNX file, got {os.fspath(path)!r}")
        options = runtime.SessionOptions()
        # Threads that spin after a run would steal the cores from the session timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        self._path, self._where = Path(path), where
        self._session = runtime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs)
            raise Error(
                f"[{where}] path must be a model with one input, got {len(inputs)}: {names}"
            )
        self._name: str = inputs[0].name
        first = inputs[0].shape[0] if inputs[0].shape else None
        self._fixed: int | None = first if isinstance(first, int) else None
        self._sample: NDArray[Any] | None = None

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        output: NDArray[Any] = self._session.run(None, {self._name: x})[0]
        return output

    def call(self) -> None:
        self._session.run(None, {self._name: self._sample})

    def score(self, data: Data, batch_size: int) -> Evaluation:
        logits, labels = [], []
        for x, y in _batches(data, self._fixed or batch_size, self._where):
            full = _padded(x, self._fixed)
            if self._sample is None:
                self._sample = full[: self._fixed or 1]
            logits.append(self.run(full)[: len(x)])
            labels.append(y)
        if not logits:
            raise Error(f"[{self._where}] data must hold at least one sample, got none")
        accuracy, loss = classification_score(np.concatenate(logits), np.concatenate(labels))
        weights = [tensor for tensor in onnx_tensors(self._path) if tensor.role == "weight"]
        sizes = [file_sizes(part) for part in _parts(self._path)]
        return Evaluation(
            accuracy=accuracy,
            loss=loss,
            parameters=sum(tensor.elements for tensor in weights),
            nonzeros=sum(tensor.elements - tensor.zeros for tensor in weights),
            size_bytes=sum(size.plain for size in sizes),
            gzip_bytes=sum(size.gzip for size in sizes),
        )


def _padded(x: NDArray[Any], rows: int | None) -> NDArray[Any]:
    missing = (rows or 0) - len(x)
    return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing > 0 else x


def _needs(module: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"[{where}] needs {module}, install it with: pip install 'moptcore[onnx]'"
        ) from error


def _batches(data: Data, rows: int, where: str) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    pairs = [data] if isinstance(data, tuple) else data
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"[{where}] data must be (x, y) or yield (x, y), got {type(pair)}")
        x, y = np.asarray(pair[0]), np.asarray(pair[1])
        if x.shape[:1] != y.shape[:1]:
            raise Error(f"[{where}] x and y must have one length, got {x.shape} and {y.shape}")
        for start in range(0, len(x), rows):
            yield x[start : start + rows], y[start : start + rows]


def _parts(path: str | os.PathLike[str]) -> list[Path]:
    """The file and the external data files that its initializers name."""
    onnx = _needs("onnx", "evaluation.evaluate_onnx")
    model = onnx.load(os.fspath(path), load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [Path(path), *(Path(path).parent / name for name in sorted(names))]
