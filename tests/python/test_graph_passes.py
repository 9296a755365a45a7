# SPDX-License-Identifier: Apache-2.0
"""Types of ONNX's own cases and networks, and networks before and after rewriting."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import moptcore as mc
import numpy as np
import pytest
from moptcore import graph

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, shape_inference  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
ASSETS = Path(os.environ.get("MOPTCORE_ASSETS", "assets"))
REAL = {
    "magika": "magika/models/standard_v3_3/model.onnx",
    "cls": "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "det": "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
    "rec": "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
}


def stripped(model: Any) -> Any:
    """The model without what it says of the shapes of its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for output in copy.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    return copy


def is_complete(shape: Any) -> bool:
    return shape is not None and all(isinstance(extent, int) for extent in shape)


def shapes_of_onnx(model: Any) -> dict[str, Any]:
    try:
        inferred = shape_inference.infer_shapes(model, True, True, True)
    except shape_inference.InferenceError:
        return {}
    shapes = {}
    for value in inferred.graph.output:
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim
            )
    return shapes


def contradicts(inferred: Any, shape: tuple[int, ...]) -> bool:
    """True where a known extent is not that of the tensor."""
    if inferred is None:
        return False
    if len(inferred) != len(shape):
        return True
    return any(isinstance(a, int) and a != b for a, b in zip(inferred, shape, strict=True))


# ONNX makes its cases by overflows and divisions by zero.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_types_of_onnx_cases_are_never_wrong_and_as_complete_as_onnx_finds_them() -> None:
    counts: Counter[str] = Counter()
    wrong = []
    less = set()
    for case in load_model_tests(kind="node"):
        model = stripped(case.model)
        try:
            loaded = graph.load(model.SerializeToString())
        except mc.UnsupportedError:
            counts["not read"] += 1
            continue
        ours = graph.types(graph.infer_types(loaded))
        theirs = shapes_of_onnx(model)
        for output, value in zip(model.graph.output, case.data_sets[0][1], strict=True):
            if not output.type.HasField("tensor_type") or value is None or isinstance(value, list):
                continue
            if isinstance(value, TensorProto):
                dtype = helper.tensor_dtype_to_np_dtype(value.data_type)
                shape = tuple(value.dims)
            else:
                dtype, shape = np.asarray(value).dtype, np.asarray(value).shape
            info = ours.get(output.name)
            found = info.shape if info is not None else None
            counts["outputs"] += 1
            counts["ours"] += is_complete(found)
            counts["theirs"] += is_complete(theirs.get(output.name))
            if contradicts(found, shape):
                wrong.append((case.name, found, shape))
            if info is not None and info.dtype not in ("unknown", "string", dtype.name):
                wrong.append((case.name, info.dtype, dtype.name))
            if is_complete(theirs.get(output.name)) and not is_complete(found):
                less.add(case.name)
    assert not wrong
    # Scan of opset 8 alone, which has a batch axis of its own, is left unknown.
    assert less <= {"test_scan_sum"}
    assert counts["outputs"] > 1800
    assert counts["ours"] >= counts["theirs"]
    assert counts["not read"] <= 5


def light_networks() -> list[str]:
    return sorted(path.stem for path in LIGHT.glob("*.onnx"))


@pytest.mark.parametrize("name", light_networks())
def test_a_classic_network_keeps_its_types_and_outputs(name: str) -> None:
    model = graph.load(LIGHT / f"{name}.onnx")
    typed = graph.infer_types(model)
    for output in model.outputs:
        found = graph.types(typed)[output.name]
        assert (found.dtype, found.shape) == (output.dtype, output.shape)


def check_real(name: str, shape: tuple[int, ...]) -> None:
    path = REAL[name]
    if not (ASSETS / path).exists():
        pytest.skip(f"needs the folder MOPTCORE_ASSETS with {path}")
    model = graph.load(ASSETS / path)
    (given,) = model.inputs
    rng = np.random.default_rng(0)
    if given.dtype == "float32":
        x: Any = rng.uniform(-1, 1, shape).astype(np.float32)
    else:
        x = rng.integers(0, 256, shape).astype(given.dtype)
    symbolic = graph.types(graph.infer_types(model))
    pinned = graph.types(graph.infer_types(model, {given.name: shape}))
    names = [info for info in pinned if info != given.name]
    values = model.evaluate({given.name: x}, names)
    symbols = dict(zip(symbolic[given.name].shape, shape, strict=True))
    complete = 0
    for value_name in names:
        array = values[value_name]
        assert pinned[value_name].dtype == array.dtype.name
        assert not contradicts(pinned[value_name].shape, array.shape)
        assert not contradicts(symbolic[value_name].shape, array.shape)
        complete += is_complete(pinned[value_name].shape)
        for extent, real in zip(symbolic[value_name].shape or (), array.shape, strict=True):
            if isinstance(extent, str):
                # Equal symbols are equal extents, everywhere in the model.
                assert symbols.setdefault(extent, real) == real
    assert complete == len(names)
    before = model.evaluate({given.name: x})
    for single in [*graph.pass_names(), None]:
        rewritten, report = graph.optimize(model, only=[single] if single else [])
        after = rewritten.evaluate({given.name: x})
        for output, array in before.items():
            # Refolded weights are rounded once more: 2^-24 of each, through some sixty layers.
            scale = np.abs(array).max()
            np.testing.assert_allclose(after[output], array, rtol=0, atol=1e-5 * scale)
        assert report.nodes_after <= report.nodes_before


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("magika", (2, 2048)),
        ("cls", (1, 3, 48, 192)),
        ("det", (1, 3, 64, 96)),
        ("rec", (1, 3, 48, 64)),
    ],
)
def test_a_real_network_keeps_types_and_outputs(name: str, shape: tuple[int, ...]) -> None:
    check_real(name, shape)


def test_optimize_verifies_and_reports_what_it_did() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["x"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y]))
    model = graph.load(proto.SerializeToString())
    rewritten, report = graph.optimize(model, verify=True)
    assert report.passes["remove_identities"] == 1
    assert report.passes["merge_duplicates"] == 1
    assert (report.nodes_before, report.nodes_after) == (4, 2)
    assert report.verification.ran
    assert report.verification.difference == 0.0
    assert graph.types(rewritten)["y"].shape == ("n", 3)
    with pytest.raises(mc.Error, match="only must name passes"):
        graph.optimize(model, only=["magic"])


def test_infer_types_names_the_node_that_contradicts_itself() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    add = helper.make_node("Add", ["x", "z"], ["y"], name="total")
    proto = helper.make_model(helper.make_graph([add], "g", [x, z], [y]))
    model = graph.load(proto.SerializeToString())
    with pytest.raises(mc.FormatError, match="Add 'total' inputs must broadcast, got 3 and 5"):
        graph.infer_types(model)


def test_count_gives_parameters_and_multiplications() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    w = onnx.numpy_helper.from_array(np.ones((3, 5), np.float32), "w")
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="head")
    proto = helper.make_model(helper.make_graph([product], "g", [x], [y], [w]))
    model = graph.load(proto.SerializeToString())
    open_cost = graph.count(model)
    assert (open_cost.parameters, open_cost.complete, open_cost.nodes[0].macs) == (15, False, None)
    cost = graph.count(model, {"x": (7, 3)})
    assert (cost.macs, cost.activation_bytes, cost.complete) == (7 * 3 * 5, 7 * 5 * 4, True)
    assert "head" in str(cost)


def test_weights_in_constant_nodes_are_parameters() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    w = onnx.numpy_helper.from_array(np.ones((3, 5), np.float32))
    shape = onnx.numpy_helper.from_array(np.array([-1], np.int64))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=w),
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("MatMul", ["x", "w"], ["z2"]),
        helper.make_node("Add", ["z", "z2"], ["z3"]),
        helper.make_node("Reshape", ["z3", "shape"], ["y"]),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y]))
    cost = graph.count(graph.load(proto.SerializeToString()))
    assert (cost.parameters, cost.parameter_bytes) == (15, 60)
    assert [node.parameters for node in cost.nodes] == [0, 0, 15, 0, 0, 0]


def test_a_sum_without_unknown_extents_is_marked() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yv"]
    w = onnx.numpy_helper.from_array(np.ones((3, 5), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["z", "w"], ["v"]),
    ]
    one = helper.make_model(helper.make_graph(nodes[:1], "g", [x], outputs[:1], [w]))
    two = helper.make_model(helper.make_graph(nodes, "g", [x, z], outputs, [w]))

    def sums(text: str) -> str:
        return next(line for line in text.splitlines() if line.startswith("all"))

    assert sums(graph.load(one.SerializeToString()).summary()).split() == [
        *["all", "1", "nodes", "15", "?", "?"]
    ]
    text = graph.load(two.SerializeToString()).summary()
    assert sums(text).split() == ["all", "2", "nodes", "15", "30", "+", "?", "40", "+", "?"]
    assert "unknown extents" in text.splitlines()[-1]
    known = str(graph.count(graph.load(two.SerializeToString()), {"x": (7, 3)}))
    assert "?" not in known


def halving(size: int) -> graph.Model:
    """Halves height and width, doubles them and adds what was: multiples of `size` only."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    scales = onnx.numpy_helper.from_array(np.array([1, 1, size, size], np.float32), "scales")
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a"], kernel_shape=[size, size], strides=[size, size]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Resize", ["b", "", "scales"], ["c"], mode="nearest"),
        helper.make_node("Add", ["c", "x"], ["y"], name="joined"),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [scales]))
    return graph.load(proto.SerializeToString())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [16, 32, 48])
def test_verification_finds_an_extent_at_which_the_model_runs(size: int) -> None:
    _, report = graph.optimize(halving(size), verify=True)
    assert report.passes["remove_identities"] == 1
    assert report.verification.ran
    assert report.verification.output == "y"


def test_a_model_that_could_not_be_verified_is_a_warning() -> None:
    model = halving(50)
    with pytest.warns(UserWarning, match=r"\[graph.optimize\] nothing was verified.*'a'"):
        _, report = graph.optimize(model, verify=True)
    assert not report.verification.ran
    with pytest.warns(UserWarning, match=r"\[graph.verify_equal\] nothing was verified"):
        graph.verify_equal(model, model, extent=16)
    assert graph.verify_equal(model, model, extent=100).ran
    with pytest.raises(mc.Error, match="extent must be at least 1, got 0"):
        graph.optimize(model, verify=True, extent=0)


@pytest.mark.parametrize("named", [True, False])
def test_an_error_of_an_operator_names_the_node(named: bool) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    shape = onnx.numpy_helper.from_array(np.array([2, 2], np.int64), "shape")
    nodes = [
        helper.make_node("Relu", ["x"], ["z"]),
        helper.make_node("Reshape", ["z", "shape"], ["y"], name="head/reshape" if named else ""),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [shape]))
    at = r"\(node 'head/reshape'\)$" if named else r"\(node 'y'\)$"
    with pytest.raises(mc.Error, match=at):
        graph.load(proto.SerializeToString()).evaluate({"x": np.zeros(3, np.float32)})
    session = pytest.importorskip("moptcore.runtime").Session(proto.SerializeToString())
    with pytest.raises(mc.Error, match=at):
        session.run({"x": np.zeros(3, np.float32)})


def test_an_error_in_a_subgraph_names_the_innermost_node_only() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    shape = onnx.numpy_helper.from_array(np.array([2, 2], np.int64), "shape")
    inner = helper.make_node("Reshape", ["x", "shape"], ["z"], name="inner")
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    body = helper.make_graph([inner], "body", [], [z], [shape])
    node = helper.make_node("If", ["c"], ["y"], name="outer", then_branch=body, else_branch=body)
    proto = helper.make_model(helper.make_graph([node], "g", [c, x], [y]))
    values = {"x": np.zeros(3, np.float32), "c": np.array(True)}
    with pytest.raises(mc.Error, match=r"\(node 'inner'\)$") as caught:
        graph.load(proto.SerializeToString()).evaluate(values)
    assert "outer" not in str(caught.value)


def test_a_proto_is_refused_with_what_to_pass_instead() -> None:
    runtime = pytest.importorskip("moptcore.runtime")
    for door in (graph.load, runtime.Session):
        with pytest.raises(mc.DTypeError, match=r"model.SerializeToString\(\), got ModelProto"):
            door(onnx.ModelProto())
