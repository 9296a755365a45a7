# SPDX-License-Identifier: Apache-2.0
"""PyTorch through torch.compile (inductor)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from peers import pytorch

Ways = Mapping[str, Callable[[], Any]]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: Any, zero_point: int) -> torch.Tensor:
        q = torch.round(x / scale) + zero_point
        ctx.save_for_backward((q >= -128) & (q <= 127))
        return (torch.clamp(q, -128, 127) - zero_point) * scale

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None


def _columns(scale: Any) -> torch.Tensor:
    return torch.tensor(scale) if isinstance(scale, float) else torch.from_numpy(scale)[:, None]


def ways_fake_quantize(x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int) -> Ways:
    tensor, scales = torch.from_numpy(x), _columns(scale)
    compiled = torch.compile(_StraightThrough.apply, dynamic=False)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return compiled(tensor, scales, zero_point)

    return {"torch.compile, straight-through": forward}


def ways_fake_quantize_both(
    x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int
) -> Ways:
    leaf, gradient = torch.from_numpy(x).clone().requires_grad_(), torch.from_numpy(upstream)
    scales = _columns(scale)
    compiled = torch.compile(_StraightThrough.apply, dynamic=False)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        leaf.grad = None
        y = compiled(leaf, scales, zero_point)
        y.backward(gradient)
        return y.detach(), leaf.grad

    return {"torch.compile, straight-through": both}


def ways_soft_target_loss(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    alpha: float,
) -> Ways:
    leaf, target = torch.from_numpy(student).clone().requires_grad_(), torch.from_numpy(teacher)
    classes = torch.from_numpy(labels)
    compiled = torch.compile(pytorch.soft_target_loss, dynamic=False)

    def both() -> tuple[float, torch.Tensor]:
        leaf.grad = None
        loss = compiled(leaf, target, classes, temperature, alpha)
        loss.backward()
        return loss.item(), leaf.grad

    return {"torch.compile of the composite": both}
