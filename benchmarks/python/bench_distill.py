# SPDX-License-Identifier: Apache-2.0
"""The soft-target loss with its gradient against PyTorch's composite and one memory pass."""

from __future__ import annotations

import moptcore as mc
import torch
from harness import interleave, show
from peers import pytorch

TEMPERATURE, ALPHA = 4.0, 0.7
SHAPES = [(128, 1000), (512, 1000), (64, 32_000)]


def main(rows: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(rows, classes, generator=generator)
    teacher = torch.randn(rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    gradient = torch.empty_like(student)
    leaf = student.clone().requires_grad_()

    def ours() -> object:
        return mc.distill.soft_target_loss(
            student, teacher, labels, TEMPERATURE, ALPHA, out=gradient
        )

    def theirs() -> torch.Tensor:
        leaf.grad = None
        loss = pytorch.soft_target_loss(leaf, teacher, labels, TEMPERATURE, ALPHA)
        loss.backward()
        return loss

    loss, expected = float(ours()[0]), theirs().item()
    assert abs(loss - expected) < 1e-5 * abs(expected), (loss, expected)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-7)
    timings = interleave(
        {
            "moptcore soft_target_loss(out=)": ours,
            "one pass: read both, write one": lambda: torch.add(student, teacher, out=gradient),
            "torch composite, forward + backward": theirs,
        }
    )
    show(
        f"soft-target loss and gradient, [{rows}, {classes}] float32, "
        f"{mc.get_num_threads()} threads",
        timings,
        "moptcore soft_target_loss(out=)",
    )


if __name__ == "__main__":
    for shape in SHAPES:
        main(*shape)
