# SPDX-License-Identifier: Apache-2.0
"""The operator `moptcore::integer_layer`: a layer's forward pass on the integers that deploy.

On CPU `moptcore._runtime` computes it. Everywhere else, for other dtypes than float32 and where x
holds NaN, the float layer on the rounded values stands in. The gradients are always that one's.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from moptcore import NonFiniteError

__all__ = ["Geometry", "Operands", "geometry", "integer_layer", "why_not"]

_LIBRARY = torch.library.Library("moptcore", "FRAGMENT")
_LIBRARY.define(
    "integer_layer(Tensor x, Tensor weight, Tensor? bias, Tensor scale, Tensor zero_point, "
    "Tensor integers, Tensor weight_scale, Tensor? integer_bias, int[] stride, int[] padding, "
    "int[] dilation, int groups) -> Tensor"
)
_FORWARD = torch.ops.moptcore.integer_layer.default
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class Geometry(NamedTuple):
    """A convolution's arguments; without a stride it is a linear layer."""

    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    #: What F.pad adds before: "same" pads an even kernel on one side more than on the other.
    more: tuple[int, ...] = ()


class Operands(NamedTuple):
    """What the integers are, and what they stand for."""

    scale: torch.Tensor  # float32 (): of x
    zero_point: torch.Tensor  # int32 (): of x, in uint8
    integers: torch.Tensor  # int8, the weight's shape
    weight_scale: torch.Tensor  # float32 [out]
    bias: torch.Tensor | None  # int32 [out], in steps of scale * weight_scale


def why_not(weight: torch.Tensor, kind: str) -> str:
    """Why a layer's forward pass stays in float wherever it runs; "" where it need not."""
    if kind == "conv" and weight.dim() > 4:
        return "Conv3d has no integer kernel"
    if weight.dtype != torch.float32:
        return f"integer kernels take float32, got {str(weight.dtype).removeprefix('torch.')}"
    try:
        runtime = _runtime()
    except ImportError:
        return "moptcore was built without oneDNN"
    most: int = runtime.INTEGER_DEPTH
    if weight[0].numel() > most:
        return f"integer sums take {most} products, got {weight[0].numel()}"
    return ""


@functools.cache
def _runtime() -> Any:
    # On first use: loading it costs milliseconds and megabytes.
    return importlib.import_module("moptcore._runtime")


def geometry(options: dict[str, Any], weight: torch.Tensor) -> Geometry:
    """Of the options of F.conv1d or F.conv2d."""
    kernel = weight.shape[2:]

    def spread(value: Any) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * len(kernel) if len(values) == 1 else values

    stride, dilation = spread(options["stride"]), spread(options["dilation"])
    more: tuple[int, ...] = ()
    if options["padding"] == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple(each // 2 for each in total)
        if any(each % 2 for each in total):
            more = tuple(side for each in reversed(total) for side in (0, each % 2))
    else:
        padding = spread(0 if options["padding"] == "valid" else options["padding"])
    return Geometry(stride, padding, dilation, options["groups"], more)


def integer_layer(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    operands: Operands,
    shape: Geometry,
) -> torch.Tensor:
    """The layer's float results from integers; gradients go to x, weight and bias.

    `weight` and `bias` are the floats that `operands` stand for, or nearly so. They are what
    other devices compute with.
    """
    if shape.more:
        x = F.pad(x, shape.more)
    arguments = (x, weight, bias, *operands, *shape[:4])
    if type(x) in _PLAIN and x.is_cpu and not torch.compiler.is_compiling():
        needs = x.requires_grad or weight.requires_grad
        needs = needs or (bias is not None and bias.requires_grad)
        if torch.is_grad_enabled() and needs:
            eager: Any = _Eager  # autograd.Function.apply is not annotated
            y = eager.apply(*arguments)
        else:
            y = _cpu(*arguments)
    else:
        y = _FORWARD(*arguments)
    result: torch.Tensor = y
    return result


def _cpu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    integers: torch.Tensor,
    weight_scale: torch.Tensor,
    integer_bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    if x.dtype == torch.float32:
        grids = (scale.item(), int(zero_point.item()), integers, weight_scale.detach())
        values = x.detach().contiguous()
        try:
            y: torch.Tensor
            if not stride:
                y = _runtime().integer_linear(values, *grids, integer_bias)
            else:
                sides = _pair(padding, 0)
                y = _runtime().integer_convolution(
                    values, *grids, integer_bias, _pair(stride, 1), sides, sides,
                    _pair(dilation, 1), groups,
                )  # fmt: skip
            return y
        except NonFiniteError:
            # Integers have no NaN, but training must see it.
            pass
    return _composite(x, weight, bias, stride, padding, dilation, groups)


def _pair(values: tuple[int, ...], one: int) -> tuple[int, int]:
    return (one, values[0]) if len(values) == 1 else (values[0], values[1])


def _composite(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> torch.Tensor:
    if not stride:
        return F.linear(x, weight, bias)
    conv = F.conv1d if len(stride) == 1 else F.conv2d
    return conv(x, weight, bias, stride, padding, dilation, groups).contiguous()


def _other(x: torch.Tensor, weight: torch.Tensor, bias: Any, *others: Any) -> torch.Tensor:
    return _composite(x, weight, bias, *others[5:])


class _Layer(torch.autograd.Function):
    """The backward pass, that of the float layer."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.shape
        wanted = list(ctx.needs_input_grad[-12:-9])
        by_x = by_weight = by_bias = None
        if stride:
            by_x, by_weight, by_bias = torch.ops.aten.convolution_backward(
                grad, x, weight, [len(weight)], stride, padding, dilation, False, [0], groups,
                wanted,
            )  # fmt: skip
        else:
            rows = grad.reshape(-1, len(weight))
            if wanted[0]:
                by_x = (rows @ weight).reshape(x.shape)
            if wanted[1]:
                by_weight = rows.t() @ x.reshape(-1, weight.shape[1])
            if wanted[2]:
                by_bias = rows.sum(0)
        return (*[None] * (len(ctx.needs_input_grad) - 12), by_x, by_weight, by_bias, *[None] * 9)


class _Eager(_Layer):
    """Straight to the runtime: for plain tensors on CPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, *others: Any) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = others[6:]
        return _cpu(x, weight, *others)


class _Dispatched(_Layer):
    @staticmethod
    def forward(
        ctx: Any, keys: Any, x: torch.Tensor, weight: torch.Tensor, *others: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = others[6:]
        return _below_autograd(keys, x, weight, *others)


def _below_autograd(keys: Any, *arguments: Any) -> torch.Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        y: torch.Tensor = _FORWARD.redispatch(keys & torch._C._after_autograd_keyset, *arguments)
    return y


def _autograd(keys: Any, *arguments: Any) -> torch.Tensor:
    if torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in arguments[:3]
    ):
        y: torch.Tensor = _Dispatched.apply(keys, *arguments)  # type: ignore[no-untyped-call]
        return y
    return _below_autograd(keys, *arguments)


def _fake(x: torch.Tensor, weight: torch.Tensor, bias: Any, *others: Any) -> torch.Tensor:
    return _composite(x, weight, bias, *others[5:]).contiguous()


_LIBRARY.impl("integer_layer", _cpu, "CPU")
_LIBRARY.impl("integer_layer", _other, "CompositeExplicitAutograd")
_LIBRARY.impl("integer_layer", _autograd, "Autograd", with_keyset=True)
torch.library.register_fake("moptcore::integer_layer", _fake, lib=_LIBRARY)
