# SPDX-License-Identifier: Apache-2.0
"""Models as ONNX describes them: read, run by plain loops, and made without some channels.

    model = graph.load("model.onnx")
    outputs = model.evaluate({"input": x})
    smaller = graph.remove_channels(model, graph.choose_channels(model, sparsity=0.5))

The loops are what every faster way of running a model is compared with.
"""

from __future__ import annotations

from moptcore._core.graph import (
    ChannelGroup,
    ChannelMember,
    ChannelRecipe,
    Model,
    ModelCost,
    NodeCost,
    OptimizeReport,
    ValueInfo,
    Verification,
    channel_groups,
    channel_scores,
    choose_channels,
    count,
    fingerprint,
    infer_types,
    load,
    mask_channels,
    optimize,
    pass_names,
    random_inputs,
    remove_channels,
    types,
    verify_equal,
)

__all__ = [
    "ChannelGroup",
    "ChannelMember",
    "ChannelRecipe",
    "Model",
    "ModelCost",
    "NodeCost",
    "OptimizeReport",
    "ValueInfo",
    "Verification",
    "channel_groups",
    "channel_scores",
    "choose_channels",
    "count",
    "fingerprint",
    "infer_types",
    "load",
    "mask_channels",
    "optimize",
    "pass_names",
    "random_inputs",
    "remove_channels",
    "types",
    "verify_equal",
]
