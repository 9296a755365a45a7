# SPDX-License-Identifier: Apache-2.0
"""Prune a trained module at once, the weights that stay making up for those that go."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from moptcore import Error, _core
from moptcore.core import Pattern, require
from moptcore.torch import inputs, masking, selection, together
from moptcore.torch.arguments import unwrapped
from moptcore.torch.pruner import Pruner

__all__ = ["prune_with_reconstruction"]

_WHERE = "torch.prune_with_reconstruction"


@dataclass(frozen=True)
class _Options:
    sparsity: float | None
    pattern: tuple[int, int] | None
    damping: float
    block_size: int


@torch.no_grad()
def prune_with_reconstruction(
    model: torch.nn.Module,
    data: Iterable[Any],
    sparsity: float | None = None,
    n: int | None = None,
    m: int | None = None,
    *,
    damping: float = 0.01,
    block_size: int = 128,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    strict: bool = False,
    batches: int | None = None,
) -> Pruner:
    """Prunes the weights of linear layers and convolutions in place, without training.

    Layer by layer in the order in which the data reaches them: the inputs of a layer are measured
    with the pruned layers before it, then its weights are pruned and the others changed such that
    its output on these inputs stays close (`moptcore.prune.sparsegpt`).

    data: batches: the model's argument, (argument, ...) or keyword mappings. They are kept and
        run through the model once for each layer, in evaluation mode.
    sparsity: exactly round(size * sparsity) zeros in each weight; the groups of a convolution
        share them evenly. Or
    n, m: keep n of every m weights along the input channels; an incomplete last group is kept.
    damping, block_size: of `moptcore.prune.sparsegpt`.
    include, exclude: globs on module path or parameter name, types, callables (path, module).
    strict: raises CoverageError, before anything changes, when a selected parameter cannot be
        pruned or the data does not reach it.
    batches: how many batches to take at most; None takes all.

    Returns a Pruner without a schedule that holds the zeros while the model is trained further.
    Its coverage has the relative error of each layer's output, `output_error`. Tied weights are
    pruned for the inputs of all their layers. Zeros that another Pruner holds stay, also where that
    makes more of them than asked for. Where an error is raised no weight has changed.

    Frantar and Alistarh, "SparseGPT: massive language models can be accurately pruned in
    one-shot", ICML 2023, section 3. Raises Error for bad arguments, no data, or inputs that
    damping=0 cannot tell apart, and NonFiniteError for NaN or infinity.
    """
    options = _checked(model, sparsity, n, m, damping, block_size, batches)
    model = unwrapped(model)
    kept = list(islice(inputs.batches(_WHERE, "data", data), batches))
    users: dict[int, list[torch.nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), []).append(module)

    def layers_of(
        _: torch.nn.Module, weight: torch.Tensor
    ) -> tuple[list[torch.nn.Module] | None, str]:
        layers = users[id(weight)]
        for layer in layers:
            rule, why = masking.rule_for(options.pattern, layer, weight)
            why = why or inputs.why_unknown(layer, weight)
            if rule is None or why:
                return None, why
        if len({getattr(layer, "groups", 1) for layer in layers}) > 1:
            return None, "tied between layers of different groups"
        return layers, ""

    found = selection.find(model, include, exclude, _WHERE, "prune", "pruned", layers_of)
    layers = {name: list(dict.fromkeys(each)) for name, each in found.rules.items()}
    calls = _calls(model, kept, layers)
    rows = {row.name: row for row in found.rows}
    for name in layers:
        if name not in calls:
            why = "the data does not reach it, or its weight is used without calling the layer"
            rows[name] = replace(rows[name], done=False, reason=why)
    if strict:
        require(rows.values(), _WHERE)
    before = {name: found.parameters[name].detach().clone() for name in calls}
    masks: dict[str, torch.Tensor] = {}
    held = together.masks()
    try:
        for name, once in calls.items():
            weight = found.parameters[name]
            try:
                hessians = _hessians(model, kept, layers[name], stop=once)
                bits = held.get(id(weight))
                old = None if bits is None else masking.unpack(bits, weight.shape)
                new, mask = _pruned(weight, hessians, options, old)
            except Error as error:
                raise type(error)(f"[{_WHERE}] {name} cannot be pruned: {error}") from error
            weight.copy_(new)
            masks[name] = mask.to(weight.device)
            after = {"output_error": _error(before[name], weight, hessians)}
            rows[name] = replace(rows[name], after=after)
    except BaseException:
        for name, saved in before.items():
            found.parameters[name].copy_(saved)
        raise
    pruner = Pruner(model, structure=options.pattern, masks=masks)
    pruner._explain(tuple(rows.values()))
    together.renewed({id(found.parameters[name]) for name in masks})
    return pruner


def _checked(
    model: Any, sparsity: Any, n: Any, m: Any, damping: Any, block_size: Any, batches: Any
) -> _Options:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"[{_WHERE}] model must be a Module, got {type(model).__name__}")
    if (sparsity is None) == (n is None and m is None):
        raise Error(
            f"[{_WHERE}] exactly one of sparsity and n with m must be given, got "
            f"sparsity={sparsity}, n={n}, m={m}"
        )
    if sparsity is not None and not 0.0 <= sparsity < 1.0:
        raise Error(f"[{_WHERE}] sparsity must be in [0, 1), got {sparsity}")
    if sparsity is None and not (_whole(n) and _whole(m) and n < m):
        raise Error(f"[{_WHERE}] n and m must be integers with 1 <= n < m, got {n!r} and {m!r}")
    if not (0.0 <= damping < math.inf):
        raise Error(f"[{_WHERE}] damping must be finite and >= 0, got {damping}")
    if not _whole(block_size):
        raise Error(f"[{_WHERE}] block_size must be an integer >= 1, got {block_size!r}")
    if batches is not None and not _whole(batches):
        raise Error(f"[{_WHERE}] batches must be an integer >= 1 or None, got {batches!r}")
    pattern = None if sparsity is not None else (n, m)
    return _Options(sparsity, pattern, float(damping), block_size)


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def _calls(
    model: torch.nn.Module, data: list[Any], layers: dict[str, list[torch.nn.Module]]
) -> dict[str, bool]:
    """The weights in the order of their first use; whether no batch uses them twice."""
    named = [(name, layer) for name, each in layers.items() for layer in each]
    once: dict[str, bool] = {}
    for batch in data:
        used: set[str] = set()

        def seen(name: str, _: Any, x: torch.Tensor, used: set[str] = used) -> None:
            if x.numel():
                once[name] = once.get(name, True) and name not in used
                used.add(name)

        inputs.observe(model, [batch], named, seen)
    return once


def _hessians(
    model: torch.nn.Module, data: list[Any], layers: list[torch.nn.Module], stop: bool
) -> torch.Tensor:
    hessian = inputs.Hessian()

    def seen(_: str, layer: torch.nn.Module, x: torch.Tensor) -> None:
        hessian.update(layer, x)

    inputs.observe(model, data, [("", layer) for layer in layers], seen, stop)
    return hessian.result()


def _pruned(
    weight: torch.Tensor, hessians: torch.Tensor, options: _Options, held: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """New weights and their mask, on the CPU, where the core computes them; `held` of others."""
    groups = len(hessians)
    rows = weight.detach().cpu().flatten(1).unflatten(0, (groups, -1))
    new, kept = torch.empty_like(rows), torch.empty(rows.shape, dtype=torch.bool)
    zeros = 0
    for group, hessian in enumerate(hessians.cpu()):
        old = rows[group].contiguous()
        more: dict[str, Any] = {"damping": options.damping, "block_size": options.block_size}
        if options.pattern is not None:
            found, mask = _patterned(old, hessian, weight.shape[1], options.pattern, more)
        else:
            assert options.sparsity is not None
            # Python rounds as the core does; what groups cannot share evenly goes to some of them.
            until = round(old.numel() * (group + 1) * options.sparsity)
            share = options.sparsity if groups == 1 else (until - zeros) / old.numel()
            zeros = until
            how: dict[str, Any] = {"sparsity": share}
            if share == 1.0:
                how = {"mask": torch.zeros_like(old, dtype=torch.bool)}
            found, mask = _core.prune.sparsegpt(old, hessian, **how, **more)
        if held is not None:
            both = mask & held.cpu().reshape(new.shape)[group]
            if not torch.equal(both, mask):
                found, mask = _core.prune.sparsegpt(old, hessian, mask=both, **more)
        new[group], kept[group] = found, mask
    return new.reshape(weight.shape), kept.reshape(weight.shape)


def _patterned(
    old: torch.Tensor,
    hessian: torch.Tensor,
    channels: int,
    pattern: tuple[int, int],
    more: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """n of every m along the channels at each place of the kernel."""
    n, m = pattern
    places = torch.arange(old.shape[1]).unflatten(0, (channels, -1)).T
    whole = channels // m * m
    # What fills no group comes last, where it does not change which of the others stay.
    order = torch.cat([places[:, :whole].flatten(), places[:, whole:].flatten()])
    filled = whole * len(places)
    old, hessian = old[:, order], hessian[order][:, order]
    found, mask = _core.prune.sparsegpt(old, hessian, n=n, m=m, **more)
    if old.shape[1] - filled >= m:
        # The incomplete groups of several places are no group.
        mask[:, filled:] = True
        found, mask = _core.prune.sparsegpt(old, hessian, mask=mask, **more)
    new, kept = torch.empty_like(found), torch.empty_like(mask)
    new[:, order], kept[:, order] = found, mask
    return new, kept


def _error(old: torch.Tensor, new: torch.Tensor, hessians: torch.Tensor) -> float:
    """Norm of the change of the output over the norm of the output, without bias."""

    def power(weight: torch.Tensor) -> float:
        rows = weight.to(hessians.device, hessians.dtype).flatten(1)
        grouped = rows.unflatten(0, (len(hessians), -1))
        return float(((grouped @ hessians) * grouped).sum().clamp(min=0))

    whole = power(old)
    return math.sqrt(power(inputs.wide(new) - inputs.wide(old)) / whole) if whole else 0.0
