# SPDX-License-Identifier: Apache-2.0
"""Axes of inputs that an exported model leaves free, tried at other extents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from moptcore import Error
from moptcore.graph import load
from moptcore.torch.inputs import evaluating

__all__ = ["FreeAxes"]

_WHERE = "torch.export_onnx"

# Another extent for the one of the example, by the place of its name among the names. Smaller ones
# of large images; networks that halve an axis again and again find one that they take.
_OTHERS: tuple[Callable[[int, int], int], ...] = (
    lambda extent, place: extent // 2 + 32 * place if extent >= 128 else extent * (2 + place),
    lambda extent, place: extent * (2 + place),
    lambda extent, place: extent + 32 * (1 + place),
    lambda extent, place: extent + 1 + place,
    lambda extent, place: extent * 2,
)
# What the graph is compared at beside these: near the example, where roundings show.
_NEAR: tuple[Callable[[int, int], int], ...] = (
    lambda extent, place: extent + 1 + 2 * place,
    lambda extent, place: max(1, extent - 1 - 2 * place),
    lambda extent, place: extent + 16 * (1 + place),
    lambda extent, place: extent + 32 * (2 + place),
    lambda extent, place: extent * 3,
)


class FreeAxes:
    """The axes beside the batch that are to be free; false where there is none."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[torch.Tensor, ...],
        names: Sequence[str],
        axes: Mapping[str, Mapping[int, str]] | None,
        batch: bool,
    ) -> None:
        self._model = model
        self._inputs = inputs
        self._batch = batch
        self._names = list(names)[: len(inputs)]
        self._free: list[dict[int, str]] = [{} for _ in inputs]
        self._extents: dict[str, int] = {}
        for name, each, free in zip(self._names, inputs, self._free, strict=False):
            labels = (axes or {}).get(name, {})
            for axis, label in labels.items():
                # What is wrong with an argument is said when the axes are named.
                if not isinstance(axis, int) or not -each.dim() <= axis < each.dim():
                    continue
                if axis % each.dim() > 0:
                    self._add(free, axis % each.dim(), label, each)
        self.others: tuple[torch.Tensor, ...] = inputs
        if self:
            self.others, self._compared = self._tried()

    def __bool__(self) -> bool:
        return bool(self._extents)

    def shapes(self, dynamic: Any) -> tuple[dict[int, Any], ...] | None:
        """For torch.onnx: what is dynamic of each input."""
        if not self._batch and not self:
            return None
        first = {0: dynamic} if self._batch else {}
        return tuple(first | dict.fromkeys(free, dynamic) for free in self._free)

    def fault(self, proto: onnx.ModelProto) -> str:
        """Where the graph differs from the module, or ''."""
        graph = load(proto.SerializeToString())
        # One step of an 8-bit grid, and what a few layers make of it; else sums in another order.
        quantized = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
        allowed = 5e-2 if quantized else 1e-4
        for inputs in (self._inputs, self.others, *self._compared):
            at = " and ".join(str(tuple(each.shape)) for each in inputs)
            named = {
                info.name: each.detach().cpu().numpy()
                for info, each in zip(graph.inputs, inputs, strict=True)
            }
            try:
                found = list(graph.evaluate(named).values())
            except Error as error:
                return f"does not run at {at} ({error})"
            for want, got in zip(self._run(inputs), found, strict=True):
                if want.shape != got.shape:
                    return f"gives {got.shape} for {want.shape} at {at}"
                scale = max(float(np.abs(want).max(initial=0.0)), 1e-30)
                apart = float(np.abs(want - got.astype(np.float64)).max(initial=0.0)) / scale
                if not apart <= allowed:
                    return f"is off by {apart:.2g} of its magnitude at {at}"
        return ""

    def _add(self, free: dict[int, str], axis: int, label: str, each: torch.Tensor) -> None:
        extent = self._extents.setdefault(label, each.shape[axis])
        if extent != each.shape[axis]:
            raise Error(
                f"[{_WHERE}] dynamic_axes of one name must have one extent in the example, got "
                f"{extent} and {each.shape[axis]} for {label!r}"
            )
        free[axis] = label

    def _tried(self) -> tuple[tuple[torch.Tensor, ...], list[tuple[torch.Tensor, ...]]]:
        """Inputs of other extents that the model takes: to export with, and to compare with."""
        reasons: list[str] = []

        def first(rules: tuple[Callable[[int, int], int], ...], rows: int) -> Any:
            for rule in rules:
                # An axis that stays as it is would not be seen to be free.
                if any(rule(n, i) == n for i, n in enumerate(self._extents.values())):
                    continue
                inputs = self._resized(rule, rows)
                try:
                    self._run(inputs)
                except Exception as error:  # extents that the module itself refuses
                    reasons.append(str(error).strip().partition("\n")[0])
                    continue
                return inputs
            return None

        others = first(_OTHERS, 1)
        if others is None:
            raise Error(
                f"[{_WHERE}] dynamic_axes must name axes along which the module takes other "
                f"sizes than the example, got {', '.join(self._extents)}: {''.join(reasons[:1])}"
            )
        near = first(_NEAR, 0)
        return others, [] if near is None else [near]

    def _resized(self, rule: Callable[[int, int], int], rows: int) -> tuple[torch.Tensor, ...]:
        places = {label: place for place, label in enumerate(self._extents)}
        made = []
        for each, free in zip(self._inputs, self._free, strict=True):
            sizes = {
                axis: rule(self._extents[label], places[label]) for axis, label in free.items()
            }
            if self._batch:
                sizes[0] = each.shape[0] + rows
            for axis, size in sizes.items():
                # The example again and again: tokens and masks stay ones that the module takes.
                index = torch.arange(size, device=each.device) % each.shape[axis]
                each = each.index_select(axis, index)
            made.append(each)
        return tuple(made)

    def _run(self, inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray[Any, Any]]:
        with evaluating(self._model), torch.no_grad():
            found = self._model(*inputs)
        leaves = torch.utils._pytree.tree_leaves(found)
        return [
            each.detach().cpu().to(torch.float64).numpy()
            for each in leaves
            if isinstance(each, torch.Tensor)
        ]
