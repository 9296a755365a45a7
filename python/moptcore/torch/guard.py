# SPDX-License-Identifier: Apache-2.0
"""One parameter whose pruned entries stay zero, whatever writes to it.

Three places see every way in which training writes to a parameter: its gradient is zero where it
is pruned, every optimizer's step is followed by zeros, and the owner of a guard calls `restore`
before the parameter is used. A guard goes along when its owner is copied or pickled.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from moptcore.torch import masking, together
from moptcore.torch.operators import apply_mask

__all__ = ["Guard", "masked"]

_GUARDS: weakref.WeakSet[Guard] = weakref.WeakSet()
_watched: list[Any] = []


class Guard:
    """Zeros in `parameter` where `mask` (any dtype, in its shape) is zero."""

    def __init__(self, parameter: torch.nn.Parameter, mask: torch.Tensor) -> None:
        self.parameter = parameter
        self.mask = mask
        self._start()

    def __getstate__(self) -> dict[str, torch.Tensor]:
        return {"parameter": self.parameter, "mask": self.mask}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.parameter, self.mask = state["parameter"], state["mask"]
        self._start()

    def _start(self) -> None:
        self._bits: torch.Tensor | None = None
        self._bits_of: tuple[Any, ...] = ()
        self._handle: Any = None
        self._watch_gradient()
        _GUARDS.add(self)
        together.join(self)
        if not _watched:
            _watched.append(register_optimizer_step_post_hook(_after_step))

    def stop(self) -> None:
        """Leaves the parameter to itself, with the zeros that it has."""
        _GUARDS.discard(self)
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def follow(self, parameter: torch.nn.Parameter, mask: torch.Tensor) -> None:
        """Continues on another parameter or mask."""
        if parameter is not self.parameter:
            if self._handle is not None:
                self._handle.remove()
                self._handle = None
            self.parameter = parameter
        self.mask = mask
        self._watch_gradient()

    def prune(self) -> None:
        """Zeros the pruned entries; autograd sees that the parameter changed."""
        masking.zero_pruned(self.parameter, self.bits())
        together.renewed({id(self.parameter)})

    def _masks_now(self) -> dict[int, torch.Tensor]:
        return {id(self.parameter): self.bits()} if self in _GUARDS else {}

    def restore(self) -> None:
        """Zeros that are zeros already, unless somebody wrote to the parameter."""
        masking.rewrite_zeros(self.parameter, self.bits())

    def bits(self) -> torch.Tensor:
        """The mask as packed bits on the parameter's device."""
        mask, device = self.mask, self.parameter.device
        version = 0 if mask.is_inference() else mask._version
        known = self._bits_of
        if not known or known[0] is not mask or known[1:] != (version, device):
            keep = (mask.detach() != 0).to(device).expand(self.parameter.shape)
            self._bits, self._bits_of = masking.pack(keep.contiguous()), (mask, version, device)
        assert self._bits is not None
        return self._bits

    def gradient(self, grad: torch.Tensor) -> torch.Tensor:
        """`grad` with zeros where the parameter is pruned."""
        if grad.layout == torch.sparse_coo:
            grad = grad.coalesce()
            indices, values = grad.indices(), grad.values()
            kept = (self.mask != 0).to(grad.device)[tuple(indices)]
            values = values.masked_fill(~kept, 0)
            return torch.sparse_coo_tensor(
                indices, values, grad.shape, is_coalesced=True, check_invariants=False
            )
        # The operator knows no batches of gradients and no complex numbers.
        if torch.is_grad_enabled() or not grad.is_floating_point() or _is_wrapped(grad):
            return masked(grad, self.mask)
        return apply_mask(grad, self.bits())

    def _watch_gradient(self) -> None:
        # Frozen parameters take no hook; it comes when they are thawed.
        if self._handle is None and self.parameter.requires_grad:
            self._handle = self.parameter.register_hook(_GradientMask(self))


class _GradientMask:
    """The hook on a parameter. It does not keep the guard, which keeps the parameter, alive."""

    # Hooks are not stored with a tensor; whoever stores a guard gets a new one.
    __torch_unserializable__ = True

    def __init__(self, guard: Guard) -> None:
        self._guard = weakref.ref(guard)

    def __call__(self, grad: torch.Tensor) -> torch.Tensor | None:
        guard = self._guard()
        return None if guard is None else guard.gradient(grad)


def masked(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A differentiable copy of `weight` with zeros where `mask` is zero."""
    return weight.masked_fill((mask == 0).to(weight.device), 0)


def _is_wrapped(grad: torch.Tensor) -> bool:
    """Whether torch.func or a batched backward pass looks through this tensor at another."""
    if type(grad) is not torch.Tensor or torch._C._functorch.is_functorch_wrapped_tensor(grad):
        return True
    # Batches of `torch.autograd.grad(is_grads_batched=True)` are of neither kind.
    return grad.is_cpu and not torch._C._dispatch_keys(grad).has(torch._C.DispatchKey.CPU)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Momentum moves weights whose gradients are zero."""
    if not _GUARDS:
        return
    stepped = {id(each) for group in optimizer.param_groups for each in group["params"]}
    for guard in list(_GUARDS):
        if id(guard.parameter) in stepped:
            guard.restore()
