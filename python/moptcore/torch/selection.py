# SPDX-License-Identifier: Apache-2.0
"""Which parameters of a module a technique works on, tied ones once, with a row for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from moptcore import Error
from moptcore.core import Coverage, Pattern, select
from moptcore.torch.arguments import dimensions

__all__ = ["Found", "find", "known", "parameter"]

RuleT = TypeVar("RuleT")


@dataclass(frozen=True)
class Found(Generic[RuleT]):
    """The candidates of a model in its order; those with a rule are worked on."""

    rows: tuple[Coverage, ...]
    rules: dict[str, RuleT]
    parameters: dict[str, torch.Tensor]


def find(
    model: torch.nn.Module,
    include: Pattern | Iterable[Pattern] | None,
    exclude: Pattern | Iterable[Pattern] | None,
    where: str,
    technique: str,
    verb: str,
    rule_for: Callable[[torch.nn.Module, torch.Tensor], tuple[RuleT | None, str]],
) -> Found[RuleT]:
    """The parameters of two or more dimensions; `rule_for` says how each is worked on, or why not.

    Tied parameters are one row under the first name, selected where one of the names is and none
    is excluded.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    candidates: list[tuple[str, str, Any]] = []
    # What quantize_weights holds in another form is no parameter any more.
    parameters: list[torch.Tensor | None] = []
    for path, module in modules.items():
        within = f"{path}." if path else ""
        for name, each in module._parameters.items():
            lazy = isinstance(each, torch.nn.parameter.UninitializedParameter)
            if each is not None and (lazy or each.dim() >= 2):
                candidates.append((path, within + name, module))
                parameters.append(each)
        if hasattr(module, "_moptcore_held_"):
            candidates.append((path, f"{within}weight", module))
            parameters.append(None)
    others = dimensions(model, verb)
    found = select(candidates, include, exclude, where, modules=modules, others=others)
    groups: dict[int, list[int]] = {}
    for index, each in enumerate(parameters):
        groups.setdefault(id(candidates[index][2] if each is None else each), []).append(index)
    rows: list[Coverage] = []
    rules: dict[str, RuleT] = {}
    chosen: dict[str, torch.Tensor] = {}
    for indices in groups.values():
        first, each = found[indices[0]], parameters[indices[0]]
        names = [found[index].parameter for index in indices]
        reasons = [found[index].reason for index in indices]
        excluded = next((reason for reason in reasons if reason.startswith("excluded")), "")
        reason = excluded or ("" if "" in reasons else reasons[0])
        rule: RuleT | None = None
        why = reason
        if each is None:
            held = first.module._moptcore_held_()
            stored = f"quantize_weights holds it as {held['dtype']}"
            why = why or f"{stored}: {technique} before it, or strip() first"
        elif not reason:
            rule, why = rule_for(first.module, each)
        rows.append(
            Coverage(
                name=names[0],
                kind=type(first.module).__name__,
                technique=technique,
                done=rule is not None,
                reason=why or (f"tied: also {', '.join(names[1:])}" if names[1:] else ""),
                before=held if each is None else _figures(each),
                selected=not reason,
            )
        )
        if rule is not None and each is not None:
            rules[names[0]] = rule
            chosen[names[0]] = each
    return Found(tuple(rows), rules, chosen)


def known(model: torch.nn.Module, name: str, shape: torch.Size) -> torch.nn.Parameter | None:
    """The parameter called `name` now; None unless it has the shape it had."""
    weight = _named(model, name)
    return weight if weight is not None and weight.shape == shape else None


def parameter(
    model: torch.nn.Module, name: str, shape: torch.Size, where: str
) -> torch.nn.Parameter:
    """The parameter called `name` now; raises Error unless it has the shape it had."""
    weight = _named(model, name)
    if weight is None or weight.shape != shape:
        raise Error(
            f"[{where}] {name} must be a parameter of shape {tuple(shape)}, "
            f"got {'none' if weight is None else tuple(weight.shape)}: "
            f"make a new {where.rpartition('.')[2]}"
        )
    return weight


def _named(model: torch.nn.Module, name: str) -> torch.nn.Parameter | None:
    *path, attribute = name.split(".")
    module: torch.nn.Module | None = model
    for part in path:
        module = None if module is None else module._modules.get(part)
    return None if module is None else module._parameters.get(attribute)


def _figures(parameter: torch.Tensor) -> dict[str, Any]:
    if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
        return {}
    dtype = str(parameter.dtype).removeprefix("torch.")
    known: dict[str, Any] = {"shape": tuple(parameter.shape), "dtype": dtype}
    if not parameter.is_meta and parameter.layout == torch.strided:
        known["nonzeros"] = int(torch.count_nonzero(parameter))
    return known
