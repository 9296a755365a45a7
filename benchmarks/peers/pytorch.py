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
