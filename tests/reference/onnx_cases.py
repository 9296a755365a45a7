# SPDX-License-Identifier: Apache-2.0
"""The test cases of the onnx package, run by any engine and counted without mercy.

A case passes where every data set gives the expected outputs, compared as the package compares
them. What an engine refuses by name is counted apart: the package's own runner takes a case that
was skipped for one that passed.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

DISK_KINDS = ("simple", "pytorch-converted", "pytorch-operator")
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# prepare(model) -> run(list of inputs) -> sequence of outputs
Prepare = Callable[[onnx.ModelProto], Callable[[list[Any]], Sequence[Any]]]


@dataclass(frozen=True)
class Case:
    """A model, and inputs with the outputs they must give."""

    kind: str
    name: str
    rtol: float
    atol: float
    load: Callable[[], tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]]


@dataclass(frozen=True)
class Outcome:
    """What became of a case, and the text of what was raised.

    pass; unsupported, by a named error; random, draws that are not the package's; rounded, 16-bit
    results a step or two away; wrong; error.
    """

    case: Case
    verdict: str
    text: str = ""
    operators: frozenset[str] = field(default_factory=frozenset)


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if which == "optional_type":
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _from_folder(folder: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        count = len(list(data.glob("input_*.pb")))
        inputs = [_read(data / f"input_{i}.pb", model.graph.input[i].type) for i in range(count)]
        count = len(list(data.glob("output_*.pb")))
        outputs = [_read(data / f"output_{i}.pb", model.graph.output[i].type) for i in range(count)]
        sets.append((inputs, outputs))
    return model, sets


def _light(path: Path) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    model = onnx.load(path)
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [
        Runner.generate_dummy_data(info) for info in model.graph.input if info.name not in known
    ]
    outputs = [
        onnx.numpy_helper.to_array(
            onnx.TensorProto.FromString(path.with_name(f"{path.stem}_output_{i}.pb").read_bytes())
        )
        for i in range(len(model.graph.output))
    ]
    return model, [(inputs, outputs)]


def cases(*kinds: str) -> Iterator[Case]:
    """The cases of some kinds: node, simple, pytorch-converted, pytorch-operator, light."""
    for kind in kinds:
        if kind == "light":
            for path in sorted(LIGHT.glob("*.onnx")):
                yield Case(kind, path.stem, 1e-3, 1e-7, lambda path=path: _light(path))
            continue
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the package computes some cases with overflow
            found = load_model_tests(kind=kind)
        for test in sorted(found, key=lambda test: test.name):
            if kind == "node":

                def load(test: Any = test) -> Any:
                    sets = [
                        ([_array(x) for x in inputs], [_array(y) for y in outputs])
                        for inputs, outputs in test.data_sets
                    ]
                    return test.model, sets

            else:

                def load(test: Any = test) -> Any:
                    return _from_folder(Path(os.fspath(test.model_dir)))

            yield Case(kind, test.name, test.rtol, test.atol, load)


def operators_of(model: onnx.ModelProto) -> frozenset[str]:
    """The operators of the main graph."""
    return frozenset(node.op_type for node in model.graph.node)


def _compare(expected: Sequence[Any], found: Sequence[Any], case: Case) -> None:
    """The package's comparison, which cannot compare sequences of tensors without axes."""
    assert len(expected) == len(found), (len(expected), len(found))
    for reference, result in zip(expected, found, strict=True):
        if isinstance(reference, list):
            assert isinstance(result, list), type(result)
            _compare(reference, result, case)
        elif reference is None:
            assert result is None, type(result)
        else:
            Runner.assert_similar_outputs([reference], [result], case.rtol, case.atol)


def _are_bits(results: Sequence[Sequence[Any]]) -> bool:
    """Draws of another generator than the package's cannot be equal, but are zeros and ones."""
    return all(
        bool(np.isin(np.asarray(y, float), (0, 1)).all()) for found in results for y in found
    )


def _differ_by_rounding(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """True where results are as near as rounding can bring them.

    A step of bfloat16 is 2^-7 of a value and one of float16 2^-10: where an engine keeps float32
    between operations that the expected values round (or the other way round), results differ by
    up to two steps, which the package's relative tolerance of 1e-3 does not allow. Sums of float32
    carry rounding errors of the size of their largest term, here at most 4 units of it, also where
    the sum is 0: a discrete Fourier transform in float32 gives 1.9e-7 where float64 gives 5e-15,
    which the absolute tolerance of 1e-7 does not allow.
    """
    for x, y in zip(found, expected, strict=True):
        if not isinstance(y, np.ndarray) or x.shape != y.shape or x.dtype != y.dtype:
            return False
        name, wide, exact = y.dtype.name, x.astype(np.float64), y.astype(np.float64)
        if name in ("float16", "bfloat16"):
            bound = 2 * (2.0**-10 if name == "float16" else 2.0**-7) * np.abs(exact)
        elif name == "float32":
            bound = np.full(y.shape, 4 * 2.0**-24 * np.abs(exact).max(initial=0))
        else:
            return False
        if not (np.abs(wide - exact) <= bound).all():
            return False
    return True


def run(case: Case, prepare: Prepare, unsupported: type[Exception] | tuple[Any, ...]) -> Outcome:
    """Runs one case; errors of the type `unsupported` are an engine's refusal by name."""
    model, sets = case.load()
    names = operators_of(model)
    assert sets, case.name
    try:
        engine = prepare(model)
        results = [list(engine(inputs)) for inputs, _ in sets]
    except unsupported as error:
        return Outcome(case, "unsupported", str(error), names)
    except Exception as error:  # the verdict on an engine is never an error of ours
        return Outcome(case, "error", f"{type(error).__name__}: {error}", names)
    pairs = list(zip(results, sets, strict=True))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # comparing NaN and infinity
            for found, (_, expected) in pairs:
                _compare(expected, found, case)
    except Exception as error:  # NumPy refuses some shapes and types by other errors
        verdict = "wrong"
        if "bernoulli" in case.name and _are_bits(results):
            verdict = "random"
        elif all(_differ_by_rounding(found, expected) for found, (_, expected) in pairs):
            verdict = "rounded"
        return Outcome(case, verdict, f"{type(error).__name__}: {error}", names)
    return Outcome(case, "pass", operators=names)


def table(columns: dict[str, list[Outcome]]) -> str:
    """Verdicts by kind, a column for each engine."""
    verdicts = ["pass", "unsupported", "random", "rounded", "wrong", "error"]
    kinds = sorted({outcome.case.kind for column in columns.values() for outcome in column})
    lines = [f"{'kind':20}" + "".join(f"{name:>40}" for name in columns)]
    lines.append(f"{'':20}" + f"{' / '.join(verdicts):>40}" * len(columns))
    for kind in kinds:
        line = f"{kind:20}"
        for column in columns.values():
            counts = Counter(o.verdict for o in column if o.case.kind == kind)
            line += f"{' / '.join(str(counts[v]) for v in verdicts):>40}"
        lines.append(line)
    return "\n".join(lines)
