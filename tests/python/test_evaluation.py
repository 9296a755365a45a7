# SPDX-License-Identifier: Apache-2.0
"""Models are built by hand here, so that each count is known beforehand."""

from __future__ import annotations

import gc
import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from moptcore import evaluation

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WEIGHT = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], np.float32)


def save(path: Path, nodes, initializers: dict[str, np.ndarray], batch="batch") -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.fixture
def float_model(tmp_path: Path) -> Path:
    bias = np.array([0.5, 0.0], np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    return save(tmp_path / "float.onnx", [node], {"w": WEIGHT, "b": bias})


# x picks a column of WEIGHT: rows 0 and 2 go to class 0 (row 2 by the bias), row 1 to class 1.
X = np.eye(3, dtype=np.float32)


def test_accuracy_and_loss_follow_their_definition(float_model: Path) -> None:
    found = evaluation.evaluate(float_model, (X, np.array([0, 1, 1])), latency=False)
    assert found.accuracy == 2 / 3
    # Logits (1.5, 0), (0.5, 1), (0.5, 0); softplus of minus the margin of the right class.
    margins = [1.5, 0.5, -0.5]
    expected = sum(math.log1p(math.exp(-m)) for m in margins) / 3
    assert found.loss == pytest.approx(expected, rel=1e-6)  # float32 logits
    assert found.latency is None


def test_parameters_and_bytes_are_those_of_the_file(float_model: Path) -> None:
    found = evaluation.evaluate(float_model, (X, np.array([0, 1, 0])))
    assert (found.parameters, found.nonzeros) == (8, 3)
    assert found.size_bytes == float_model.stat().st_size
    assert len(gzip.compress(float_model.read_bytes(), 9)) == found.gzip_bytes
    flat = json.loads(json.dumps(found.to_dict()))
    assert flat["sparsity"] == 5 / 8
    assert 0 < flat["latency_p50_ms"] <= flat["latency_p90_ms"] <= flat["latency_p99_ms"]


def quantized_nodes():
    return [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]


def test_zeros_of_integers_are_their_zero_points_per_axis(tmp_path: Path) -> None:
    q = np.array([[7, 3], [5, 9], [0, 3]], np.uint8)
    tensors = {"q": q, "s": np.array([0.5, 2.0], np.float32), "z": np.array([5, 3], np.uint8)}
    path = save(tmp_path / "q.onnx", quantized_nodes(), tensors)
    by_name = {t.name: t for t in evaluation.onnx_tensors(path)}
    assert {name: t.role for name, t in by_name.items()} == {
        "q": "weight", "s": "scale", "z": "zero_point",
    }  # fmt: skip
    # Real values: column 0 is (7, 5, 0) - 5, column 1 is (3, 9, 3) - 3: three zeros.
    assert (by_name["q"].zeros, by_name["q"].elements, by_name["q"].size_bytes) == (3, 6, 6)
    found = evaluation.evaluate_onnx(path, (X, np.array([0, 1, 0])), latency=False)
    assert (found.parameters, found.nonzeros) == (6, 3)


def test_constant_nodes_hold_weights_and_int64_holds_shapes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    path = save(tmp_path / "c.onnx", nodes, {"shape": np.array([-1, 3])})
    roles = {t.name: (t.role, t.zeros) for t in evaluation.onnx_tensors(path)}
    assert roles == {"shape": ("shape", 0), "w": ("weight", 4)}


def test_external_data_counts(tmp_path: Path) -> None:
    path = save(tmp_path / "e.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="e.bin", size_threshold=0)
    found = evaluation.evaluate_onnx(path, (X, np.array([0, 1, 0])), latency=False)
    assert found.size_bytes == path.stat().st_size + (tmp_path / "e.bin").stat().st_size
    assert found.accuracy == 1.0


@pytest.mark.parametrize("batch", ["batch", 2, 5])
def test_batches_and_loaders_give_one_result(tmp_path: Path, batch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 3)).astype(np.float32)
    y = rng.integers(0, 2, 7)
    weight = rng.normal(size=(3, 2)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": weight}, batch)
    expected = float((np.argmax(x @ weight, axis=1) == y).mean())
    loader = [(x[:4], y[:4]), (x[4:], y[4:])]
    for data in ((x, y), loader):
        found = evaluation.evaluate_onnx(path, data, batch_size=3, repeats=2)
        assert found.accuracy == expected


def test_several_files_are_evaluated_by_name_and_timed(float_model: Path, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    other = save(tmp_path / "other.onnx", nodes, {"w": WEIGHT})
    found = evaluation.evaluate({"a": float_model, "b": other}, (X, np.array([0, 1, 0])), repeats=3)
    assert list(found) == ["a", "b"]
    # Without the bias row 2 ties, and argmax takes the first class: both are right everywhere.
    assert (found["a"].accuracy, found["b"].accuracy) == (1.0, 1.0)
    assert (found["a"].parameters, found["b"].parameters) == (8, 6)
    assert found["a"].latency.repeats == found["b"].latency.repeats == 3


def test_latency_interleaves_and_rotates() -> None:
    calls: list[str] = []
    found = evaluation.measure_latency(
        {name: (lambda name=name: calls.append(name)) for name in "abc"}, warmup=1, repeats=2
    )
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert set(found) == set("abc")
    assert found["a"].repeats == 2
    assert gc.isenabled()


def test_latency_percentiles_are_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([2_000_000, 1_000_000, 3_000_000])
    clock = [0]
    monkeypatch.setattr(evaluation.time, "perf_counter_ns", lambda: clock[0])

    def call() -> None:
        clock[0] += next(durations)

    found = evaluation.measure_latency(call, warmup=0, repeats=3)
    assert found.p50 == pytest.approx(2.0)
    assert found.p90 == pytest.approx(2.8)  # linear between the sorted 2 and 3: position 1.8
    assert found.repeats == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calls": {}}, "at least one callable"),
        ({"calls": print, "repeats": 0}, "repeats must be >= 1, got 0"),
        ({"calls": print, "warmup": -1}, "warmup must be >= 0, got -1"),
    ],
)
def test_latency_names_the_bad_argument(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.measure_latency(**arguments)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), ValueError, r"labels must be in \[0, 3\), got 3"),
        (np.zeros((2, 3)), np.array([0, -1]), ValueError, "got -1"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), TypeError, "integers, got float64"),
        (np.zeros((2, 3)), np.array([0]), ValueError, r"labels must have shape \(2,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), ValueError, r"\[rows, classes\], got \(0, 3\)"),
    ],
)
def test_score_names_the_bad_argument(logits, labels, error, message: str) -> None:
    with pytest.raises(error, match=message):
        evaluation.classification_score(logits, labels)


def test_a_missing_file_and_a_strange_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"existing ONNX file, got .*none\.onnx"):
        evaluation.evaluate(tmp_path / "none.onnx", (X, np.array([0, 1, 0])))
    with pytest.raises(TypeError, match=r"ONNX file or a torch\.nn\.Module, got int"):
        evaluation.evaluate(3, (X, np.array([0, 1, 0])))


def test_no_data_is_an_error(float_model: Path) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        evaluation.evaluate_onnx(float_model, [])


def test_without_onnxruntime_the_error_says_what_to_install(float_model: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import numpy as np, moptcore.evaluation as e\n"
        f"e.evaluate({str(float_model)!r}, (np.eye(3, dtype='f'), np.array([0, 1, 0])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs onnxruntime, install it with: pip install 'moptcore[onnx]'" in done.stderr
