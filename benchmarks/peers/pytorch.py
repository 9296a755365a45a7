# SPDX-License-Identifier: Apache-2.0
"""What a PyTorch user runs today for each of moptcore's primitives."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.utils import prune


def magnitude_mask(weights: torch.Tensor, sparsity: float) -> torch.Tensor:
    """torch.nn.utils.prune.l1_unstructured's mask: a float tensor of zeros and ones."""
    method = prune.L1Unstructured(amount=sparsity)
    return method.compute_mask(weights, torch.ones_like(weights))


def magnitude_mask_kthvalue(weights: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The fastest composition of torch operations: select, then compare."""
    magnitude = weights.abs()
    threshold = torch.kthvalue(magnitude.flatten(), round(sparsity * weights.numel())).values
    return magnitude > threshold


def fake_quantize(x: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)


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
