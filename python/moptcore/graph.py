# SPDX-License-Identifier: Apache-2.0
"""Models as ONNX describes them: read, and run by plain loops.

    model = graph.load("model.onnx")
    outputs = model.evaluate({"input": x})

The loops are what every faster way of running a model is compared with.
"""

from __future__ import annotations

from moptcore._core.graph import (
    Model,
    ModelCost,
    NodeCost,
    OptimizeReport,
    ValueInfo,
    Verification,
    count,
    infer_types,
    load,
    optimize,
    pass_names,
    random_inputs,
    types,
    verify_equal,
)

__all__ = [
    "Model",
    "ModelCost",
    "NodeCost",
    "OptimizeReport",
    "ValueInfo",
    "Verification",
    "count",
    "infer_types",
    "load",
    "optimize",
    "pass_names",
    "random_inputs",
    "types",
    "verify_equal",
]
