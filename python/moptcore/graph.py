# SPDX-License-Identifier: Apache-2.0
"""Models as ONNX describes them: read, and run by plain loops.

    model = graph.load("model.onnx")
    outputs = model.evaluate({"input": x})

The loops are what every faster way of running a model is compared with.
"""

from __future__ import annotations

from moptcore._core.graph import Model, ValueInfo, load

__all__ = ["Model", "ValueInfo", "load"]
