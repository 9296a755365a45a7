# SPDX-License-Identifier: Apache-2.0
"""Losses of distillation with their gradients against PyTorch's compositions and a memory pass."""

from __future__ import annotations

import sys
from collections.abc import Callable

import moptcore as mc
import torch
from harness import interleave, show
from peers import pytorch

TEMPERATURE, ALPHA = 4.0, 0.7
SHAPES = [(128, 1000), (512, 1000), (64, 32_000), (256, 128_256)]
FEATURES = [(64, 512), (256, 512)]  # samples, width
Loss = Callable[[torch.Tensor], torch.Tensor]


def with_gradient(loss: Loss, leaf: torch.Tensor) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        leaf.grad = None
        value = loss(leaf)
        value.backward()
        return value

    return run


def check(
    ours: Callable[[], object],
    gradient: torch.Tensor,
    theirs: Callable[[], torch.Tensor],
    leaf: torch.Tensor,
    rtol: float,
    atol: float,
) -> None:
    loss, expected = float(ours()[0]), theirs().item()
    assert abs(loss - expected) < 1e-5 * abs(expected) + 1e-7, (loss, expected)
    torch.testing.assert_close(gradient, leaf.grad, rtol=rtol, atol=atol)


def soft_targets(rows: int, classes: int, compiled: bool) -> None:
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

    def composite(leaf: torch.Tensor) -> torch.Tensor:
        return pytorch.soft_target_loss(leaf, teacher, labels, TEMPERATURE, ALPHA)

    theirs = with_gradient(composite, leaf)
    check(ours, gradient, theirs, leaf, rtol=1e-4, atol=1e-7)
    ways = {
        "moptcore soft_target_loss(out=)": ours,
        "one pass: read both, write one": lambda: torch.add(student, teacher, out=gradient),
        "torch composite, forward + backward": theirs,
    }
    if compiled:
        fast = with_gradient(torch.compile(composite, dynamic=False), leaf)
        check(ours, gradient, fast, leaf, rtol=1e-4, atol=1e-7)
        ways["torch.compile, forward + backward"] = fast
    show(
        f"soft-target loss and gradient, [{rows}, {classes}] float32, "
        f"{mc.get_num_threads()} threads",
        interleave(ways),
        "moptcore soft_target_loss(out=)",
    )


def relations(samples: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(samples, width, generator=generator)
    teacher = torch.randn(samples, width, generator=generator)
    gradient = torch.empty_like(student)
    leaf = student.clone().requires_grad_()
    tables = {
        "relational": (
            lambda: mc.distill.relational_loss(student, teacher, 25.0, 50.0, out=gradient),
            lambda x: pytorch.relational_loss(x, teacher, 25.0, 50.0),
        ),
        "similarity-preserving": (
            lambda: mc.distill.similarity_loss(student, teacher, out=gradient),
            lambda x: pytorch.similarity_loss(x, teacher),
        ),
    }
    for name, (ours, composite) in tables.items():
        theirs = with_gradient(composite, leaf)
        scale = (theirs(), leaf.grad.abs().max().item())[1]
        check(ours, gradient, theirs, leaf, rtol=1e-3, atol=1e-3 * scale)
        timings = interleave(
            {f"moptcore {name}": ours, "torch composite, forward + backward": theirs}
        )
        show(
            f"{name} loss and gradient, [{samples}, {width}] float32, "
            f"{mc.get_num_threads()} threads",
            timings,
            f"moptcore {name}",
        )


if __name__ == "__main__":
    for shape in SHAPES:
        soft_targets(*shape, compiled="--compile" in sys.argv)
    for shape in FEATURES:
        relations(*shape)
