# SPDX-License-Identifier: Apache-2.0
"""What the functions of moptcore.torch ask of every tensor and model that they are given."""

from __future__ import annotations

import math
from typing import Any

import torch

from moptcore import DTypeError, Error

__all__ = [
    "axes",
    "check_adaptor",
    "dimensions",
    "is_plain",
    "number",
    "prepared",
    "same_device",
    "tensor",
    "unwrapped",
]


def tensor(where: str, name: str, value: Any) -> torch.Tensor:
    """`value`; raises DTypeError unless it is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise DTypeError(f"[{where}] {name} must be a Tensor, got {type(value).__name__}")
    return value


def axes(where: str, name: str, value: torch.Tensor, least: int = 1) -> None:
    """Raises Error unless `value` has as many axes."""
    if value.dim() < least:
        raise Error(f"[{where}] {name} must have {least} or more axes, got a scalar")


def check_adaptor(where: str, adaptor: Any) -> None:
    """Raises DTypeError unless `adaptor` can be called."""
    if adaptor is not None and not callable(adaptor):
        raise DTypeError(
            f"[{where}] adaptor must be a Module or None, got {type(adaptor).__name__}"
        )


def same_device(where: str, name: str, value: torch.Tensor, first: str, on: torch.Tensor) -> None:
    """Raises Error unless `value` is on the device of the argument `first`.

    A kernel without data (meta, fake) wins over all others, so that a single such argument would
    give a result of memory that nobody wrote.
    """
    if value.device != on.device:
        raise Error(
            f"[{where}] {name} must be on the device of {first} ({on.device}), got {value.device}"
        )


_PLAIN = (torch.Tensor, torch.nn.Parameter)
_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_modes = torch._C._len_torch_dispatch_stack


def is_plain(*values: torch.Tensor | None) -> bool:
    """True for tensors in memory of the CPU, called eagerly: the core can take them as they are.

    Operators go to it straight then. The dispatcher is for everything else, such as tensors that
    are traced or transformed, and would cost more than the arithmetic of a small tensor.
    """
    if torch.compiler.is_compiling() or _modes():
        return False
    for value in values:
        if value is not None and not (
            type(value) in _PLAIN
            and value.is_cpu
            and value.layout is torch.strided
            and not _wrapped(value)
        ):
            return False
    return True


def number(
    where: str, name: str, value: Any, low: float, high: float = math.inf, open_low: bool = False
) -> float:
    """`value` as a finite float from `low` to `high`, without `low` itself where that is open."""
    if high < math.inf:
        allowed = f"in [{low:g}, {high:g}]"
    else:
        allowed = f"finite and {'>' if open_low else '>='} {low:g}"
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"[{where}] {name} must be a number {allowed}, got {value!r}") from error
    if not (math.isfinite(found) and low <= found <= high and not (open_low and found == low)):
        raise Error(f"[{where}] {name} must be {allowed}, got {value}")
    return found


def dimensions(model: torch.nn.Module, what: str) -> dict[str, str]:
    """Why the parameters of fewer than two dimensions are none of those that are `what`."""
    return {
        name: f"it has {each.dim()} dimension{'' if each.dim() == 1 else 's'}; only parameters "
        f"with 2 or more are {what}"
        for name, each in model.named_parameters(remove_duplicate=False)
        if not isinstance(each, torch.nn.parameter.UninitializedParameter) and each.dim() < 2
    }


def prepared(where: str, model: torch.nn.Module, what: str) -> dict[torch.nn.Module, str]:
    """Why layers that prepare_qat has taken into its own must stay; Error where it took them all.

    Its layers go on with the modules that they were given, whatever is put into the model.
    """
    if hasattr(model, "hold_codebooks"):
        raise Error(
            f"[{where}] model must not be prepared for quantization yet ({what} before "
            f"prepare_qat, or strip() first), got {type(model).__name__}"
        )
    return {
        each: f"prepare_qat has taken its weight into another layer: {what} before prepare_qat"
        for module in model.modules()
        if hasattr(module, "hold_codebooks")
        for each in module.modules()
    }


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The user's module inside torch.compile and data-parallel wrappers: names stay the same."""
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), torch.nn.Module):
            model = inner
        else:
            return model
