# SPDX-License-Identifier: Apache-2.0
"""What works on the same parameter, so that masks and codebooks know each other.

Parts are found by the identity of the parameters they work on: a pruner of a submodule and a
clusterer of the whole model meet. A part whose model changed since tells of the parameters that
are still there, so that it does not get into the way of other models. Nothing is kept alive here
and nothing is put into a module.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch

from moptcore.torch.codebook import Book

__all__ = ["book_of", "join", "masks", "renewed"]


class Masks(Protocol):
    """What holds weights at zero."""

    def _masks_now(self) -> dict[int, torch.Tensor]:
        """Packed bits of the kept weights by id of the parameter."""
        ...


class Codebooks(Protocol):
    """What holds weights at few values."""

    def _books_now(self) -> dict[int, Book]:
        """The codebook of each parameter by its id."""
        ...

    def _settle_on(self, parameters: set[int]) -> set[int]:
        """Keeps the codebooks of those of the parameters that it holds, and returns these."""
        ...


_masks: weakref.WeakKeyDictionary[Masks, int] = weakref.WeakKeyDictionary()
_codebooks: weakref.WeakKeyDictionary[Codebooks, int] = weakref.WeakKeyDictionary()
_layers: weakref.WeakKeyDictionary[Codebooks, int] = weakref.WeakKeyDictionary()
_order = itertools.count()


def join(part: Any) -> None:
    """Makes a part known; again and again is the same as once."""
    if hasattr(part, "_masks_now"):
        _masks.setdefault(part, next(_order))
    elif isinstance(part, torch.nn.Module):
        layer: Any = part
        _layers.setdefault(layer, next(_order))
    else:
        _codebooks.setdefault(part, next(_order))


def masks() -> dict[int, torch.Tensor]:
    """The packed masks of all pruners by id of the parameter; of several what all of them keep."""
    found: dict[int, torch.Tensor] = {}
    for part in sorted(_masks, key=_masks.__getitem__):
        for key, bits in part._masks_now().items():
            found[key] = bits if key not in found else found[key].to(bits.device) & bits
    return found


def renewed(parameters: set[int]) -> None:
    """Tells what holds codebooks on `parameters` (ids) that their masks are new.

    A quantized layer keeps its codebook only where no clusterer does.
    """
    left = parameters
    for parts in (_codebooks, _layers):
        settled: set[int] = set()
        for part in sorted(parts, key=parts.__getitem__):
            settled |= part._settle_on(left)
        left = left - settled


def book_of(parameter: torch.Tensor) -> Book | None:
    """The codebook that holds `parameter`, of the clusterer made last; None where there is none."""
    for part in sorted(_codebooks, key=_codebooks.__getitem__, reverse=True):
        book = part._books_now().get(id(parameter))
        if book is not None:
            return book
    return None
