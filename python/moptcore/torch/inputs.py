# SPDX-License-Identifier: Apache-2.0
"""What reaches the layers of a module: statistics of their inputs, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from moptcore import DTypeError, Error, NonFiniteError, _core
from moptcore.torch.masking import on_core

__all__ = ["LAYERS", "Hessian", "Norm", "batches", "evaluating", "observe", "why_unknown", "wide"]

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
LAYERS = (torch.nn.Linear, *_CONVOLUTIONS)
"""The layers whose outputs are products of weights and inputs."""

_PIECE = 1 << 22
"""Inputs of a convolution that are laid out at a time."""

Seen = Callable[[str, torch.nn.Module, torch.Tensor], None]


class Norm:
    """The Euclidean norm of each input channel of one layer: `result()`."""

    def __init__(self) -> None:
        self._core: Any = None
        self._sums: torch.Tensor | None = None

    def update(self, layer: torch.nn.Module, x: torch.Tensor) -> None:
        axis = -1 if isinstance(layer, torch.nn.Linear) else -1 - _spatial(layer)
        if on_core(x):
            self._core = self._core or _core.prune.InputNorm(x.shape[axis])
            self._core.update(x.detach(), axis=axis)
        else:
            rows = wide(x.detach()).movedim(axis, -1)
            self._sums = _added(self._sums, rows.flatten(0, -2).square().sum(0))

    def result(self) -> torch.Tensor:
        if self._core is not None:
            return torch.from_numpy(self._core.norm())
        return _finite(self._sums).sqrt()


class Hessian:
    """2 X^T X of one layer's inputs X, [groups, features, features]: `result()`.

    The features are those that meet the weights of one output, in the order of `weight[0]`.
    """

    def __init__(self) -> None:
        self._core: list[Any] = []
        self._sums: torch.Tensor | None = None

    def update(self, layer: torch.nn.Module, x: torch.Tensor) -> None:
        for rows in _features(layer, x.detach()):
            _, groups, features = rows.shape
            if on_core(rows):
                self._core = self._core or [
                    _core.prune.InputHessian(features) for _ in range(groups)
                ]
                for group, hessian in enumerate(self._core):
                    hessian.update(rows[:, group])
            else:
                columns = wide(rows).movedim(1, 0)
                self._sums = _added(self._sums, columns.mT @ columns)

    def result(self) -> torch.Tensor:
        if self._core:
            return torch.stack([torch.from_numpy(each.hessian()) for each in self._core])
        return 2 * _finite(self._sums)


def batches(where: str, argument: str, data: Any) -> Iterator[Any]:
    """The batches that a caller gave: one tensor or mapping is a batch, else `data` is iterated.

    Raises DTypeError for what is none of these, and Error where there is no batch at all, as in an
    iterator that was read before.
    """
    if isinstance(data, (torch.Tensor, Mapping)):
        data = [data]
    iterates = isinstance(data, Iterable) or hasattr(data, "__getitem__")
    if isinstance(data, (str, bytes)) or not iterates:
        raise DTypeError(
            f"[{where}] {argument} must be a tensor or an iterable of batches, got "
            f"{type(data).__name__}"
        )
    none = True
    for batch in data:
        none = False
        yield batch
    if none:
        raise Error(f"[{where}] {argument} must hold at least one batch, got none")


def why_unknown(module: torch.nn.Module, parameter: torch.Tensor) -> str:
    """Why the inputs that meet a parameter are not known, or ''."""
    if not isinstance(module, LAYERS):
        return f"the inputs of {type(module).__name__} are not known"
    return "" if parameter is module.weight else "only the weight meets the inputs"


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards the mode that each module had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def observe(
    model: torch.nn.Module,
    data: Iterable[Any],
    layers: Iterable[tuple[str, torch.nn.Module]],
    seen: Seen,
    stop: bool = False,
) -> None:
    """Runs `model` on all batches and gives `seen` the inputs of the named layers.

    A batch is the model's argument, a mapping its keywords, and of a tuple or list the first item.
    stop: each batch goes no further than the first of these layers.
    """
    handles = []
    try:
        for name, layer in layers:

            def hook(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                seen(name, module, args[0] if args else kwargs["input"])
                if stop:
                    raise _Reached

            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        with evaluating(model):
            for batch in data:
                first = batch[0] if isinstance(batch, (tuple, list)) else batch
                try:
                    model(**first) if isinstance(first, Mapping) else model(first)
                except _Reached:
                    continue
    finally:
        for handle in handles:
            handle.remove()


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In the widest dtype of the device."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


class _Reached(BaseException):
    """The rest of the model need not run. No error: `except Exception` must not take it."""


def _features(layer: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """[samples, groups, features], a convolution's in pieces of limited size."""
    if isinstance(layer, torch.nn.Linear):
        yield x.reshape(-1, 1, x.shape[-1])
        return
    spatial = _spatial(layer)
    if x.dim() == spatial + 1:
        x = x.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = torch.nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    x = x.unflatten(1, (layer.groups, -1))
    windows = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for axis, (size, step, apart) in enumerate(windows, 3):
        x = x.unfold(axis, (size - 1) * apart + 1, step)[..., ::apart]
    # From batch, groups, channels, places and kernel to batch, places, groups, channels and kernel.
    x = x.permute(0, *range(3, 3 + spatial), 1, 2, *range(3 + spatial, 3 + 2 * spatial))
    samples = max(1, _PIECE // max(1, math.prod(x.shape[1:])))
    for piece in x.split(samples):
        yield piece.flatten(2 + spatial).flatten(0, spatial)


def _spatial(layer: Any) -> int:
    return len(layer.kernel_size)


def _added(sums: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    return more if sums is None else sums + more.to(sums.device)


def _finite(sums: torch.Tensor | None) -> torch.Tensor:
    assert sums is not None
    if not bool(sums.isfinite().all()):
        raise NonFiniteError("[torch] inputs of a layer must be finite, got NaN or infinity")
    return sums
