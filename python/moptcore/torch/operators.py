# SPDX-License-Identifier: Apache-2.0
"""The operators `torch.ops.moptcore.*`: the core on CPU, torch operations everywhere else.

Each has a CPU kernel, a fake kernel for tracing, and a composite kernel for all other devices.
`apply_mask` and `soft_target_loss` are differentiable; the masks are not.
"""

from __future__ import annotations

from typing import Any

import torch

from moptcore import DTypeError, UnsupportedError, _core
from moptcore.torch import composite
from moptcore.torch.arguments import axes, is_plain, same_device, tensor

__all__ = ["apply_mask", "check_logits", "distillation_loss", "magnitude_mask", "soft_target_loss"]

_LIBRARY = torch.library.Library("moptcore", "FRAGMENT")
_LIBRARY.define("magnitude_mask(Tensor weights, float sparsity) -> Tensor")
_LIBRARY.define("apply_mask(Tensor weights, Tensor mask) -> Tensor")
_LIBRARY.define(
    "soft_target_loss(Tensor student, Tensor teacher, Tensor? labels, float temperature, "
    "float alpha, int axis, float label_smoothing, int ignore_index, str reduction)"
    " -> (Tensor, Tensor)"
)

_OPS = torch.ops.moptcore

Options = tuple[float, float, int, float, int, str]
"""temperature, alpha, axis, label_smoothing, ignore_index, reduction."""


def magnitude_mask(weights: torch.Tensor, sparsity: float) -> torch.Tensor:
    """bool mask: all but the round(n * sparsity) smallest magnitudes; ties keep the lowest index.

    Raises NonFiniteError for NaN, Error for a sparsity outside [0, 1).
    """
    tensor("torch.magnitude_mask", "weights", weights)
    mask: torch.Tensor
    if is_plain(weights):
        mask = _core.prune.magnitude_mask(weights.detach(), sparsity)
        return mask
    mask = _OPS.magnitude_mask.default(weights, sparsity)
    return mask


def apply_mask(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`weights` with zeros where `mask` is off; differentiable in `weights`.

    `mask` is bool in the shape of `weights`, or uint8 [ceil(n / 8)], one bit per weight.
    """
    where = "torch.apply_mask"
    same_device(
        where, "mask", tensor(where, "mask", mask), "weights", tensor(where, "weights", weights)
    )
    masked: torch.Tensor
    if not is_plain(weights, mask):
        masked = _OPS.apply_mask.default(weights, mask)
    elif weights.requires_grad and torch.is_grad_enabled():
        masked = _CoreMask.apply(weights, mask)  # type: ignore[no-untyped-call]
    else:
        masked = _core.prune.apply_mask(weights.detach(), mask)
    return masked


def soft_target_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None = None,
    temperature: float = 4.0,
    alpha: float = 0.7,
    axis: int = -1,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "batchmean",
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient by `student`) in one pass; backward through the loss uses the gradient.

    The teacher is a constant. See moptcore.distill.soft_target_loss for the mathematics.
    """
    check_logits("torch.soft_target_loss", ("student", "teacher"), student, teacher, labels)
    options = (temperature, alpha, axis, label_smoothing, ignore_index, reduction)
    if not _reaches_core(student, teacher, labels):
        loss, grad = _OPS.soft_target_loss.default(student, teacher, labels, *options)
    elif torch.is_grad_enabled() and student.requires_grad:
        loss, grad = _CoreLossAndGradient.apply(  # type: ignore[no-untyped-call]
            student, teacher, labels, options
        )
    else:
        loss, grad = _soft_target_cpu(student, teacher, labels, *options)
    return loss, grad


def check_logits(
    where: str,
    names: tuple[str, str],
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor | None,
) -> None:
    """Raises DTypeError for what is no tensor (labels: of integers), Error for two devices."""
    first = tensor(where, names[0], student)
    axes(where, names[0], first)
    same_device(where, names[1], tensor(where, names[1], teacher), names[0], first)
    if labels is not None:
        same_device(where, "labels", tensor(where, "labels", labels), names[0], first)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise DTypeError(f"[{where}] labels must have an integer dtype, got {labels.dtype}")


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None, options: Options
) -> torch.Tensor:
    """The loss of `soft_target_loss` alone, past the dispatcher where that is possible."""
    teacher = teacher.detach()
    if not _reaches_core(student, teacher, labels):
        loss: torch.Tensor = _OPS.soft_target_loss.default(student, teacher, labels, *options)[0]
    elif torch.is_grad_enabled() and student.requires_grad:
        loss = _CoreLoss.apply(student, teacher, labels, options)  # type: ignore[no-untyped-call]
    else:
        loss, _ = _soft_target_cpu(student, teacher, labels, *options)
    return loss


def _reaches_core(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None
) -> bool:
    """Plain tensors on CPU, called eagerly, whose dtype autocast leaves alone."""
    return is_plain(student, teacher, labels) and not torch.is_autocast_enabled("cpu")


def _soft_target_cpu(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None, *options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    loss, grad = _core.distill.soft_target_loss(
        student.detach(), teacher.detach(), labels, *options
    )
    if not isinstance(loss, torch.Tensor):
        wide = torch.float64 if student.dtype == torch.float64 else torch.float32
        loss = torch.scalar_tensor(loss, dtype=wide)
    return loss, grad


def _scaled(grad: torch.Tensor, grad_loss: torch.Tensor, axis: int, reduction: str) -> torch.Tensor:
    if torch.is_grad_enabled():
        # The gradient is a constant here: a second derivative through it would be wrong.
        raise UnsupportedError(
            "[torch.soft_target_loss] create_graph must be False, got True: second derivatives "
            "are not supported"
        )
    # Rows of "none" lack the class axis.
    scale = grad_loss.unsqueeze(axis) if reduction == "none" else grad_loss
    return (grad * scale).to(grad.dtype)


class _CoreLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor | None,
        options: Options,
    ) -> torch.Tensor:
        loss, ctx.grad = _soft_target_cpu(student, teacher, labels, *options)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[Any, ...]:
        return _scaled(ctx.grad, grad_loss, ctx.options[2], ctx.options[5]), None, None, None


class _CoreLossAndGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor | None,
        options: Options,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss, grad = _soft_target_cpu(student, teacher, labels, *options)
        ctx.mark_non_differentiable(grad)
        ctx.save_for_backward(grad)
        ctx.options = options
        return loss, grad

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, _: Any) -> tuple[Any, ...]:
        (grad,) = ctx.saved_tensors
        return _scaled(grad, grad_loss, ctx.options[2], ctx.options[5]), None, None, None


class _CoreMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: torch.Tensor, mask: torch.Tensor) -> Any:
        ctx.save_for_backward(mask)
        return _core.prune.apply_mask(weights.detach(), mask)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return apply_mask(grad, mask), None
        return _core.prune.apply_mask(grad, mask), None


class _SoftTargetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        keys: Any,
        student: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor | None,
        *options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss, grad = _below_autograd(
            _OPS.soft_target_loss.default, keys, student, teacher, labels, *options
        )
        ctx.mark_non_differentiable(grad)
        ctx.save_for_backward(grad)
        ctx.options = options
        return loss, grad

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, _: Any) -> tuple[Any, ...]:
        (grad,) = ctx.saved_tensors
        return (None, _scaled(grad, grad_loss, ctx.options[2], ctx.options[5]), *[None] * 8)


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Any, weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask)
        masked: torch.Tensor = _below_autograd(_OPS.apply_mask.default, keys, weights, mask)
        return masked

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        return None, apply_mask(grad, mask), None


def _below_autograd(operator: Any, keys: Any, *arguments: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)


def _soft_target_autograd(keys: Any, student: torch.Tensor, *others: Any) -> Any:
    if torch.is_grad_enabled() and student.requires_grad:
        return _SoftTargetLoss.apply(keys, student, *others)  # type: ignore[no-untyped-call]
    return _below_autograd(_OPS.soft_target_loss.default, keys, student, *others)


def _apply_mask_autograd(keys: Any, weights: torch.Tensor, mask: torch.Tensor) -> Any:
    if torch.is_grad_enabled() and weights.requires_grad:
        return _ApplyMask.apply(keys, weights, mask)  # type: ignore[no-untyped-call]
    return _below_autograd(_OPS.apply_mask.default, keys, weights, mask)


def _soft_target_fake(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None, *options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    check_logits("torch.soft_target_loss", ("student", "teacher"), student, teacher, labels)
    axis = options[2] % student.dim()
    rows = [*student.shape[:axis], *student.shape[axis + 1 :]] if options[5] == "none" else []
    wide = torch.promote_types(student.dtype, torch.float32)
    grad = torch.empty_like(student, memory_format=torch.contiguous_format)
    return student.new_empty(rows, dtype=wide), grad


def _apply_mask_fake(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    same_device("torch.apply_mask", "mask", mask, "weights", weights)
    return _contiguous_like(weights)


def _contiguous_like(weights: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty_like(weights, dtype=dtype, memory_format=torch.contiguous_format)


def _register(name: str, cpu: Any, other: Any, fake: Any, autograd: Any = None) -> None:
    _LIBRARY.impl(name, cpu, "CPU")
    _LIBRARY.impl(name, other, "CompositeExplicitAutograd")
    torch.library.register_fake(f"moptcore::{name}", fake, lib=_LIBRARY)
    if autograd is not None:
        _LIBRARY.impl(name, autograd, "Autograd", with_keyset=True)


_register(
    "magnitude_mask",
    lambda weights, sparsity: _core.prune.magnitude_mask(weights.detach(), sparsity),
    composite.magnitude_mask,
    lambda weights, sparsity: _contiguous_like(weights, torch.bool),
)
_register(
    "apply_mask",
    lambda weights, mask: _core.prune.apply_mask(weights.detach(), mask),
    lambda weights, mask: composite.apply_mask(weights, mask).contiguous(),
    _apply_mask_fake,
    _apply_mask_autograd,
)
_register(
    "soft_target_loss",
    _soft_target_cpu,
    composite.soft_target_loss,
    _soft_target_fake,
    _soft_target_autograd,
)
for _device in ("cpu", "cuda", "xpu"):
    torch.library.register_autocast(
        "moptcore::soft_target_loss", _device, torch.float32, lib=_LIBRARY
    )
