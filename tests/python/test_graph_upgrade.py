# SPDX-License-Identifier: Apache-2.0
"""A model in a newer opset computes what it did: by our loops, and by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moptcore import UnsupportedError, graph

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

X = np.random.default_rng(7).standard_normal((2, 3, 4, 6)).astype(np.float32)
IMAGE = X[:, :, :4, :4]


def model_of(
    opset: int,
    nodes: list[Any],
    inputs: dict[str, np.ndarray],
    weights: dict[str, np.ndarray] | None = None,
    outputs: int = 1,
    dtype: int = TensorProto.FLOAT,
    second: int = TensorProto.FLOAT,
) -> Any:
    """The nodes, whose last outputs are y0, y1 ..."""
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in inputs.items()
    ]
    tensors = [numpy_helper.from_array(w, name) for name, w in (weights or {}).items()]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "old",
            infos,
            [
                helper.make_tensor_value_info(f"y{i}", second if i == 1 else dtype, None)
                for i in range(outputs)
            ],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=4,
    )
    # The checker wants shapes of outputs; those of values between stay unknown.
    model = onnx.shape_inference.infer_shapes(model)
    del model.graph.value_info[:]
    return model


def one(op: str, *names: str, outputs: int = 1, **attributes: Any) -> list[Any]:
    outs = [f"y{i}" for i in range(outputs)]
    return [helper.make_node(op, ["x", *names], outs, **attributes)]


INT64 = TensorProto.INT64
CASES: dict[str, Callable[[], tuple[Any, dict[str, np.ndarray]]]] = {
    "Squeeze": lambda: (
        model_of(7, one("Squeeze", axes=[0, 2]), {"x": X[:1, :, :1]}),
        {"x": X[:1, :, :1]},
    ),
    "Squeeze of all": lambda: (model_of(11, one("Squeeze"), {"x": X[:1]}), {"x": X[:1]}),
    "Unsqueeze": lambda: (model_of(7, one("Unsqueeze", axes=[0, 3]), {"x": X}), {"x": X}),
    "ReduceSum": lambda: (
        model_of(7, one("ReduceSum", axes=[1, 3], keepdims=0), {"x": X}),
        {"x": X},
    ),
    "ReduceSum of all": lambda: (model_of(11, one("ReduceSum"), {"x": X}), {"x": X}),
    "ReduceMean": lambda: (model_of(7, one("ReduceMean", axes=[2]), {"x": X}), {"x": X}),
    "ReduceL2": lambda: (model_of(11, one("ReduceL2", axes=[-1], keepdims=0), {"x": X}), {"x": X}),
    "Split": lambda: (
        model_of(7, one("Split", outputs=2, axis=3, split=[2, 4]), {"x": X}, outputs=2),
        {"x": X},
    ),
    "Split in equal parts": lambda: (
        model_of(11, one("Split", outputs=3, axis=1), {"x": X}, outputs=3),
        {"x": X},
    ),
    "Clip": lambda: (model_of(7, one("Clip", min=-0.5, max=0.25), {"x": X}), {"x": X}),
    "Clip of one side": lambda: (model_of(10, one("Clip", max=0.25), {"x": X}), {"x": X}),
    "Clip of doubles": lambda: (
        model_of(10, one("Clip", min=0.0), {"x": X.astype(np.float64)}, dtype=TensorProto.DOUBLE),
        {"x": X.astype(np.float64)},
    ),
    "Pad": lambda: (
        model_of(7, one("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=1.5), {"x": X}),
        {"x": X},
    ),
    "Pad by reflection": lambda: (
        model_of(10, one("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect"), {"x": X}),
        {"x": X},
    ),
    "Dropout": lambda: (model_of(7, one("Dropout", ratio=0.3), {"x": X}), {"x": X}),
    "Upsample by an attribute": lambda: (
        model_of(7, one("Upsample", mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]), {"x": X}),
        {"x": X},
    ),
    "Upsample by an input": lambda: (
        model_of(
            9,
            one("Upsample", "s", mode="linear"),
            {"x": X},
            {"s": np.array([1, 1, 2, 2], np.float32)},
        ),
        {"x": X},
    ),
    "Resize": lambda: (
        model_of(
            10,
            one("Resize", "s", mode="nearest"),
            {"x": X},
            {"s": np.array([1, 1, 1.5, 0.5], np.float32)},
        ),
        {"x": X},
    ),
    "Resize by sizes": lambda: (
        model_of(
            11,
            one("Resize", "r", "e", "z", mode="linear"),
            {"x": X},
            {
                "r": np.array([], np.float32),
                "e": np.array([], np.float32),
                "z": np.array([2, 3, 5, 5], np.int64),
            },
        ),
        {"x": X},
    ),
    "Slice": lambda: (
        model_of(7, one("Slice", starts=[1, -3], ends=[2, 1000], axes=[1, 3]), {"x": X}),
        {"x": X},
    ),
    "Slice of the first axes": lambda: (
        model_of(9, one("Slice", starts=[0, 1], ends=[1, 3]), {"x": X}),
        {"x": X},
    ),
    "TopK": lambda: (
        model_of(7, one("TopK", outputs=2, k=3, axis=3), {"x": X}, outputs=2, second=INT64),
        {"x": X},
    ),
    "BatchNormalization": lambda: (
        model_of(
            7,
            one("BatchNormalization", "a", "b", "m", "v", epsilon=1e-3),
            {"x": X},
            {n: np.array([0.5, 1, 2], np.float32) for n in "abmv"},
        ),
        {"x": X},
    ),
    "Softmax": lambda: (model_of(7, one("Softmax"), {"x": X}), {"x": X}),
    "Softmax of the last axis": lambda: (model_of(11, one("Softmax", axis=3), {"x": X}), {"x": X}),
    "Softmax of rank 2": lambda: (model_of(9, one("Softmax"), {"x": X[0, 0]}), {"x": X[0, 0]}),
    "Softmax of unknown rank": lambda: (
        model_of(
            9,
            [
                helper.make_node("Identity", ["x"], ["t"]),
                helper.make_node("Softmax", ["t"], ["y0"], axis=2),
            ],
            {"x": X},
        ),
        {"x": X},
    ),
    "LogSoftmax": lambda: (model_of(11, one("LogSoftmax", axis=2), {"x": X}), {"x": X}),
    "Hardmax": lambda: (model_of(11, one("Hardmax", axis=1), {"x": X}), {"x": X}),
    "Scatter": lambda: (
        model_of(
            9,
            one("Scatter", "i", "u", axis=0),
            {"x": X[0, 0]},
            {"i": np.array([[1, 0]], np.int64), "u": np.array([[5, 6]], np.float32)},
        ),
        {"x": X[0, 0]},
    ),
    "Gemm": lambda: (
        model_of(
            7,
            one("Gemm", "w", "c", transB=1),
            {"x": X[0, 0]},
            {"w": X[0, 1], "c": np.ones(4, np.float32)},
        ),
        {"x": X[0, 0]},
    ),
    "OneHot": lambda: (
        model_of(
            9,
            [helper.make_node("OneHot", ["x", "d", "v"], ["y0"])],
            {"x": np.array([0, 2], np.int64)},
            {"d": np.array(3, np.int64), "v": np.array([0, 1], np.float32)},
        ),
        {"x": np.array([0, 2], np.int64)},
    ),
    "If": lambda: (
        model_of(
            10,
            [
                helper.make_node(
                    "If",
                    ["c"],
                    ["y0"],
                    then_branch=helper.make_graph(
                        [helper.make_node("Softmax", ["x"], ["t"])],
                        "then",
                        [],
                        [helper.make_tensor_value_info("t", 1, X.shape)],
                    ),
                    else_branch=helper.make_graph(
                        [helper.make_node("Clip", ["x"], ["e"], min=0.0)],
                        "else",
                        [],
                        [helper.make_tensor_value_info("e", 1, X.shape)],
                    ),
                )
            ],
            {"x": X},
            {"c": np.array(True)},
        ),
        {"x": X},
    ),
    "RoiAlign": lambda: (
        model_of(
            10,
            one("RoiAlign", "r", "i", output_height=2, output_width=2, sampling_ratio=2),
            {"x": IMAGE},
            {"r": np.array([[0, 0, 3, 3]], np.float32), "i": np.array([1], np.int64)},
        ),
        {"x": IMAGE},
    ),
    "GridSample": lambda: (
        model_of(
            16,
            one("GridSample", "g", mode="bilinear"),
            {"x": IMAGE},
            {"g": np.tanh(X[:, :1, :4, :2].transpose(0, 2, 1, 3)).copy()},
        ),
        {"x": IMAGE},
    ),
}


def by_onnx_runtime(model: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


UPGRADES = [
    (name, opset)
    for name in CASES
    for opset in (13, 18, 21, 28)
    if CASES[name]()[0].opset_import[0].version < opset
]


@pytest.mark.parametrize(("name", "opset"), UPGRADES)
def test_a_newer_opset_computes_the_same(name: str, opset: int) -> None:
    old, inputs = CASES[name]()
    loaded = graph.load(old.SerializeToString())
    new = loaded.to_bytes(opset=opset)
    message = onnx.ModelProto.FromString(new)
    onnx.checker.check_model(message, full_check=True)
    assert message.opset_import[0].version == opset
    # ONNX Runtime knows no later opset for sure, and had no old Clip of doubles.
    by_them = opset <= 21 and name != "Clip of doubles"
    if by_them:
        expected = by_onnx_runtime(old.SerializeToString(), inputs)
        for found, same in zip(by_onnx_runtime(new, inputs), expected, strict=True):
            np.testing.assert_allclose(found, same, rtol=1e-5, atol=1e-6)
    # Rounding: the same operations, but what is a sum over one axis was one over several.
    before = loaded.evaluate(inputs)
    after = graph.load(new).evaluate(inputs)
    for key in before:
        np.testing.assert_allclose(after[key], before[key], rtol=1e-6, atol=1e-7)
        assert after[key].shape == before[key].shape
    if by_them:
        for theirs, ours in zip(expected, before.values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_model_below_13_is_written_at_13_unless_its_own_opset_is_asked_for(
    tmp_path: Path,
) -> None:
    old, inputs = CASES["Gemm"]()
    (own,) = (each.version for each in old.opset_import)
    assert own < 13
    loaded = graph.load(old.SerializeToString())
    assert graph.load(loaded.to_bytes()).opsets[""] == 13
    loaded.save(tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == 13
    for expected, got in zip(
        loaded.evaluate(inputs).values(),
        graph.load(tmp_path / "m.onnx").evaluate(inputs).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)
    assert graph.load(loaded.to_bytes(opset=own)).opsets[""] == own
    for newer in (13, 18):
        kept = graph.load(loaded.to_bytes(opset=newer))
        assert graph.load(kept.to_bytes()).opsets[""] == newer


def test_what_cannot_be_written_at_13_can_be_at_its_own_opset() -> None:
    masked = graph.load(
        model_of(8, one("Dropout", outputs=2), {"x": X}, outputs=2).SerializeToString()
    )
    with pytest.raises(UnsupportedError, match=r"no mask.*; opset=8 writes the model as it is"):
        masked.to_bytes()
    assert graph.load(masked.to_bytes(opset=8)).opsets[""] == 8
    # A mask that nobody reads is left out.
    unread = graph.load(model_of(8, one("Dropout", outputs=2), {"x": X}).SerializeToString())
    newer = graph.load(unread.to_bytes())
    np.testing.assert_array_equal(newer.evaluate({"x": X})["y0"], X)


def test_there_is_no_way_back() -> None:
    old, _ = CASES["Gemm"]()
    loaded = graph.load(graph.load(old.SerializeToString()).to_bytes(opset=18))
    with pytest.raises(UnsupportedError, match="must not be below the model's, 18, got 17"):
        loaded.to_bytes(opset=17)
    for opset in (12, 29):
        with pytest.raises(UnsupportedError, match=r"opset must be in \[13, 28\]"):
            loaded.to_bytes(opset=opset)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (
            model_of(8, one("Dropout", outputs=2), {"x": X}, outputs=2),
            "Dropout '' must have no mask",
        ),
        (
            model_of(
                7,
                one("BatchNormalization", "a", "b", "m", "v", spatial=0),
                {"x": X},
                {n: np.ones((3, 4, 6), np.float32) for n in "abmv"},
            ),
            "BatchNormalization '' must be spatial",
        ),
    ],
    ids=["mask", "spatial"],
)
def test_what_has_no_equal_is_refused_by_name(model: Any, rule: str) -> None:
    with pytest.raises(UnsupportedError, match=rule):
        graph.load(model.SerializeToString()).to_bytes(opset=13)
