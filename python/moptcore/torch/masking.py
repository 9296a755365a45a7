# SPDX-License-Identifier: Apache-2.0
"""Masks of torch parameters as packed bits: the core on CPU, torch operations elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moptcore import Error, _core
from moptcore.torch import composite

__all__ = [
    "FLOATING",
    "Rule",
    "check_structure",
    "global_bits",
    "on_core",
    "pack",
    "rewrite_zeros",
    "rule_for",
    "unpack",
    "zero_pruned",
]

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)


@dataclass(frozen=True)
class Rule:
    """How one parameter is masked."""

    kind: str  # "weight", "row", "channel", "n:m" or "block"
    axis: int = 0
    sizes: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        first, second = self.sizes
        return {
            "weight": "single weights",
            "row": f"single weights of each row along axis {self.axis}",
            "channel": f"channels along axis {self.axis}",
            "n:m": f"{first} of {second} along axis {self.axis}",
            "block": f"blocks of {first} x {second}",
        }[self.kind]

    def bits(
        self, weight: torch.Tensor, sparsity: float, scores: torch.Tensor | None = None
    ) -> torch.Tensor:
        """uint8 [ceil(n / 8)], a set bit where a weight is kept.

        `scores` are ranked instead of magnitudes: one for each weight, or for each channel.
        """
        if self.kind == "n:m" and self.sizes[0] == self.sizes[1]:
            return pack(torch.ones_like(weight, dtype=torch.bool))
        if not on_core(weight):
            return composite.pack_bits(self._composite(weight, sparsity, scores))
        first, second = self.sizes
        core = _core.prune
        more: dict[str, Any] = {"scores": scores, "packed": True}
        if self.kind == "weight":
            bits = core.magnitude_mask(weight, sparsity, **more)
        elif self.kind == "row":
            bits = core.row_mask(weight, sparsity, self.axis, **more)
        elif self.kind == "channel":
            bits = core.structured_mask(weight, sparsity, self.axis, expand=True, **more)
        elif self.kind == "n:m":
            bits = core.nm_mask(weight, first, second, self.axis, **more)
        else:
            more["scores"] = None if scores is None else scores.flatten(1)
            bits = core.block_mask(weight.flatten(1), sparsity, self.sizes, **more)
        packed: torch.Tensor = bits
        return packed

    def _composite(
        self, weight: torch.Tensor, sparsity: float, scores: torch.Tensor | None
    ) -> torch.Tensor:
        if self.kind == "weight":
            return composite.magnitude_mask(weight, sparsity, scores)
        if self.kind == "row":
            return composite.row_mask(weight, sparsity, self.axis, scores)
        if self.kind == "channel":
            return composite.structured_mask(weight, sparsity, self.axis, scores)
        if self.kind == "n:m":
            return composite.nm_mask(weight, *self.sizes, self.axis, scores)
        flat = None if scores is None else scores.flatten(1)
        return composite.block_mask(weight.flatten(1), sparsity, self.sizes, flat)


def on_core(tensor: torch.Tensor) -> bool:
    """Whether the compiled core computes this tensor, or torch operations do."""
    return tensor.is_cpu


def check_structure(structure: Any) -> None:
    """Raises Error unless `structure` is one that Pruner documents."""
    if structure is None or structure == "channel":
        return
    sizes = structure
    if isinstance(structure, Mapping) and set(structure) == {"block"}:
        sizes = structure["block"]
    elif isinstance(structure, Mapping | str):
        sizes = None
    is_pair = isinstance(sizes, Sequence) and len(sizes) == 2
    if not is_pair or not all(type(size) is int and size >= 1 for size in sizes):
        raise Error(
            "[torch.Pruner] structure must be None, 'channel', (n, m) or {'block': (r, c)} with "
            f"integers >= 1, got {structure!r}"
        )
    if not isinstance(structure, Mapping) and sizes[0] >= sizes[1]:
        raise Error(f"[torch.Pruner] structure (n, m) must have n < m, got {structure!r}")


def rule_for(
    structure: Any, module: torch.nn.Module, parameter: torch.Tensor
) -> tuple[Rule | None, str]:
    """The rule of a parameter, or None and why it cannot be pruned that way."""
    if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
        return None, "not initialized yet: run one batch first"
    if parameter.is_meta:
        return None, "on the meta device"
    if parameter.layout != torch.strided:
        return None, f"layout {parameter.layout}"
    if parameter.dtype not in FLOATING:
        return None, f"dtype {parameter.dtype}"
    if parameter.numel() == 0:
        return None, "empty"
    if any(
        step == 0 < size - 1 for step, size in zip(parameter.stride(), parameter.shape, strict=True)
    ):
        return None, "its elements share memory"
    if structure is None:
        return Rule("weight"), ""
    if structure == "channel":
        if isinstance(module, (torch.nn.Linear, *_CONVOLUTIONS)):
            return Rule("channel", 0), ""
        if isinstance(module, _TRANSPOSED):
            return Rule("channel", 1), ""
        return None, f"no channel axis is known for {type(module).__name__}"
    if isinstance(structure, Mapping):
        height, width = structure["block"]
        return Rule("block", 0, (height, width)), ""
    n, m = structure
    axis = 0 if isinstance(module, _TRANSPOSED) else 1
    if not isinstance(module, (torch.nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)):
        axis = parameter.dim() - 1
    if parameter.shape[axis] < m:
        return None, f"axis {axis} has {parameter.shape[axis]} weights, fewer than {m}"
    return Rule("n:m", axis, (n, m)), ""


def global_bits(
    weights: Sequence[torch.Tensor],
    sparsity: float,
    scores: Sequence[torch.Tensor] | None = None,
    minimum: Sequence[float] | None = None,
    maximum: Sequence[float] | None = None,
) -> list[torch.Tensor]:
    """Packed masks of one ranking over all weights, or over their scores."""
    given = list(weights) if scores is None else list(scores)
    bounded = minimum is not None or maximum is not None
    if bounded or all(on_core(each) for each in given):
        # Bounds are kept by the core alone; on other devices the scores travel to it.
        ranked = [each.detach().cpu() for each in given]
        masks = _core.prune.global_mask(
            [each.detach().cpu() for each in weights],
            sparsity,
            scores=None if scores is None else ranked,
            minimum=minimum,
            maximum=maximum,
            packed=True,
        )
        return [mask.to(weight.device) for mask, weight in zip(masks, weights, strict=True)]
    # One ranking needs all scores in one place.
    device = next(each.device for each in given if not on_core(each))
    masks = composite.global_mask(
        [weight.to(device) for weight in weights],
        sparsity,
        None if scores is None else [each.to(device) for each in scores],
    )
    return [
        composite.pack_bits(mask.to(weight.device))
        for mask, weight in zip(masks, weights, strict=True)
    ]


def pack(mask: torch.Tensor) -> torch.Tensor:
    """uint8 [ceil(n / 8)]: one bit per element of a bool mask."""
    if on_core(mask):
        bits: torch.Tensor = _core.prune.pack_mask(mask)
        return bits
    return composite.pack_bits(mask)


def unpack(bits: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The bool mask of packed bits."""
    if on_core(bits):
        mask: torch.Tensor = _core.prune.unpack_mask(bits, tuple(shape))
        return mask
    return composite.unpack_bits(bits, shape)


def zero_pruned(weight: torch.Tensor, bits: torch.Tensor) -> None:
    """Writes zeros into `weight` where the bits are off."""
    rewrite_zeros(weight, bits)
    # Written past autograd, which must know of it.
    torch.autograd.graph.increment_version(weight)


def rewrite_zeros(weight: torch.Tensor, bits: torch.Tensor) -> None:
    """As `zero_pruned`, unseen by autograd: for zeros that every graph has already seen."""
    memory = weight.data
    if on_core(memory) and memory.dtype in FLOATING:
        _core.prune.apply_mask(memory, bits, out=memory)
    else:
        memory.masked_fill_(~unpack(bits, memory.shape), 0)
