# SPDX-License-Identifier: Apache-2.0
"""Take everything that moptcore added out of a module."""

from __future__ import annotations

import torch

__all__ = ["strip"]


def strip(model: torch.nn.Module) -> torch.nn.Module:
    """The module without what moptcore added: same class, names and shapes as before.

    Modules that moptcore put in have a method `_moptcore_strip_()` that returns the plain module;
    each is replaced by it, in place. The hooks and masks of `moptcore.torch.prune` go as by its
    `remove`. A Pruner adds nothing to a module. Pruned weights stay zero. Use the returned module:
    the root may be replaced too.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"[torch.strip] model must be a Module, got {type(model).__name__}")
    return _stripped(model, {})


def _stripped(
    module: torch.nn.Module, done: dict[torch.nn.Module, torch.nn.Module]
) -> torch.nn.Module:
    if module in done:
        return done[module]
    plain = module
    while (take_out := getattr(plain, "_moptcore_strip_", None)) is not None:
        plain = take_out()
    done[module] = done[plain] = plain
    for hook in list(plain._forward_pre_hooks.values()):
        take_off = getattr(hook, "_moptcore_strip_from_", None)
        if take_off is not None:
            take_off(plain)
    for name, child in plain._modules.items():
        if child is not None:
            plain._modules[name] = _stripped(child, done)
    return plain
