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
    with pytest.raises(mc.DTypeError, match=r"^\[torch.to_graph\] model must be a torch.nn.Module"):
        mct.to_graph("model", torch.randn(1, 3, 8, 8))
    with pytest.raises(mc.Error, match=r"^\[torch.to_graph\] opset must be in \[13, 21\], got 5"):
        mct.to_graph(network(), torch.randn(1, 3, 8, 8), opset=5)


class Pyramid(nn.Module):
    """Halves an image twice and joins what it was: height and width are multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.third = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(image))
        return torch.cat([x, self.up(self.third(torch.relu(self.second(x))))], 1)


def compared(graph: mc.graph.Model, model: nn.Module, *inputs: torch.Tensor) -> None:
    named = {i.name: x.numpy() for i, x in zip(graph.inputs, inputs, strict=True)}
    (got,) = graph.evaluate(named).values()
    with torch.no_grad():
        expected = model(*inputs).numpy()
    # Float32 sums of at most 128 products in another order.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_height_and_width_can_be_free() -> None:
    torch.manual_seed(2)
    model = Pyramid().eval()
    graph = mct.to_graph(
        model,
        torch.randn(1, 3, 16, 16),
        dynamic_axes={"image": {0: "n", 2: "h", -1: "w"}, "output": {0: "n"}},
    )
    assert graph.inputs[0].shape == ("n", 3, "h", "w")
    assert graph.outputs[0].shape[:2] == ("n", 8)
    for shape in ((1, 3, 16, 16), (2, 3, 24, 40), (3, 3, 4, 100)):
        compared(graph, model, torch.randn(shape))


def test_a_sequence_can_be_free_in_two_inputs_through_torch_onnx() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)

        def forward(self, words: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
            return self.layer(words + more)

    torch.manual_seed(3)
    model = Attention().eval()
    axes = {name: {0: "n", 1: "length"} for name in ("words", "more")}
    example = (torch.randn(2, 5, 16), torch.randn(2, 5, 16))
    graph = mct.to_graph(model, example, opset=18, dynamic_axes=axes)
    assert [info.shape for info in graph.inputs] == [("n", "length", 16)] * 2
    for batch, length in ((1, 5), (3, 11), (2, 2)):
        compared(graph, model, torch.randn(batch, length, 16), torch.randn(batch, length, 16))


def test_an_axis_that_the_export_does_not_follow_is_refused() -> None:
    class Loop(nn.Module):
        def forward(self, words: torch.Tensor) -> torch.Tensor:
            total = torch.zeros_like(words[:, 0])
            for step in range(words.shape[1]):
                total = torch.tanh(total + words[:, step])
            return total

    with pytest.raises(mc.Error, match=r"^\[torch.to_graph\]"):
        mct.to_graph(Loop(), torch.randn(2, 5, 3), dynamic_axes={"words": {0: "n", 1: "length"}})
    with pytest.raises(
        mc.Error, match="one name must have one extent in the example, got 16 and 8"
    ):
        mct.to_graph(
            Pyramid(), torch.randn(1, 3, 16, 8), dynamic_axes={"image": {2: "side", 3: "side"}}
        )
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(mc.Error, match="takes other sizes than the example, got h: "):
        mct.to_graph(flat, torch.randn(1, 3, 2, 2), dynamic_axes={"input": {2: "h"}})
