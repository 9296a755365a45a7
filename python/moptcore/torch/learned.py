# SPDX-License-Identifier: Apache-2.0
"""`lsq`: rounding to a grid whose scale is trained, on CPU by the core, elsewhere by torch."""

from __future__ import annotations

import math
from typing import Any

import torch

from moptcore import DTypeError, Error, UnsupportedError, _core
from moptcore.torch.arguments import same_device, tensor

__all__ = ["lsq"]

_WHERE = "torch.lsq"


def lsq(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
) -> torch.Tensor:
    """(clamp(rint(x / scale) + z, qmin, qmax) - z) * scale, with gradients of x, scale and z.

    LSQ (Esser et al. 2020), with a zero point LSQ+ (Bhalgat et al. 2020); `quant.lsq_backward`
    says what the gradients are. `scale` (> 0) and `zero_point`, rounded to an integer here, are
    floating: one number, or one for each index of `axis`.

    Raises Error naming the argument that breaks one of these rules.
    """
    if not tensor(_WHERE, "x", x).is_floating_point():
        raise DTypeError(f"[{_WHERE}] x must have a floating dtype, got {x.dtype}")
    if axis is not None:
        if not -x.dim() <= axis < x.dim():
            raise Error(f"[{_WHERE}] axis must be in [{-x.dim()}, {x.dim()}), got {axis}")
        axis %= x.dim()
    if not -(2**23) <= qmin < qmax <= 2**23 or qmax < 1:
        raise Error(f"[{_WHERE}] qmin must be < qmax and qmax >= 1, got {qmin} and {qmax}")
    given = {"scale": scale} if zero_point is None else {"scale": scale, "zero_point": zero_point}
    for name, value in given.items():
        if not tensor(_WHERE, name, value).is_floating_point():
            raise DTypeError(f"[{_WHERE}] {name} must have a floating dtype, got {value.dtype}")
        same_device(_WHERE, name, value, "x", x)
        shape = () if axis is None else (x.shape[axis],)
        if value.shape != shape:
            raise Error(f"[{_WHERE}] {name} must have shape {shape}, got {tuple(value.shape)}")
    function: Any = _Lsq  # autograd.Function.apply is not annotated
    y: torch.Tensor = function.apply(x, scale, zero_point, (qmin, qmax, axis))
    return y


class _Lsq(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor | None,
        grid: tuple[int, int, int | None],
    ) -> torch.Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.grid = qmin, qmax, axis = grid
        zero = None if zero_point is None else zero_point.detach()
        if x.is_cpu:
            y: torch.Tensor = _core.quant.lsq(
                x.detach(), scale.detach(), zero, None, qmin, qmax, axis
            )
            return y
        wide, step, whole = _wide(x, scale, zero, qmin, qmax, axis)
        q = (torch.round(wide / step) + whole).clamp(qmin, qmax)
        return ((q - whole) * step + 0.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # The gradients are constants here: second derivatives through them would be wrong.
            raise UnsupportedError(
                f"[{_WHERE}] create_graph must be False, got True: second derivatives are not "
                "supported"
            )
        x, scale, zero_point = ctx.saved_tensors
        qmin, qmax, axis = ctx.grid
        if x.is_cpu:
            found = _core.quant.lsq_backward(grad, x, scale, zero_point, None, qmin, qmax, axis)
        else:
            found = _backward(grad, x, scale, zero_point, qmin, qmax, axis)
        by_x, by_scale, *by_zero = found
        return by_x, by_scale, by_zero[0] if by_zero else None, None


def _wide(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    qmin: int,
    qmax: int,
    axis: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, the scale and the whole zero point in float32 or wider, in shapes that go together."""
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = -1
    step = scale.detach().to(wide).reshape(shape)
    whole = torch.zeros_like(step)
    if zero_point is not None:
        whole = torch.round(zero_point.detach().to(wide)).clamp(qmin, qmax).reshape(shape)
    return x.detach().to(wide), step, whole


def _backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    qmin: int,
    qmax: int,
    axis: int | None,
) -> tuple[torch.Tensor, ...]:
    wide, step, whole = _wide(x, scale, zero_point, qmin, qmax, axis)
    grad = grad.detach().to(wide.dtype)
    v = wide / step
    q = torch.round(v) + whole
    inside = (q >= qmin) & (q <= qmax)
    by_x = torch.where(inside, grad, 0.0).to(x.dtype)
    known = ~wide.isnan()
    of_scale = torch.where(inside, torch.round(v) - v, q.clamp(qmin, qmax) - whole)
    count = x.numel() if axis is None else x.numel() // max(x.shape[axis], 1)
    factor = 1.0 / math.sqrt(max(count, 1) * qmax)

    def summed(each: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        # No float64 on MPS.
        each = torch.where(known, each * grad, 0.0)
        each = each if each.device.type == "mps" else each.double()
        rows = each.reshape(1, -1) if axis is None else each.movedim(axis, 0).flatten(1)
        return (rows.sum(1) * factor).to(like.dtype).reshape(like.shape)

    if zero_point is None:
        return by_x, summed(of_scale, scale)
    of_zero = torch.where(inside, 0.0, -step.expand(wide.shape))
    return by_x, summed(of_scale, scale), summed(of_zero, zero_point)
