# SPDX-License-Identifier: Apache-2.0
"""The primitives as torch operations: for tensors that the compiled core cannot reach.

Same semantics as the core on every device: exact counts, ties keep the lowest index. Masks that
rest on comparisons alone (magnitude, global, N:M) have the same bits as the core's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from moptcore import Error, NonFiniteError

__all__ = [
    "apply_mask",
    "block_mask",
    "global_mask",
    "magnitude_mask",
    "nm_mask",
    "pack_bits",
    "row_mask",
    "soft_target_loss",
    "structured_mask",
    "unpack_bits",
]


def magnitude_mask(
    weights: torch.Tensor, sparsity: float, scores: torch.Tensor | None = None
) -> torch.Tensor:
    """bool, True where a weight is kept: all but the round(n * sparsity) smallest magnitudes.

    Here and below, `scores` are ranked instead of magnitudes where they are given.
    """
    ranked = _ranked(weights, scores, "prune.magnitude_mask")
    return _keep_largest(ranked, _zeros(ranked.numel(), sparsity)).reshape(weights.shape)


def row_mask(
    weights: torch.Tensor, sparsity: float, axis: int, scores: torch.Tensor | None = None
) -> torch.Tensor:
    """bool: as magnitude_mask, in every slice along `axis` by itself."""
    ranked = _ranked(weights, scores, "prune.row_mask").reshape(weights.shape).movedim(axis, 0)
    rows = ranked.reshape(weights.shape[axis], -1)
    order = rows.sort(dim=1, descending=True, stable=True).indices
    kept = rows.shape[1] - _zeros(rows.shape[1], sparsity)
    keep = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :kept], True)
    return keep.reshape(ranked.shape).movedim(0, axis).contiguous()


def global_mask(
    weights: Sequence[torch.Tensor],
    sparsity: float,
    scores: Sequence[torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """One magnitude mask over all tensors together, split back into their shapes."""
    given = scores if scores is not None else [None] * len(weights)
    ranked = torch.cat(
        [
            _ranked(each, score, "prune.global_mask")
            for each, score in zip(weights, given, strict=True)
        ]
    )
    keep = _keep_largest(ranked, _zeros(ranked.numel(), sparsity))
    parts = torch.split(keep, [each.numel() for each in weights])
    return [part.reshape(each.shape) for part, each in zip(parts, weights, strict=True)]


def structured_mask(
    weights: torch.Tensor, sparsity: float, axis: int, scores: torch.Tensor | None = None
) -> torch.Tensor:
    """bool in the shape of `weights`: slices along `axis` with the smallest L2 norms are False.

    `scores` has one number for each slice.
    """
    if scores is None:
        _magnitudes(weights, "prune.structured_mask")
        slices = weights.detach().movedim(axis, 0).reshape(weights.shape[axis], -1)
        norms = _wide(slices).square().sum(1).sqrt()
    else:
        norms = _ranked(weights, scores, "prune.structured_mask")
    keep = _keep_largest(norms, _zeros(norms.numel(), sparsity))
    shape = [1] * weights.dim()
    shape[axis] = -1
    return keep.reshape(shape).expand(weights.shape).contiguous()


def nm_mask(
    weights: torch.Tensor, n: int, m: int, axis: int, scores: torch.Tensor | None = None
) -> torch.Tensor:
    """bool: the n largest of every m consecutive along `axis`; an incomplete block is kept."""
    rows = _ranked(weights, scores, "prune.nm_mask").reshape(weights.shape).movedim(axis, -1)
    whole = rows.shape[-1] // m * m
    blocks = rows[..., :whole].reshape(-1, m)
    # A stable sort puts the lower index first among equals.
    order = blocks.sort(dim=1, descending=True, stable=True).indices
    kept = torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, order[:, :n], True)
    keep = torch.ones(rows.shape, dtype=torch.bool, device=weights.device)
    keep[..., :whole] = kept.reshape(*rows.shape[:-1], whole)
    return keep.movedim(-1, axis).contiguous()


def block_mask(
    weights: torch.Tensor,
    sparsity: float,
    block: tuple[int, int],
    scores: torch.Tensor | None = None,
) -> torch.Tensor:
    """bool [R, C]: blocks of `block` weights with the smallest mean magnitudes are False.

    Blocks at the border may be smaller; their mean is over the weights they have.
    """
    ranked = _ranked(weights, scores, "prune.block_mask").reshape(weights.shape)
    (height, width), (rows, cols) = block, weights.shape
    down, across = -(-rows // height), -(-cols // width)
    padding = (0, across * width - cols, 0, down * height - rows)
    magnitudes = _wide(ranked)
    sums = _blocks(torch.nn.functional.pad(magnitudes, padding), height, width)
    sizes = _blocks(torch.nn.functional.pad(torch.ones_like(magnitudes), padding), height, width)
    means = (sums / sizes).reshape(-1)
    keep = _keep_largest(means, _zeros(means.numel(), sparsity)).reshape(down, across)
    full = keep.repeat_interleave(height, 0).repeat_interleave(width, 1)
    return full[:rows, :cols].contiguous()


def apply_mask(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`weights` with zeros where `mask` (bool, or its packed bits in uint8) is off."""
    if mask.dtype == torch.uint8:
        mask = unpack_bits(mask, weights.shape)
    # A product would keep NaN and give -0.0.
    return torch.where(mask, weights, weights.new_zeros(()))


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """uint8 [ceil(n / 8)]: one bit per element in C order, the lowest bit first."""
    flat = mask.reshape(-1)
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8))
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (padded.reshape(-1, 8) * weights).sum(1).to(torch.uint8)


def unpack_bits(bits: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The bool mask of `shape` that `pack_bits` packed."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    flat = (bits.unsqueeze(1) >> shifts & 1).reshape(-1)
    return flat[: math.prod(shape)].bool().reshape(tuple(shape))


def soft_target_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None,
    temperature: float,
    alpha: float,
    axis: int,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient by `student`); the arithmetic is float32 or wider."""
    student, teacher = student.detach(), teacher.detach()
    wide = torch.promote_types(student.dtype, torch.float32)
    soft = alpha if labels is not None else 1.0
    z = student.to(wide).movedim(axis, -1)
    rows, grad = torch.zeros_like(z[..., 0]), torch.zeros_like(z)
    if soft > 0.0:
        log_p = torch.log_softmax(z / temperature, -1)
        log_q = torch.log_softmax(teacher.to(wide).movedim(axis, -1) / temperature, -1)
        q = log_q.exp()
        # 0 * (-inf) of a class that the teacher rules out counts as 0.
        divergence = torch.where(q != 0, q * (log_q - log_p), q).sum(-1)
        rows = rows + soft * temperature**2 * divergence
        grad = grad + soft * temperature * (log_p.exp() - q)
    count: float | torch.Tensor = float(max(rows.numel(), 1))
    if labels is not None:
        classes = z.shape[-1]
        if labels.shape != rows.shape:
            raise Error(
                f"[distill.soft_target_loss] labels must have the shape {tuple(rows.shape)} of "
                f"the rows, got {tuple(labels.shape)}"
            )
        valid = labels != ignore_index
        index = torch.where(valid, labels, 0).long().unsqueeze(-1)
        if bool(((index < 0) | (index >= classes)).any()):
            raise Error(f"[distill.soft_target_loss] labels must be in [0, {classes})")
        if soft < 1.0:
            log_p = torch.log_softmax(z, -1)
            target = torch.full_like(z, label_smoothing / classes)
            target.scatter_add_(-1, index, torch.full_like(z[..., :1], 1.0 - label_smoothing))
            entropy = torch.where(target != 0, target * log_p, target).sum(-1)
            rows = rows - (1.0 - soft) * entropy
            grad = grad + (1.0 - soft) * (log_p.exp() - target)
        rows = torch.where(valid, rows, 0.0)
        grad = torch.where(valid.unsqueeze(-1), grad, 0.0)
        count = valid.sum().to(wide).clamp(min=1.0)
    loss = rows if reduction == "none" else rows.sum()
    if reduction == "batchmean":
        loss, grad = loss / count, grad / count
    return loss, grad.movedim(-1, axis).to(student.dtype).contiguous()


def _zeros(n: int, sparsity: float) -> int:
    if not 0.0 <= sparsity < 1.0:
        raise Error(f"[prune.mask] sparsity must be in [0, 1), got {sparsity}")
    # Python rounds half to even, as std::nearbyint does.
    return round(n * sparsity)


def _keep_largest(scores: torch.Tensor, zeros: int) -> torch.Tensor:
    if zeros == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(zeros).values
    above, tied = scores > threshold, scores == threshold
    missing = scores.numel() - zeros - above.sum()
    return above | (tied & (tied.cumsum(0) <= missing))


def _ranked(weights: torch.Tensor, scores: torch.Tensor | None, where: str) -> torch.Tensor:
    """What a mask ranks, as a vector: the scores, or else the magnitudes."""
    if scores is None:
        return _magnitudes(weights, where)
    if bool(scores.isnan().any()):
        raise NonFiniteError(f"[{where}] scores must not hold NaN")
    flat = scores.detach().reshape(-1)
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def _magnitudes(weights: torch.Tensor, where: str) -> torch.Tensor:
    flat = weights.detach().reshape(-1).abs()
    if bool(flat.isnan().any()):
        raise NonFiniteError(f"[{where}] weights must not hold NaN")
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _blocks(padded: torch.Tensor, height: int, width: int) -> torch.Tensor:
    down, across = padded.shape[0] // height, padded.shape[1] // width
    return padded.reshape(down, height, across, width).sum((1, 3))
