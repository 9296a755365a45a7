# SPDX-License-Identifier: Apache-2.0
"""Operators of ai.onnx.ml against the reference implementation of the onnx package."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from moptcore import graph
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

RANDOM = np.random.default_rng(7)
MATRIX = RANDOM.standard_normal((17, 4)).astype(np.float32)


def model_of(op: str, inputs: list[np.ndarray], outputs: int, **attributes: Any) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(inputs))]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain="ai.onnx.ml", **attributes)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, inputs, strict=True)
    ]
    # The types of outputs are not looked at.
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in results]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(
        helper.make_graph([node], "g", infos, out), opset_imports=opsets, ir_version=10
    )


def forest(trees: int, depth: int) -> dict[str, Any]:
    """Complete trees with random splits, in the arrays that every ensemble of ONNX shares."""
    inner = 2**depth - 1
    nodes: dict[str, list[Any]] = {
        key: []
        for key in (
            "treeids",
            "nodeids",
            "modes",
            "featureids",
            "values",
            "truenodeids",
            "falsenodeids",
            "missing_value_tracks_true",
        )
    }
    for tree in range(trees):
        for node in range(2 * inner + 1):
            leaf = node >= inner
            nodes["treeids"].append(tree)
            nodes["nodeids"].append(node)
            modes = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"]
            nodes["modes"].append("LEAF" if leaf else modes[node % 4])
            nodes["featureids"].append(0 if leaf else int(RANDOM.integers(4)))
            nodes["values"].append(0.0 if leaf else float(RANDOM.standard_normal()))
            nodes["truenodeids"].append(0 if leaf else 2 * node + 1)
            nodes["falsenodeids"].append(0 if leaf else 2 * node + 2)
            nodes["missing_value_tracks_true"].append(node % 2)
    return {f"nodes_{key}": value for key, value in nodes.items()}


def votes(prefix: str, trees: int, depth: int, targets: int) -> dict[str, Any]:
    inner = 2**depth - 1
    leaves = [(t, inner + i) for t in range(trees) for i in range(inner + 1)]
    return {
        f"{prefix}_treeids": [t for t, _ in leaves for _ in range(targets)],
        f"{prefix}_nodeids": [n for _, n in leaves for _ in range(targets)],
        f"{prefix}_ids": [k for _ in leaves for k in range(targets)],
        f"{prefix}_weights": RANDOM.random(len(leaves) * targets).astype(np.float32).tolist(),
    }


CASES: dict[str, tuple[str, list[np.ndarray], int, dict[str, Any]]] = {
    "scaler": ("Scaler", [MATRIX], 1, {"offset": [1.0, 2.0, 3.0, 4.0], "scale": [2.0] * 4}),
    "normalizer-max": ("Normalizer", [np.abs(MATRIX)], 1, {"norm": "MAX"}),
    "normalizer-l1": ("Normalizer", [MATRIX], 1, {"norm": "L1"}),
    "normalizer-l2": ("Normalizer", [MATRIX], 1, {"norm": "L2"}),
    "binarizer": ("Binarizer", [MATRIX], 1, {"threshold": 0.25}),
    "one-hot": ("OneHotEncoder", [np.array([[3, 5], [9, 3]])], 1, {"cats_int64s": [3, 4, 5]}),
    "imputer": (
        "Imputer",
        [np.where(MATRIX > 0, np.float32(np.nan), MATRIX)],
        1,
        {"imputed_value_floats": [1.0, 2.0, 3.0, 4.0], "replaced_value_float": float("nan")},
    ),
    "features": ("FeatureVectorizer", [MATRIX, MATRIX[:, :2]], 1, {"inputdimensions": [3, 4]}),
    "columns": ("ArrayFeatureExtractor", [MATRIX, np.array([[3, 0, 0]])], 1, {}),
    "linear-regressor": (
        "LinearRegressor",
        [MATRIX],
        1,
        {"coefficients": RANDOM.random(8).tolist(), "intercepts": [1.0, 2.0], "targets": 2},
    ),
    "regressor": (
        "TreeEnsembleRegressor",
        [MATRIX],
        1,
        {"n_targets": 1, **forest(1, 3), **votes("target", 1, 3, 1)},
    ),
}
for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"):
    for count in (2, 3):
        weights = RANDOM.random(4 * (1 if count == 2 else count)) / 8
        if transform == "PROBIT" and count == 2:
            # A score and its negative cannot both be likelihoods.
            continue
        CASES[f"linear-classifier-{count}-{transform}"] = (
            "LinearClassifier",
            [np.abs(MATRIX) / 4],
            2,
            {
                "coefficients": weights.tolist(),
                "intercepts": [0.01] * (1 if count == 2 else count),
                "classlabels_ints": list(range(5, 5 + count)),
                "post_transform": transform,
            },
        )


@pytest.mark.parametrize("name", CASES)
def test_classical_operators_agree_with_the_reference_of_onnx(name: str) -> None:
    op, inputs, outputs, attributes = CASES[name]
    model = model_of(op, inputs, outputs, **attributes)
    feed = {f"x{i}": x for i, x in enumerate(inputs)}
    expected = ReferenceEvaluator(model).run(None, feed)
    got = graph.load(model.SerializeToString()).evaluate(feed)
    for i, truth in enumerate(expected):
        found = got[f"y{i}"]
        assert found.shape == truth.shape
        # The reference sums and divides in float32: a few roundings of 2^-24, of sums of up to
        # eight numbers and of exponentials of them.
        np.testing.assert_allclose(found, truth, rtol=2e-6, atol=1e-7)


def leaf_of(nodes: dict[str, Any], tree: int, row: np.ndarray) -> int:
    places = {
        (t, n): i
        for i, (t, n) in enumerate(zip(nodes["nodes_treeids"], nodes["nodes_nodeids"], strict=True))
    }
    compare = {
        "BRANCH_LEQ": np.less_equal,
        "BRANCH_LT": np.less,
        "BRANCH_GTE": np.greater_equal,
        "BRANCH_GT": np.greater,
    }
    at = places[tree, 0]
    while nodes["nodes_modes"][at] != "LEAF":
        x = row[nodes["nodes_featureids"][at]]
        yes = compare[nodes["nodes_modes"][at]](x, np.float32(nodes["nodes_values"][at]))
        if np.isnan(x):
            yes = nodes["nodes_missing_value_tracks_true"][at] != 0
        child = nodes["nodes_truenodeids" if yes else "nodes_falsenodeids"][at]
        at = places[tree, child]
    return int(nodes["nodes_nodeids"][at])


@pytest.mark.parametrize("targets", [1, 3])
def test_forests_add_up_the_leaves_that_a_walk_by_hand_finds(targets: int) -> None:
    # By hand, for onnx's own reference mixes up the leaves of several trees.
    nodes, weights = forest(5, 3), votes("target", 5, 3, targets)
    x = MATRIX.copy()
    x[::3, 1] = np.nan
    model = model_of("TreeEnsembleRegressor", [x], 1, n_targets=targets, **nodes, **weights)
    got = graph.load(model.SerializeToString()).evaluate({"x0": x})["y0"]
    expected = np.zeros((len(x), targets))
    for i, row in enumerate(x):
        for tree in range(5):
            leaf = leaf_of(nodes, tree, row)
            for t, n, k, w in zip(
                weights["target_treeids"],
                weights["target_nodeids"],
                weights["target_ids"],
                weights["target_weights"],
                strict=True,
            ):
                if (t, n) == (tree, leaf):
                    expected[i, k] += np.float32(w)
    # One rounding to float32 of sums of at most five numbers below 1.
    np.testing.assert_allclose(got, expected, rtol=6e-8, atol=0)
