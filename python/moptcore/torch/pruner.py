# SPDX-License-Identifier: Apache-2.0
"""Keep a module's weights sparse while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from moptcore import DTypeError, Error, FormatError, NonFiniteError
from moptcore.core import Coverage, Pattern, fingerprint_of, require, seal, unseal
from moptcore.torch import masking, selection, together
from moptcore.torch.arguments import unwrapped
from moptcore.torch.evaluation import Sparsity

__all__ = ["Pruner", "Schedule"]

Structure = None | str | tuple[int, int] | Mapping[str, tuple[int, int]]

_STEPS_SEARCHED = 100_000
_UPDATES_SHOWN = 12


class Schedule(Protocol):
    """What the schedules of moptcore.prune have in common; any object with these two serves."""

    def sparsity(self, step: int) -> float: ...
    def should_prune(self, step: int) -> bool: ...


@dataclass
class _Target:
    """A selected parameter. It is looked up by name, so a replaced one is found again."""

    name: str
    shape: torch.Size
    rule: masking.Rule
    row: Coverage
    bits: torch.Tensor | None = field(default=None, repr=False)


class Pruner:
    """Prunes by a schedule: call `step()` once after every finished optimizer step.

    The first call is step 1. Where the schedule says so, new masks are made from the current
    weights (a pruned weight may return if its last update made it large enough); the masks are
    applied after every step, so the weights are exactly sparse whatever the optimizer does.

    model: its parameters of two or more dimensions are candidates; tied ones count once. Class,
        names, shapes, state_dict, copies and pickles of the module stay as they are.
    schedule: absolute targets: round(n * sparsity) zeros in each parameter, or in all of them
        together with scope="global".
    structure: None prunes single weights; "channel" whole output channels by their L2 norm;
        (n, m) keeps n of every m weights along the input channels, the schedule then only says
        when; {"block": (r, c)} blocks of the weight as a matrix [outputs, rest].
    include, exclude: globs on module path or parameter name, types, callables (path, module).
    seed: kept in the state; magnitude pruning draws no numbers.
    strict: raises CoverageError, before anything changes, when a selected parameter cannot be
        pruned.

    Raises Error for bad arguments and warns when the schedule would never prune.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        schedule: Schedule,
        scope: str = "layer",
        structure: Structure = None,
        include: Pattern | Iterable[Pattern] | None = None,
        exclude: Pattern | Iterable[Pattern] | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"[torch.Pruner] model must be a Module, got {type(model).__name__}")
        if not (hasattr(schedule, "sparsity") and hasattr(schedule, "should_prune")):
            raise TypeError(
                "[torch.Pruner] schedule must have sparsity(step) and should_prune(step), "
                f"got {type(schedule).__name__}"
            )
        if scope not in ("layer", "global"):
            raise Error(f"[torch.Pruner] scope must be 'layer' or 'global', got {scope!r}")
        if scope == "global" and structure is not None:
            raise Error(
                "[torch.Pruner] structure must be None with scope='global' (norms of channels "
                f"and blocks of different layers do not compare), got {structure!r}"
            )
        masking.check_structure(structure)
        if not hasattr(seed, "__index__") or int(seed) < 0:
            raise Error(f"[torch.Pruner] seed must be an integer >= 0, got {seed!r}")
        self._model = unwrapped(model)
        self._schedule = schedule
        self._scope = scope
        self._structure = structure
        self._seed = int(seed)
        self._step = 0
        found = selection.find(
            self._model,
            include,
            exclude,
            "torch.Pruner",
            "prune",
            "pruned",
            lambda module, weight: masking.rule_for(structure, module, weight),
        )
        self._rows = found.rows
        rows = {row.name: row for row in found.rows}
        self._targets = [
            _Target(name, found.parameters[name].shape, rule, rows[name])
            for name, rule in found.rules.items()
        ]
        if strict:
            require(self.coverage, "torch.Pruner")
        together.join(self)
        if not self._targets:
            warnings.warn("[torch.Pruner] no parameter is selected", stacklevel=2)
        elif self._next_update() is None:
            warnings.warn(
                "[torch.Pruner] the schedule never prunes: should_prune is False at every step "
                "from 1 on",
                stacklevel=2,
            )

    @torch.no_grad()
    def step(self) -> bool:
        """Counts one optimizer step and leaves the weights sparse; True where masks were renewed.

        Raises NonFiniteError naming the parameter when masks are due and a weight is NaN; then
        nothing has changed and the step is not counted.
        """
        step = self._step + 1
        renew = bool(self._targets) and self._schedule.should_prune(step)
        if renew:
            self._renew(float(self._schedule.sparsity(step)))
        self.apply()
        self._step = step
        together.join(self)
        if renew:
            together.renewed(set(self._masks_now()))
        return renew

    @torch.no_grad()
    def apply(self) -> None:
        """Sets the pruned weights to zero again, without counting a step."""
        for target in self._targets:
            if target.bits is None:
                continue
            weight = self._weight(target)
            if target.bits.device != weight.device:
                target.bits = target.bits.to(weight.device)
            masking.zero_pruned(weight, target.bits)

    def follow(self, model: torch.nn.Module) -> None:
        """Continues on another module with the same parameter names and shapes.

        That is a copy, or the module that prepare_qat makes of this one: its weights stay as
        sparse as they were. Raises Error naming a parameter that is missing; then nothing changes.
        """
        previous, self._model = self._model, unwrapped(model)
        try:
            for target in self._targets:
                self._weight(target)
        except Error:
            self._model = previous
            raise
        together.join(self)

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """bool masks by parameter name, True = kept; empty before the first update. Copies."""
        return {
            target.name: masking.unpack(target.bits, target.shape)
            for target in self._targets
            if target.bits is not None
        }

    @property
    def sparsity(self) -> Sparsity:
        """The zeros that the selected parameters hold now."""
        sizes, zeros = {}, {}
        for target in self._targets:
            weight = self._weight(target)
            sizes[target.name] = weight.numel()
            zeros[target.name] = weight.numel() - int(torch.count_nonzero(weight))
        layers = {name: zeros[name] / max(size, 1) for name, size in sizes.items()}
        return Sparsity(sum(zeros.values()) / max(sum(sizes.values()), 1), layers)

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """One row per parameter of two or more dimensions: what is done to it, or why not."""
        targets = {target.name: target for target in self._targets}
        return tuple(
            self._row(targets[row.name]) if row.name in targets else row for row in self._rows
        )

    def summary(self) -> str:
        """The planned updates and what they leave in each parameter, as text."""
        updates = self._updates()
        total = sum(target.shape.numel() for target in self._targets)
        lines = [
            f"Pruner: {len(self._targets)} of {len(self._rows)} parameters, {total} weights, "
            f"scope {self._scope}, structure {self._structure}, at step {self._step}",
            "step      target",
        ]
        shown = updates
        if len(updates) > _UPDATES_SHOWN:
            picked = np.linspace(0, len(updates) - 1, _UPDATES_SHOWN).astype(int)
            shown = [updates[index] for index in picked]
        lines += [f"{step:<8}  {self._schedule.sparsity(step):.4f}" for step in shown]
        lines.append(f"{len(updates)} updates planned" if updates else "no update planned")
        for target in self._targets:
            lines.append(f"  {target.name} {tuple(target.shape)} {target.rule}")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Step, seed and masks as a flat dict of arrays, sealed; it fits into any checkpoint.

        Keys: prune/step, prune/seed, prune/<parameter>/mask (uint8, one bit per weight), and the
        seals of `moptcore.core.seal`. `numpy.savez` takes it as it is. `torch.load` reads only
        tensors back by default: save `{k: torch.from_numpy(v) for k, v in state.items()}`, which
        `load_state_dict` takes too.
        """
        state: dict[str, npt.NDArray[Any]] = {
            "prune/step": np.array(self._step, np.int64),
            "prune/seed": np.array(self._seed, np.int64),
        }
        for target in self._targets:
            if target.bits is not None:
                state[f"prune/{target.name}/mask"] = target.bits.cpu().numpy()
        return seal(state, self._fingerprint())

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike], strict: bool = True) -> None:
        """Continues where the state was taken; resuming equals never having stopped.

        The weights are the checkpoint's own business and are not touched until `step` or
        `apply`. Raises FormatError naming the key for a damaged state and, with `strict`, for
        another model or other parameters; without it unknown masks are left out.
        """
        if not isinstance(state, Mapping):
            raise DTypeError(
                "[torch.Pruner] state must be a mapping as state_dict returns it, got "
                f"{type(state).__name__}"
            )
        entries = unseal(state, self._fingerprint(), strict)
        for key in ("prune/step", "prune/seed"):
            value = entries.pop(key, None)
            if value is None or value.size != 1 or value.dtype.kind not in "iu" or value < 0:
                raise FormatError(
                    f"[torch.Pruner] state must hold {key} as an integer >= 0, got {value}"
                )
            if key == "prune/step":
                step = int(value.item())
            else:
                seed = int(value.item())
        masks: dict[str, torch.Tensor] = {}
        for target in self._targets:
            key = f"prune/{target.name}/mask"
            bits = entries.pop(key, None)
            if bits is None:
                continue
            size = (-(-target.shape.numel() // 8),)
            if bits.dtype != np.uint8 or bits.shape != size:
                raise FormatError(
                    f"[torch.Pruner] {key} must be uint8 {size}, got {bits.dtype} {bits.shape}"
                )
            masks[target.name] = torch.from_numpy(bits.copy())
        missing = [target.name for target in self._targets if target.name not in masks]
        if strict and entries:
            raise FormatError(f"[torch.Pruner] state has unknown entries: {sorted(entries)}")
        if strict and masks and missing:
            raise FormatError(f"[torch.Pruner] state must hold a mask of each of {missing}")
        self._step, self._seed = step, seed
        for target in self._targets:
            mask = masks.get(target.name)
            target.bits = None if mask is None else mask.to(self._weight(target).device)

    def _weight(self, target: _Target) -> torch.Tensor:
        return selection.parameter(self._model, target.name, target.shape, "torch.Pruner")

    def _masks_now(self) -> dict[int, torch.Tensor]:
        return {
            id(self._weight(target)): target.bits
            for target in self._targets
            if target.bits is not None
        }

    def _renew(self, sparsity: float) -> None:
        weights = [self._weight(target).detach() for target in self._targets]
        if self._scope == "global":
            try:
                masks = masking.global_bits(weights, sparsity)
            except NonFiniteError as error:
                names = [
                    target.name
                    for target, weight in zip(self._targets, weights, strict=True)
                    if bool(weight.isnan().any())
                ]
                raise NonFiniteError(_non_finite(", ".join(names), error)) from error
        else:
            masks = []
            for target, weight in zip(self._targets, weights, strict=True):
                try:
                    masks.append(target.rule.bits(weight, sparsity))
                except NonFiniteError as error:
                    raise NonFiniteError(_non_finite(target.name, error)) from error
        for target, bits in zip(self._targets, masks, strict=True):
            target.bits = bits

    def _row(self, target: _Target) -> Coverage:
        if target.bits is None:
            return target.row
        kept = int(masking.unpack(target.bits, target.shape).sum())
        size = target.shape.numel()
        notes = [target.row.reason] if target.row.reason else []
        if kept == 0:
            notes.append("every weight is pruned")
        after = {"nonzeros": kept, "sparsity": 1.0 - kept / max(size, 1)}
        return replace(target.row, reason="; ".join(notes), after=after)

    def _fingerprint(self) -> str:
        # Sorted: a module rewritten for quantization may list its parameters in another order.
        return fingerprint_of(
            sorted((t.name, tuple(t.shape), str(self._weight(t).dtype)) for t in self._targets)
        )

    def _next_update(self) -> int | None:
        return next(iter(self._updates(first_only=True)), None)

    def _updates(self, first_only: bool = False) -> list[int]:
        """The steps from 1 on at which masks are renewed; an endless schedule's first ones."""
        begin = getattr(self._schedule, "begin_step", None)
        end = getattr(self._schedule, "end_step", None)
        every = getattr(self._schedule, "frequency", None)
        if isinstance(begin, int) and isinstance(end, int) and isinstance(every, int):
            last = end if end >= 0 else begin + every * _UPDATES_SHOWN
            steps: Iterable[int] = sorted({*range(begin, last + 1, every), last})
        else:
            steps = range(1, _STEPS_SEARCHED + 1)
        found = []
        for step in steps:
            if step >= 1 and self._schedule.should_prune(step):
                found.append(step)
                if first_only:
                    break
        return found


def _non_finite(name: str, error: Exception) -> str:
    return f"[torch.Pruner] {name} must not hold NaN; nothing was changed: {error}"
