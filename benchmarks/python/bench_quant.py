# SPDX-License-Identifier: Apache-2.0
"""Fake quantization, forward and backward, against PyTorch and one copy of the same memory.

    python benchmarks/python/bench_quant.py [elements ...]

Per tensor and per channel, float32 and bfloat16, plain and with a scale that is learned; for
float32 also quantize and dequantize by oneDNN's reorder beside ours.
"""

from __future__ import annotations

import sys

import moptcore as mc
import torch
from harness import interleave, show
from peers import pytorch

SCALE, ZERO_POINT = 0.03125, 3  # a power of two: dividing and multiplying by 1/scale agree
CHANNELS = 256


def forward(x: torch.Tensor, title: str) -> None:
    one, rows = grids(x)
    columns = mc.quant.QParams(torch.full((x.shape[1],), SCALE).numpy(), 0, "int8", axis=1)
    out = torch.empty_like(x)
    scales, zeros = torch.full((CHANNELS,), SCALE), torch.zeros(CHANNELS, dtype=torch.int32)

    def theirs_along() -> torch.Tensor:
        return torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, -128, 127)

    expected = pytorch.fake_quantize(x, SCALE, ZERO_POINT)
    assert torch.equal(mc.quant.fake_quantize(x, one, out=out), expected)
    assert torch.equal(mc.quant.fake_quantize(x, rows, out=out), theirs_along())
    timings = interleave(
        {
            "one pass: copy_ into the same output": lambda: out.copy_(x),
            "moptcore per tensor (out=)": lambda: mc.quant.fake_quantize(x, one, out=out),
            "moptcore per tensor, new output": lambda: mc.quant.fake_quantize(x, one),
            "moptcore along axis 0 (out=)": lambda: mc.quant.fake_quantize(x, rows, out=out),
            "moptcore along axis 1 (out=)": lambda: mc.quant.fake_quantize(x, columns, out=out),
            "torch.fake_quantize_per_tensor_affine": lambda: pytorch.fake_quantize(
                x, SCALE, ZERO_POINT
            ),
            "torch.fake_quantize_per_channel_affine": theirs_along,
        }
    )
    show(f"fake-quantize forward, {title}", timings, "moptcore per tensor (out=)")


def forward_and_backward(x: torch.Tensor, title: str) -> None:
    one, rows = grids(x)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    out, gradient = torch.empty_like(x), torch.empty_like(x)
    bits = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
    leaf = x.clone().requires_grad_()
    scales, zeros = torch.full((CHANNELS,), SCALE), torch.zeros(CHANNELS, dtype=torch.int32)
    step = torch.tensor(SCALE)
    learned = torch.tensor([SCALE], requires_grad=True)

    def ours(params: mc.quant.QParams) -> torch.Tensor:
        mc.quant.fake_quantize(x, params, out=out, bits=bits)
        return mc.quant.fake_quantize_backward(upstream, bits, out=gradient)

    def ours_learned() -> torch.Tensor:
        mc.quant.lsq(x, step, out=out)
        return mc.quant.lsq_backward(upstream, x, step, out=gradient)[1]

    def theirs(along: bool) -> torch.Tensor:
        leaf.grad = None
        if along:
            y = torch.fake_quantize_per_channel_affine(leaf, scales, zeros, 0, -128, 127)
        else:
            y = pytorch.fake_quantize(leaf, SCALE, ZERO_POINT)
        y.backward(upstream)
        return leaf.grad

    def theirs_learned() -> torch.Tensor:
        leaf.grad = learned.grad = None
        y = torch._fake_quantize_learnable_per_tensor_affine(
            leaf, learned, torch.zeros(1), -128, 127, 1.0
        )
        y.backward(upstream)
        return leaf.grad

    assert torch.equal(ours(one), theirs(False))
    assert torch.equal(ours(rows), theirs(True))
    ways = {
        "two passes: copy_ twice": lambda: (out.copy_(x), gradient.copy_(upstream)),
        "moptcore per tensor (out=)": lambda: ours(one),
        "moptcore along axis 0 (out=)": lambda: ours(rows),
        "moptcore learned scale (out=)": ours_learned,
        "torch per tensor": lambda: theirs(False),
        "torch per channel": lambda: theirs(True),
    }
    if x.dtype == torch.float32:  # torch has its learned form for no other dtype
        ours_learned()
        assert torch.equal(gradient, theirs_learned())
        ways["torch learned scale"] = theirs_learned
    show(
        f"fake-quantize forward + backward, {title}",
        interleave(ways),
        "moptcore per tensor (out=)",
    )


def integers(x: torch.Tensor, title: str) -> None:
    # oneDNN adds the zero point before it rounds: an odd one breaks ties to the other side.
    zero_point = ZERO_POINT + 1
    params = mc.quant.QParams(SCALE, zero_point, "int8")
    q, back = torch.empty(x.shape, dtype=torch.int8), torch.empty_like(x)
    ways = {
        f"{name.__name__}, {backend or 'moptcore'}": (
            lambda name=name, source=source, to=to, backend=backend: name(
                source, params, out=to, backend=backend
            )
        )
        for name, source, to in ((mc.quant.quantize, x, q), (mc.quant.dequantize, q, back))
        for backend in (None, "onednn")
    }
    ways["torch.quantize_per_tensor"] = lambda: torch.quantize_per_tensor(
        x, SCALE, zero_point, torch.qint8
    )
    found = [mc.quant.quantize(x, params, backend=backend) for backend in (None, "onednn")]
    assert torch.equal(*found)
    show(f"integers and back, {title}", interleave(ways), "quantize, moptcore")


def grids(x: torch.Tensor) -> tuple[mc.quant.QParams, mc.quant.QParams]:
    along = torch.full((x.shape[0],), SCALE).numpy()
    return (
        mc.quant.QParams(SCALE, ZERO_POINT, "int8"),
        mc.quant.QParams(along, 0, "int8", axis=0),
    )


def main(count: int) -> None:
    threads = mc.get_num_threads()
    wide = torch.randn(CHANNELS, count // CHANNELS, generator=torch.Generator().manual_seed(0)) * 2
    for dtype in (torch.float32, torch.bfloat16):
        x = wide.to(dtype)
        title = f"{x.numel():,} {dtype}".replace("torch.", "") + f", {threads} threads"
        forward(x, title)
        forward_and_backward(x, title)
    integers(wide, f"{wide.numel():,} float32, {threads} threads")


if __name__ == "__main__":
    for size in [int(text) for text in sys.argv[1:]] or [1 << 20, 1 << 24]:
        main(size)
