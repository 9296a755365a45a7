# SPDX-License-Identifier: Apache-2.0
"""Modules as graphs in memory."""

from __future__ import annotations

import moptcore as mc
import moptcore.torch as mct
import numpy as np
import onnx
import pytest
import torch
from torch import nn


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 5),
    )
    return model.eval()


def test_the_graph_computes_what_the_module_does_for_any_batch() -> None:
    model = network()
    graph = mct.to_graph(model, torch.randn(1, 3, 8, 8))
    for batch in (1, 4):
        x = torch.randn(batch, 3, 8, 8)
        (got,) = graph.evaluate({graph.inputs[0].name: x.numpy()}).values()
        with torch.no_grad():
            expected = model(x).numpy()
        # Float32 sums of at most 128 products in another order: 128 * 2^-24 of the terms at worst.
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_an_attention_block_goes_through_torch_onnx() -> None:
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    x = torch.randn(2, 5, 16)
    graph = mct.to_graph(layer, x, opset=18)
    (got,) = graph.evaluate({graph.inputs[0].name: x.numpy()}).values()
    with torch.no_grad():
        expected = layer(x).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_quantized_module_becomes_the_graph_of_its_file(tmp_path) -> None:
    model = mct.prepare_qat(network(), torch.randn(4, 3, 8, 8), scheme="int8")
    model(torch.randn(16, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    graph = mct.to_graph(model, x)
    path = mct.export_onnx(model, x, tmp_path / "m.onnx")
    (memory,) = graph.evaluate({graph.inputs[0].name: x.numpy()}).values()
    (disk,) = mc.graph.load(path).evaluate({graph.inputs[0].name: x.numpy()}).values()
    np.testing.assert_array_equal(memory, disk)


def test_the_graph_can_be_saved_and_read_by_onnx(tmp_path) -> None:
    graph = mct.to_graph(network(), torch.randn(1, 3, 8, 8))
    path = tmp_path / "m.onnx"
    graph.save(path)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_arguments_are_refused_as_export_onnx_refuses_them() -> None:
    with pytest.raises(mc.DTypeError, match=r"model must be a torch.nn.Module, got str"):
        mct.to_graph("model", torch.randn(1, 3, 8, 8))
    with pytest.raises(mc.Error, match=r"opset must be in \[13, 21\], got 5"):
        mct.to_graph(network(), torch.randn(1, 3, 8, 8), opset=5)
