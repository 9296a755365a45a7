# SPDX-License-Identifier: Apache-2.0
"""What a PyTorch user runs today, eager, for each of moptcore's primitives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch.ao.quantization.observer import (
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
)
from torch.nn.utils import prune

Ways = Mapping[str, Callable[[], Any]]


def magnitude_mask(weights: torch.Tensor, sparsity: float) -> torch.Tensor:
    """torch.nn.utils.prune.l1_unstructured's mask: a float tensor of zeros and ones."""
    method = prune.L1Unstructured(amount=sparsity)
    return method.compute_mask(weights, torch.ones_like(weights))


def magnitude_mask_kthvalue(weights: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The fastest composition of torch operations: select, then compare."""
    magnitude = weights.abs()
    threshold = torch.kthvalue(magnitude.flatten(), round(sparsity * weights.numel())).values
    return magnitude > threshold


def fake_quantize(x: torch.Tensor, scale: Any, zero_point: int) -> torch.Tensor:
    """Per tensor; with a tensor of scales per channel, the first axis."""
    if isinstance(scale, float):
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)
    points = torch.full(scale.shape, zero_point, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(x, scale, points, 0, -128, 127)


def soft_target_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    alpha: float,
) -> torch.Tensor:
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
    )
    return alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(student, labels)


def relational_loss(
    student: torch.Tensor, teacher: torch.Tensor, distance: float, angle: float
) -> torch.Tensor:
    """RKD as its authors compute it: all distances, and all angles as one N x N x N tensor."""

    def relations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        squares = (x * x).sum(1)
        d2 = (squares[:, None] + squares[None] - 2 * x @ x.t()).clamp(min=1e-12)
        d = d2.sqrt() * (1 - torch.eye(len(x)))
        sides = F.normalize(x[None] - x[:, None], dim=2)
        return d / d[d > 0].mean(), torch.bmm(sides, sides.transpose(1, 2))

    with torch.no_grad():
        expected = relations(teacher)
    found = relations(student)
    by_distance = F.smooth_l1_loss(found[0], expected[0])
    return distance * by_distance + angle * F.smooth_l1_loss(found[1], expected[1])


def similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    def alike(x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x @ x.t(), dim=1)

    return F.mse_loss(alike(student), alike(teacher))


def ways_magnitude_mask(weights: np.ndarray, sparsity: float) -> Ways:
    tensor = torch.from_numpy(weights)
    return {
        "torch.nn.utils.prune L1 mask": lambda: magnitude_mask(tensor, sparsity),
        "torch.kthvalue and compare": lambda: magnitude_mask_kthvalue(tensor, sparsity),
    }


def ways_structured_mask(weights: np.ndarray, sparsity: float) -> Ways:
    tensor = torch.from_numpy(weights)
    method = prune.LnStructured(amount=sparsity, n=2, dim=0)
    return {
        "torch.nn.utils.prune Ln mask": lambda: method.compute_mask(tensor, torch.ones_like(tensor))
    }


def ways_nm_mask(weights: np.ndarray) -> Ways:
    groups = torch.from_numpy(weights).view(-1, 4)

    def topk() -> torch.Tensor:
        kept = groups.abs().topk(2, dim=1).indices
        return (
            torch.zeros_like(groups, dtype=torch.bool).scatter_(1, kept, True).view(*weights.shape)
        )

    return {"torch.topk and scatter": topk}


def _scale(scale: Any) -> Any:
    return scale if isinstance(scale, float) else torch.from_numpy(scale)


def ways_fake_quantize(x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int) -> Ways:
    tensor, scales = torch.from_numpy(x), _scale(scale)
    return {"torch.fake_quantize": lambda: fake_quantize(tensor, scales, zero_point)}


def ways_fake_quantize_both(
    x: np.ndarray, upstream: np.ndarray, scale: Any, zero_point: int
) -> Ways:
    leaf, gradient = torch.from_numpy(x).clone().requires_grad_(), torch.from_numpy(upstream)
    scales = _scale(scale)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        leaf.grad = None
        y = fake_quantize(leaf, scales, zero_point)
        y.backward(gradient)
        return y.detach(), leaf.grad

    return {"torch.fake_quantize and backward": both}


def ways_range_of(x: np.ndarray, channels: bool) -> Ways:
    tensor = torch.from_numpy(x)

    def observe() -> tuple[Any, Any]:
        observer = PerChannelMinMaxObserver(ch_axis=0) if channels else MinMaxObserver()
        observer(tensor)
        return observer.min_val, observer.max_val

    if channels:
        return {"torch.ao PerChannelMinMaxObserver": observe}
    return {
        "torch.ao MinMaxObserver": observe,
        "torch.aminmax": lambda: tuple(torch.aminmax(tensor)),
    }


def ways_histogram(x: np.ndarray) -> Ways:
    tensor = torch.from_numpy(x)
    observer = HistogramObserver(bins=2048)
    observer(tensor)

    def update() -> float:
        observer(tensor)
        return float(observer.max_val)

    return {"torch.ao HistogramObserver": update}


def ways_soft_target_loss(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    alpha: float,
) -> Ways:
    leaf, target = torch.from_numpy(student).clone().requires_grad_(), torch.from_numpy(teacher)
    classes = torch.from_numpy(labels)

    def both() -> tuple[float, torch.Tensor]:
        leaf.grad = None
        loss = soft_target_loss(leaf, target, classes, temperature, alpha)
        loss.backward()
        return loss.item(), leaf.grad

    return {"torch composite, eager": both}


def ways_truncated_svd(w: np.ndarray, rank: int) -> Ways:
    tensor = torch.from_numpy(w)

    def exact() -> tuple[torch.Tensor, torch.Tensor]:
        u, s, v = torch.linalg.svd(tensor, full_matrices=False)
        return u[:, :rank] * s[:rank], v[:rank]

    def lowrank() -> tuple[torch.Tensor, torch.Tensor]:
        u, s, v = torch.svd_lowrank(tensor, q=rank, niter=2)
        return u * s, v.T

    return {"torch.linalg.svd": exact, "torch.svd_lowrank(niter=2), 1 % off": lowrank}
