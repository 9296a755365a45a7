# SPDX-License-Identifier: Apache-2.0
"""The border of `graph`: arrays in, arrays out, and errors that name the input."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from moptcore import DTypeError, Error, UnsupportedError, graph

onnx = pytest.importorskip("onnx")
import ml_dtypes  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def identity(kind: Any, opset: int = 25, **fields: Any) -> graph.Model:
    """y = x of a type; a data type stands for a tensor of any shape."""
    if isinstance(kind, int):
        kind = helper.make_tensor_type_proto(kind, None)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_value_info("x", kind)],
            [helper.make_value_info("y", kind)],
            **fields,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    return graph.load(proto.SerializeToString())


NUMBERS = [t for t in TensorProto.DataType.values() if 0 < t <= 26 and t != TensorProto.STRING]


@pytest.mark.parametrize("data_type", NUMBERS, ids=TensorProto.DataType.Name)
def test_arrays_of_every_type_go_in_and_come_out(data_type: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    model = identity(data_type)
    assert model.inputs[0].dtype == dtype.name
    for x in (
        np.arange(6, dtype=np.float32).reshape(2, 3).astype(dtype),
        np.array(1, np.float32).astype(dtype),
        np.zeros((0, 3), dtype),
        np.arange(24, dtype=np.float32).reshape(4, 6).astype(dtype)[::2, ::-2],
    ):
        y = model.evaluate({"x": x})["y"]
        assert y.dtype == x.dtype
        assert y.shape == x.shape
        np.testing.assert_array_equal(y.astype(np.complex128), x.astype(np.complex128))


def test_text_goes_in_as_any_kind_of_array_and_comes_out_as_objects() -> None:
    model = identity(TensorProto.STRING)
    for x in (
        ["a", "\u00e4\u4e2d"],
        np.array(["a", "\u00e4\u4e2d"]),
        np.array(["a", b"\xc3\xa4\xe4\xb8\xad"], object),
    ):
        y = model.evaluate({"x": x})["y"]
        assert y.dtype == object
        assert y.tolist() == ["a", "\u00e4\u4e2d"]
    with pytest.raises(DTypeError, match=r"input 'x' must hold strings, got int"):
        model.evaluate({"x": np.array(["a", 1], object)})


def test_numbers_and_lists_get_the_type_of_the_input() -> None:
    model = identity(TensorProto.FLOAT)
    y = model.evaluate({"x": [[1, 2.5]]})["y"]
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [[1, 2.5]])
    assert model.evaluate({"x": 3})["y"].shape == ()
    with pytest.raises(DTypeError, match=r"input 'x' must be float32, got float64"):
        model.evaluate({"x": np.zeros(2)})


def test_sequences_are_lists_and_optionals_without_a_value_none() -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.INT64, None)
    model = identity(helper.make_sequence_type_proto(tensor))
    assert model.inputs[0].dtype == "sequence(int64)"
    found = model.evaluate({"x": [np.arange(3), [4, 5]]})["y"]
    assert [x.tolist() for x in found] == [[0, 1, 2], [4, 5]]
    assert model.evaluate({"x": []})["y"] == []
    with pytest.raises(DTypeError, match=r"input 'x' must be a list of arrays, got numpy\.ndarray"):
        model.evaluate({"x": np.arange(3)})
    model = identity(helper.make_optional_type_proto(tensor))
    assert model.inputs[0].dtype == "optional(int64)"
    np.testing.assert_array_equal(model.evaluate({"x": np.arange(3)})["y"], np.arange(3))
    assert model.evaluate({"x": None})["y"] is None


def test_arrays_of_other_frameworks_are_read() -> None:
    torch = pytest.importorskip("torch")
    model = identity(TensorProto.BFLOAT16)
    x = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    for given in (x, x.T):
        y = model.evaluate({"x": given})["y"]
        assert y.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(y.astype(np.float32), given.float().numpy())
    floats = identity(TensorProto.FLOAT)
    y = floats.evaluate({"x": memoryview(np.arange(3, dtype=np.float32))})["y"]
    np.testing.assert_array_equal(y, [0, 1, 2])


def test_writing_into_a_result_changes_nothing_else() -> None:
    x = np.arange(3, dtype=np.float32)
    model = identity(TensorProto.FLOAT)
    model.evaluate({"x": x})["y"][:] = 7
    np.testing.assert_array_equal(x, [0, 1, 2])
    weights = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["w"], ["y"])],
            "g",
            [],
            [helper.make_tensor_value_info("y", 1, [3])],
            [numpy_helper.from_array(x, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    model = graph.load(weights.SerializeToString())
    model.evaluate({})["y"][:] = 7
    np.testing.assert_array_equal(model.evaluate({})["y"], [0, 1, 2])


def test_results_live_on_when_all_else_is_gone() -> None:
    model = identity(TensorProto.FLOAT)
    y = model.evaluate({"x": np.arange(100_000, dtype=np.float32)})["y"]
    del model
    gc.collect()
    np.testing.assert_array_equal(y, np.arange(100_000))


def test_inputs_are_named_where_they_are_wrong() -> None:
    model = identity(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 3, None]))
    assert repr(model.inputs) == "[<x: float32('N', 3, None)>]"
    assert model.inputs[0].shape == ("N", 3, None)
    with pytest.raises(Error, match="every input must be given, what is missing is, got x"):
        model.evaluate({})
    with pytest.raises(Error, match="inputs must be ones that the model has, got z"):
        model.evaluate({"z": 1})
    with pytest.raises(Error, match=r"input 'x' must have the shape of the model, got \(2, 4, 5\)"):
        model.evaluate({"x": np.zeros((2, 4, 5), np.float32)})
    with pytest.raises(DTypeError, match="input 'x' must be an array, got object"):
        model.evaluate({"x": object()})
    with pytest.raises(DTypeError, match="input 'x' must have a dtype of ONNX, got datetime64"):
        model.evaluate({"x": np.zeros(3, "M8[s]")})
    with pytest.raises(Error, match="wanted values must be ones of the model, got z"):
        model.evaluate({"x": np.zeros((1, 3, 1), np.float32)}, ["z"])


def test_wanted_values_are_those_that_come_out() -> None:
    found = identity(TensorProto.FLOAT).evaluate({"x": [1.0]}, ["x", "y"])
    assert list(found) == ["x", "y"]
    np.testing.assert_array_equal(found["x"], [1])


def test_a_model_without_an_operator_says_which_it_lacks() -> None:
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Frobnicate", [], ["y"], domain="com.example")],
            "g",
            [],
            [helper.make_tensor_value_info("y", 1, None)],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)],
        ir_version=10,
    )
    model = graph.load(proto.SerializeToString())
    assert model.opsets == {"": 21, "com.example": 1}
    with pytest.raises(UnsupportedError, match=r"it lacks com\.example\.Frobnicate"):
        model.evaluate({})


def test_a_model_runs_in_several_threads_at_once() -> None:
    model = identity(TensorProto.FLOAT)
    wrong = []

    def work(seed: int) -> None:
        for i in range(50):
            x = np.full(1000, seed * 100 + i, np.float32)
            if not np.array_equal(model.evaluate({"x": x})["y"], x):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_path_that_is_no_model_is_an_os_error_or_a_format_error(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        graph.load(tmp_path / "nothing.onnx")
    with pytest.raises(IsADirectoryError):
        graph.load(tmp_path)
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    with pytest.raises(Error, match="the model must have one graph, got 0"):
        graph.load(empty)
    with pytest.raises(DTypeError, match="path_or_bytes must be a path or bytes"):
        graph.load(np.zeros(3))
