# SPDX-License-Identifier: Apache-2.0
"""The operators `moptcore::fake_quantize` and `moptcore::fake_quantize_backward`.

On CPU the core computes them, on every other device torch operations with the same bits. The
forward pass keeps one bit per element: whether the straight-through gradient passes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from moptcore import DTypeError, Error, _core
from moptcore.torch.arguments import is_plain, same_device, tensor
from moptcore.torch.composite import pack_bits, unpack_bits

__all__ = ["fake_quantize", "rounded"]

_WHERE = "torch.fake_quantize"

_LIBRARY = torch.library.Library("moptcore", "FRAGMENT")
_LIBRARY.define(
    "fake_quantize(Tensor x, Tensor scale, Tensor zero_point, int qmin, int qmax, "
    "int? axis=None) -> (Tensor, Tensor)"
)
_LIBRARY.define("fake_quantize_backward(Tensor grad, Tensor bits) -> Tensor")

_FORWARD = torch.ops.moptcore.fake_quantize.default
_BACKWARD = torch.ops.moptcore.fake_quantize_backward.default


def fake_quantize(
    x: torch.Tensor,
    scale: Any,
    zero_point: Any = 0,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
) -> torch.Tensor:
    """dequantize(quantize(x)) with a straight-through gradient: 1 inside [qmin, qmax], else 0.

    `scale` (> 0) and `zero_point` (an integer in [qmin, qmax]) are one number, or one for each
    index of `axis`; as tensors they are on the device of `x`. NaN stays NaN and passes no
    gradient; no gradient reaches `scale`. Of a QParams `qp` these are `qp.scale, qp.zero_point,
    qp.qmin, qp.qmax, qp.axis`.

    Raises Error naming the argument that breaks one of these rules. Values of `scale` and
    `zero_point` are looked at on CPU only, where that does not wait for a device.
    """
    if not tensor(_WHERE, "x", x).is_floating_point():
        raise DTypeError(f"[{_WHERE}] x must have a floating dtype, got {x.dtype}")
    if axis is not None and not -x.dim() <= axis < x.dim():
        raise Error(f"[{_WHERE}] axis must be in [{-x.dim()}, {x.dim()}), got {axis}")
    size = 1 if axis is None else x.shape[axis]
    steps = _grid("scale", scale, torch.float32, x, size)
    zeros = _grid("zero_point", zero_point, torch.int32, x, size)
    if axis is not None and axis < 0:
        axis += x.dim()
    return rounded(x, steps, zeros, qmin, qmax, axis)


def _grid(name: str, value: Any, dtype: torch.dtype, x: torch.Tensor, size: int) -> torch.Tensor:
    """A scale or zero point as one number for each of `size` indices."""
    if size == 1 and x.is_cpu and type(value) in (int, float) and not torch.compiler.is_compiling():
        if type(value) is float and not dtype.is_floating_point:
            raise DTypeError(f"[{_WHERE}] {name} must hold integers, got torch.float32")
        return _constant(value, dtype)
    if isinstance(value, torch.Tensor):
        if value.dtype == dtype and value.shape == (size,) and not value.requires_grad:
            same_device(_WHERE, name, value, "x", x)
            return value.contiguous()
        same_device(_WHERE, name, value, "x", x)
        found = value.detach()
    else:
        found = torch.as_tensor(value, device=x.device)
    if not dtype.is_floating_point and (found.is_floating_point() or found.dtype == torch.bool):
        raise DTypeError(f"[{_WHERE}] {name} must hold integers, got {found.dtype}")
    if found.numel() not in (1, size) or found.dim() > 1:
        raise Error(
            f"[{_WHERE}] {name} must hold {'one number' if size == 1 else f'1 or {size} numbers'}, "
            f"got shape {tuple(found.shape)}"
        )
    return found.to(dtype).reshape(-1).expand(size).contiguous()


@lru_cache(maxsize=256)
def _constant(value: float, dtype: torch.dtype) -> torch.Tensor:
    """A vector of one number, the same one for the same number: nobody writes to it."""
    with torch.inference_mode(False):
        return torch.tensor([value], dtype=dtype)


def rounded(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    in_place: bool = False,
) -> torch.Tensor:
    """`fake_quantize` without its checks: `scale` is float32, `zero_point` int32.

    `in_place` allows to overwrite `x`; the result may still be another tensor.
    """
    if is_plain(x):
        in_place = in_place and not x._is_view()
        if x.requires_grad and torch.is_grad_enabled():
            eager: Any = _Eager  # autograd.Function.apply is not annotated
            y = eager.apply(x, (scale, zero_point, qmin, qmax, axis), in_place)
        else:
            x = x.detach()
            y = _core.quant.fake_quantize_affine(
                x, scale, zero_point, qmin, qmax, axis, x if in_place else None
            )
    else:
        y, _ = _FORWARD(x, scale, zero_point, qmin, qmax, axis)
    result: torch.Tensor = y
    return result


def _cpu(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    y, bits = _core.quant.fake_quantize_affine(
        x.detach(), scale, zero_point, qmin, qmax, axis, bits=True
    )
    return y, bits


def _composite(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    step = scale.detach().to(wide).reshape(shape)
    zero = zero_point.to(wide).reshape(shape)
    low, high = qmin - zero, qmax - zero
    rounded = torch.round(x.detach().to(wide) / step)
    inside = (rounded >= low) & (rounded <= high)
    # Adding zero turns -0 into +0, as integers have no -0.
    y = torch.clamp(rounded, low, high) * step + 0.0
    return y.to(x.dtype).contiguous(), pack_bits(inside)


def _fake(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    same_device(_WHERE, "scale", scale, "x", x)
    same_device(_WHERE, "zero_point", zero_point, "x", x)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8)


def _backward_cpu(grad: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    passed: torch.Tensor = _core.quant.fake_quantize_backward(grad.detach(), bits)
    return passed


def _backward_composite(grad: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    return torch.where(unpack_bits(bits, grad.shape), grad, grad.new_zeros(())).contiguous()


def _backward_fake(grad: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    same_device("torch.fake_quantize_backward", "bits", bits, "grad", grad)
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


class _Eager(torch.autograd.Function):
    """Straight to the core: for plain tensors on CPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, grid: tuple[Any, ...], in_place: bool) -> Any:
        plain = x.detach()
        out = plain if in_place else None
        scale, zero_point, qmin, qmax, axis = grid
        y, bits = _core.quant.fake_quantize_affine(
            plain, scale, zero_point, qmin, qmax, axis, out, True
        )
        ctx.save_for_backward(bits)
        if in_place:
            ctx.mark_dirty(x)
            return x
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (bits,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(grad):
            return _BACKWARD(grad, bits), None, None
        return _core.quant.fake_quantize_backward(grad, bits), None, None


class _Dispatched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Any, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        y, bits = _below_autograd(_FORWARD, keys, *arguments)
        ctx.save_for_backward(bits)
        ctx.mark_non_differentiable(bits)
        return y, bits

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[Any, ...]:
        return (None, _BACKWARD(grad, ctx.saved_tensors[0]), *[None] * 5)


class _DispatchedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Any, grad: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(bits)
        passed: torch.Tensor = _below_autograd(_BACKWARD, keys, grad, bits)
        return passed

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return None, _BACKWARD(grad, ctx.saved_tensors[0]), None


def _below_autograd(operator: Any, keys: Any, *arguments: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)


def _autograd(keys: Any, x: torch.Tensor, *others: Any) -> Any:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Dispatched.apply(keys, x, *others)  # type: ignore[no-untyped-call]
    return _below_autograd(_FORWARD, keys, x, *others)


def _backward_autograd(keys: Any, grad: torch.Tensor, bits: torch.Tensor) -> Any:
    if torch.is_grad_enabled() and grad.requires_grad:
        return _DispatchedBackward.apply(keys, grad, bits)  # type: ignore[no-untyped-call]
    return _below_autograd(_BACKWARD, keys, grad, bits)


for _name, _core_kernel, _torch_kernel, _shape_kernel, _grad_kernel in (
    ("fake_quantize", _cpu, _composite, _fake, _autograd),
    (
        "fake_quantize_backward",
        _backward_cpu,
        _backward_composite,
        _backward_fake,
        _backward_autograd,
    ),
):
    _LIBRARY.impl(_name, _core_kernel, "CPU")
    _LIBRARY.impl(_name, _torch_kernel, "CompositeExplicitAutograd")
    _LIBRARY.impl(_name, _grad_kernel, "Autograd", with_keyset=True)
    torch.library.register_fake(f"moptcore::{_name}", _shape_kernel, lib=_LIBRARY)
