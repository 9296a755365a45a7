# SPDX-License-Identifier: Apache-2.0
"""What stands in the place of a factorized layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["Factorized"]


class Factorized(nn.Sequential):
    """The thinner layers of `factorize`, one after the other.

    Code that reads the weight or the bias of the layer that was here finds the product of the
    factors, through which gradients reach them, and the bias of the last one.
    """

    @property
    def weight(self) -> torch.Tensor:
        first, *others = self.children()
        product: Any = first.weight
        for layer in others:
            each: Any = layer.weight
            # Of two kernels one has a single place along each axis.
            product = (
                each @ product
                if each.dim() == 2
                else torch.einsum("orhw,rihw->oihw", each, product)
            )
        found: torch.Tensor = product
        return found

    @property
    def bias(self) -> torch.Tensor | None:
        *_, last = self.children()
        found: Any = last.bias
        return found  # type: ignore[no-any-return]

    def _moptcore_strip_(self) -> nn.Module:
        plain = nn.Sequential(*self.children())
        plain.training = self.training
        return plain
