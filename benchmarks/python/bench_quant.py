# SPDX-License-Identifier: Apache-2.0
"""Fake quantization, forward and backward, against PyTorch and one copy of the same memory."""

from __future__ import annotations

import sys

import moptcore as mc
import numpy as np
import torch
from harness import interleave, show
from peers import pytorch

SCALE, ZERO_POINT = 0.03125, 3  # a power of two: dividing and multiplying by 1/scale agree


def main(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, generator=generator) * 2
    upstream = torch.randn(count, generator=generator)
    params = mc.quant.QParams(SCALE, ZERO_POINT, "int8")
    out, gradient = torch.empty_like(x), torch.empty_like(x)
    bits = torch.empty((count + 7) // 8, dtype=torch.uint8)

    def ours() -> torch.Tensor:
        mc.quant.fake_quantize(x, params, out=out, bits=bits)
        return mc.quant.fake_quantize_backward(upstream, bits, out=gradient)

    leaf = x.clone().requires_grad_()

    def theirs() -> torch.Tensor:
        leaf.grad = None
        pytorch.fake_quantize(leaf, SCALE, ZERO_POINT).backward(upstream)
        return leaf.grad

    assert torch.equal(ours(), theirs())
    assert torch.equal(out, pytorch.fake_quantize(x, SCALE, ZERO_POINT))
    forward = interleave(
        {
            "moptcore fake_quantize(out=)": lambda: mc.quant.fake_quantize(x, params, out=out),
            "moptcore fake_quantize": lambda: mc.quant.fake_quantize(x, params),
            "one pass: copy_ into the same output": lambda: out.copy_(x),
            "torch.clone": x.clone,
            "torch.fake_quantize_per_tensor_affine": lambda: pytorch.fake_quantize(
                x, SCALE, ZERO_POINT
            ),
        }
    )
    threads = mc.get_num_threads()
    show(
        f"fake-quantize forward, {count:,} float32, {threads} threads",
        forward,
        "moptcore fake_quantize(out=)",
    )
    both = interleave(
        {
            "moptcore forward + backward (out=)": ours,
            "two passes: copy_ twice": lambda: (out.copy_(x), gradient.copy_(upstream)),
            "torch forward + backward": theirs,
        }
    )
    show(
        f"fake-quantize forward + backward, {count:,} float32, {threads} threads",
        both,
        "moptcore forward + backward (out=)",
    )
    assert np.isfinite(out.numpy()).all()


if __name__ == "__main__":
    for size in [int(text) for text in sys.argv[1:]] or [1 << 20, 1 << 24]:
        main(size)
