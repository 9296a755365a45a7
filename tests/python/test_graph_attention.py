# SPDX-License-Identifier: Apache-2.0
"""Attention as torch writes it into ONNX, made one operator again."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from moptcore import graph

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from torch import nn  # noqa: E402


class Product(nn.Module):
    """scaled_dot_product_attention of queries, keys and values."""

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Masked(nn.Module):
    def forward(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Written(nn.Module):
    """Attention over heads as it is written by hand, with a residual."""

    def __init__(self, divide: bool) -> None:
        super().__init__()
        self.divide = divide
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))

    def heads(self, x: Any) -> Any:
        return x.view(x.shape[0], x.shape[1], 4, 8).transpose(1, 2)

    def forward(self, x: Any) -> Any:
        q, k, v = (self.heads(each(x)) for each in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2)
        scores = scores / 8**0.5 if self.divide else scores * 8**-0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        return x + self.o(mixed)


class Heads(Written):
    """The same by scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__(False)

    def forward(self, x: Any) -> Any:
        q, k, v = (self.heads(each(x)) for each in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.o(mixed.transpose(1, 2).reshape(x.shape))


def four(*last: int) -> tuple[Any, ...]:
    return tuple(torch.randn(2, 4, 5, 8) for _ in range(3)) + tuple(torch.randn(n) for n in last)


def exported(model: nn.Module, inputs: tuple[Any, ...], dynamo: bool, opset: int) -> graph.Model:
    names = [f"x{i}" for i in range(len(inputs))]
    # Four axes of heads, three of rows, two of a mask: the axes of the batch and of the sequence.
    free = [
        {4: {0: "n", 2: "s"}, 3: {0: "n", 1: "s"}, 2: {0: "s", 1: "s"}}[x.dim()] for x in inputs
    ]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript")
            shapes = tuple(dict.fromkeys(each, torch.export.Dim.DYNAMIC) for each in free)
            program = torch.onnx.export(
                model.eval(),
                inputs,
                dynamo=True,
                dynamic_shapes=shapes,
                opset_version=opset,
                input_names=names,
                verbose=False,
            )
            return graph.load(program.model_proto.SerializeToString())
        torch.onnx.export(
            model.eval(),
            inputs,
            file,
            input_names=names,
            dynamic_axes=dict(zip(names, free, strict=True)),
            opset_version=opset,
            dynamo=False,
        )
    return graph.load(file.getvalue())


@pytest.mark.parametrize(
    ("model", "inputs", "dynamo", "opset"),
    [
        (Product(), four(), False, 17),
        (Masked(), (*four(), torch.randn(5, 5)), False, 17),
        (Written(True), (torch.randn(2, 5, 32),), False, 17),
        (Written(False), (torch.randn(2, 5, 32),), False, 13),
        (Heads(), (torch.randn(2, 5, 32),), False, 17),
        (Heads(), (torch.randn(2, 5, 32),), True, 20),
        (Written(True), (torch.randn(2, 5, 32),), True, 20),
        (Masked(), (*four(), torch.randn(5, 5)), True, 20),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, nn.Module) else None,
)
def test_attention_of_torch_becomes_one_operator(
    model: nn.Module, inputs: tuple[Any, ...], dynamo: bool, opset: int
) -> None:
    plain = exported(model, inputs, dynamo, opset)
    fused, report = graph.optimize(plain, attention=True, verify=True)
    assert report.passes["fuse_attention"] == 1
    assert report.verification.ran
    assert fused.opsets[""] == 23
    names = [node.op_type for node in graph.count(fused).nodes]
    assert names.count("Attention") == 1
    assert "Softmax" not in names
    named = {f"x{i}": x.numpy() for i, x in enumerate(inputs)}
    (got,) = fused.evaluate(named).values()
    with torch.no_grad():
        expected = model(*inputs).numpy()
    # Float32 sums of at most 32 products in another order, and a softmax.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
