# SPDX-License-Identifier: Apache-2.0
"""How much each weight of a module matters: the scores that Pruner ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch

from moptcore import Error, _core
from moptcore.torch import inputs
from moptcore.torch.inputs import wide
from moptcore.torch.masking import Rule, on_core

__all__ = [
    "OF_CHANNELS",
    "OF_DATA",
    "OF_GRADIENTS",
    "Score",
    "aggregated",
    "check",
    "gather",
    "moved",
    "norms_behind",
    "score",
    "snip_total",
    "why_not",
]

Score = str | Callable[[str, torch.Tensor], torch.Tensor]
"""A name, or a function of (parameter name, parameter)."""

OF_CHANNELS = ("fpgm", "batch_norm")
OF_DATA = ("wanda", "obs")
OF_GRADIENTS = ("taylor", "snip", "movement")
_NAMES = ("magnitude", "lamp", *OF_GRADIENTS, *OF_DATA, *OF_CHANNELS)
_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


def check(scores: Any, structure: Any, data: Any) -> None:
    """Raises Error for scores that do not exist or do not fit the structure."""
    where = "[torch.Pruner] scores must be"
    if callable(scores):
        return
    if scores not in _NAMES:
        raise Error(f"{where} one of {', '.join(_NAMES)} or a function, got {scores!r}")
    if scores in OF_CHANNELS and structure != "channel":
        raise Error(f"{where} of weights unless structure='channel', got {scores!r}")
    if scores in OF_DATA and data is None:
        raise Error(f"{where} of weights or gradients unless data= is given, got {scores!r}")


def why_not(
    scores: Score,
    module: torch.nn.Module,
    parameter: torch.Tensor,
    norms: Mapping[torch.nn.Module, torch.nn.Module],
) -> str:
    """Why a parameter has no such score, or ''."""
    if scores == "batch_norm" and (module not in norms or norms[module].weight is None):
        return "scores='batch_norm': no BatchNorm with weights is known behind it"
    if scores in OF_DATA:
        why = inputs.why_unknown(module, parameter)
        groups: Any = getattr(module, "groups", 1)
        if not why and groups != 1:
            why = f"groups must be 1, got {groups}"
        if why:
            return f"scores='{scores}': {why}"
    return ""


def score(
    scores: str,
    weight: torch.Tensor,
    grad: torch.Tensor | None = None,
    axis: int = 0,
    statistic: torch.Tensor | None = None,
    total: float | None = None,
) -> torch.Tensor:
    """One number for each weight or, of fpgm and batch_norm, for each channel along `axis`.

    statistic: what `gather` found, or the scales of the BatchNorm; total: of snip.
    """
    weight = weight.detach()
    core = _core.prune if on_core(weight) else None
    found: torch.Tensor
    if scores in OF_GRADIENTS:
        assert grad is not None
        grad = grad.detach().to(weight.dtype)
        if core is not None:
            if scores == "snip":
                found = core.snip_score(weight, grad, total=total)
            else:
                found = core.taylor_score(weight, grad)
        else:
            product = wide(weight) * wide(grad)
            found = product.square() if scores == "taylor" else product.abs() / (total or 1.0)
    elif scores == "lamp":
        found = core.lamp_score(weight) if core is not None else _lamp(weight)
    elif scores == "fpgm":
        found = core.fpgm_score(weight, axis) if core is not None else _fpgm(weight, axis)
    elif scores == "batch_norm":
        assert statistic is not None
        found = statistic.detach().abs()
    elif scores == "wanda":
        assert statistic is not None
        if core is not None:
            found = core.wanda_score(weight, statistic)
        else:
            shape = [-1 if each == 1 else 1 for each in range(weight.dim())]
            found = wide(weight).abs() * statistic.to(wide(weight).dtype).reshape(shape)
    elif scores == "obs":
        assert statistic is not None
        inverse = statistic.reshape(weight.shape[1:])
        if core is not None:
            found = core.obs_score(weight, inverse.expand_as(weight))
        else:
            found = wide(weight).square() / (2 * inverse.to(wide(weight).dtype))
    else:
        found = weight.abs()
    return found


def snip_total(weight: torch.Tensor, grad: torch.Tensor) -> float:
    """Sum of |w g|: those of all layers make scores comparable."""
    return float((wide(weight.detach()) * wide(grad.detach())).abs().sum())


def aggregated(found: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Scores of weights as `rule` takes them: the sum of each channel, or as they are."""
    if rule.kind != "channel" or found.dim() == 1:
        return found
    slices = found.movedim(rule.axis, 0).reshape(found.shape[rule.axis], -1)
    return wide(slices).sum(1)


def norms_behind(model: torch.nn.Module) -> dict[torch.nn.Module, torch.nn.Module]:
    """The BatchNorm that alone takes the output of each layer, by the layer."""
    modules = dict(model.named_modules())
    found: dict[torch.nn.Module, torch.nn.Module] = {}
    for module in modules.values():
        if isinstance(module, torch.nn.Sequential):
            children = list(module.children())
            found |= {
                layer: after for layer, after in pairwise(children) if isinstance(after, _NORMS)
            }
    try:
        graph = torch.fx.Tracer().trace(model)
    except Exception:
        # Control flow that depends on data: the sequences above are all that is known.
        return found
    for node in graph.nodes:
        if node.op == "call_module" and len(node.users) == 1:
            (user,) = node.users
            after = modules.get(str(user.target)) if user.op == "call_module" else None
            if isinstance(after, _NORMS):
                found[modules[str(node.target)]] = after
    return found


def moved(weight: torch.Tensor, grad: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    """The movement scores `before` (None: zeros) with -w g of one more step; `before` stays."""
    weight, grad = weight.detach(), grad.detach()
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    if before is None:
        sums = torch.zeros(weight.shape, dtype=dtype, device=weight.device)
    else:
        sums = before.to(weight.device, copy=True)
    if on_core(weight):
        found: torch.Tensor = _core.prune.movement_score(weight, grad.to(weight.dtype), out=sums)
        return found
    return sums.sub_(weight.to(dtype) * grad.to(dtype))


def gather(
    scores: str, model: torch.nn.Module, data: Iterable[Any], layers: Mapping[str, torch.nn.Module]
) -> dict[str, torch.Tensor]:
    """What `scores` needs of the inputs of each layer, over all batches of `data`.

    wanda: the norm of each input channel; obs: the diagonal of the inverse Hessian. The model
    runs in evaluation mode; see `inputs.observe` for the batches.
    """
    kind: Any = inputs.Norm if scores == "wanda" else inputs.Hessian
    found: dict[str, Any] = {}

    def seen(name: str, layer: torch.nn.Module, x: torch.Tensor) -> None:
        found.setdefault(name, kind()).update(layer, x)

    inputs.observe(model, inputs.batches("torch.Pruner", "data", data), layers.items(), seen)
    for name in layers:
        if name not in found:
            raise Error(f"[torch.Pruner] data must reach {name}, got no input of it")
    results = {name: each.result() for name, each in found.items()}
    if scores == "wanda":
        return results
    return {name: _inverse_diagonal(each[0]) for name, each in results.items()}


def _inverse_diagonal(hessian: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    # Inputs that are always zero would make it singular.
    diagonal = hessian.diagonal()
    shift = damping * diagonal.mean().clamp(min=torch.finfo(hessian.dtype).tiny)
    damped = hessian + shift * torch.eye(len(diagonal), dtype=hessian.dtype, device=hessian.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(damped)).diagonal()


def _lamp(weight: torch.Tensor) -> torch.Tensor:
    squares = wide(weight).reshape(-1).square()
    order = squares.sort(descending=True, stable=True).indices
    sums = squares[order].cumsum(0)
    found = torch.zeros_like(squares)
    found[order] = torch.where(sums > 0, squares[order] / sums, 0.0)
    return found.reshape(weight.shape)


def _fpgm(weight: torch.Tensor, axis: int) -> torch.Tensor:
    slices = wide(weight).movedim(axis, 0).reshape(weight.shape[axis], -1)
    return torch.stack([(slices - each).square().sum(1).sqrt().sum() for each in slices])
