# SPDX-License-Identifier: Apache-2.0
"""Keep a module's weights sparse while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from moptcore import DTypeError, Error, FormatError, NonFiniteError, _core
from moptcore.core import Coverage, Pattern, fingerprint_of, require, seal, unseal
from moptcore.torch import masking, scoring, selection, settings, together
from moptcore.torch.arguments import unwrapped
from moptcore.torch.evaluation import Sparsity

__all__ = ["Pruner", "Schedule"]

Bounds = None | float | Mapping[str, float]
"""A share of zeros for all parameters, or one by globs on parameter name or module path."""

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
    moved: torch.Tensor | None = field(default=None, repr=False)  # sum of -w g at all steps


class _Called:
    """A plain function of the step as a schedule: masks follow when its value changes."""

    def __init__(self, function: Callable[[int], float]) -> None:
        self._function = function

    def sparsity(self, step: int) -> float:
        found = float(self._function(step))
        if not 0.0 <= found < 1.0:
            raise Error(f"[torch.Pruner] schedule must return values in [0, 1), got {found}")
        return found

    def should_prune(self, step: int) -> bool:
        return step == 1 or self.sparsity(step) != self.sparsity(step - 1)


class _Never:
    """No masks but those that were given."""

    def sparsity(self, step: int) -> float:
        raise AssertionError(f"no masks are due at step {step}")

    def should_prune(self, step: int) -> bool:
        return False


class Pruner:
    """Prunes by a schedule: call `step()` once after every finished optimizer step.

    The first call is step 1, and does what is due at step 0 where nothing is at 1. Where the
    schedule says so, new masks are made from the current weights (a pruned weight may return if its
    last update made it large enough); the masks are applied after every step, so the weights are
    exactly sparse whatever the optimizer does.

    model: its parameters of two or more dimensions are candidates; tied ones count once. Class,
        names, shapes, state_dict, copies and pickles of the module stay as they are.
    schedule: absolute targets: round(n * sparsity) zeros in each parameter, or in all of them
        together with scope="global". A function step -> sparsity renews masks whenever its value
        changes; a GradualNM needs structure=(n, m) with its n and m. None: `masks` stay.
    structure: None prunes single weights; "channel" whole output channels by their L2 norm;
        (n, m) keeps n of every m weights along the input channels, the schedule then only says
        when; {"block": (r, c)} blocks of the weight as a matrix [outputs, rest].
    include, exclude: globs on module path or parameter name, types, callables (path, module).
    seed: kept in the state; pruning draws no numbers.
    strict: raises CoverageError, before anything changes, when a selected parameter cannot be
        pruned.
    scores: what is ranked: "magnitude"; "taylor" (w g)^2, "snip" |w g| and "movement", the sum of
        -w g over all steps, of the gradients that step() finds; "lamp"; "wanda" and "obs", of the
        inputs that `data` gives the layers when masks are due (see `moptcore.prune` for the
        formulas); "fpgm" and "batch_norm" rank channels; a function (name, parameter) returns a
        tensor in the parameter's shape. Channels rank by the sum of their weights' scores, for
        magnitude by their L2 norm. "wanda" ranks the weights of each output by themselves.
    minimum, maximum: the share of zeros of each parameter, whatever the schedule (with "layer")
        or the ranking (with "global", where a minimum is at most what the schedule says) asks.
    regrow: RigL: a CosineRegrowth or a function step -> fraction of the kept weights to exchange
        for those of largest gradient, at steps that renew no masks. Grown weights start at 0.
    data: batches for scores that need them: arguments, (argument, ...) or keyword mappings.
    masks: what to keep until the schedule renews it: bool tensors by parameter name, True = kept,
        such as {"fc.weight": model.fc.weight != 0}. Without a schedule only these are held.

    Raises Error for bad arguments and warns when the schedule would never prune.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        schedule: Schedule | Callable[[int], float] | None = None,
        scope: str = "layer",
        structure: Structure = None,
        include: Pattern | Iterable[Pattern] | None = None,
        exclude: Pattern | Iterable[Pattern] | None = None,
        seed: int = 0,
        strict: bool = False,
        *,
        scores: scoring.Score = "magnitude",
        minimum: Bounds = None,
        maximum: Bounds = None,
        regrow: Any = None,
        data: Iterable[Any] | None = None,
        masks: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"[torch.Pruner] model must be a Module, got {type(model).__name__}")
        if callable(schedule) and not hasattr(schedule, "should_prune"):
            schedule = _Called(schedule)
        if schedule is None and masks is not None:
            schedule = _Never()
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
        planned: Any = schedule
        if hasattr(planned, "kept") and structure != (planned.n, planned.m):
            raise Error(
                f"[torch.Pruner] structure must be the schedule's ({planned.n}, {planned.m}), "
                f"got {structure!r}"
            )
        scoring.check(scores, structure, data)
        if regrow is not None and (
            structure is not None or not (callable(regrow) or hasattr(regrow, "fraction"))
        ):
            raise Error(
                "[torch.Pruner] regrow must be a CosineRegrowth or a function, with "
                f"structure=None, got {regrow!r} with {structure!r}"
            )
        if not hasattr(seed, "__index__") or int(seed) < 0:
            raise Error(f"[torch.Pruner] seed must be an integer >= 0, got {seed!r}")
        self._model = unwrapped(model)
        self._schedule: Any = schedule
        self._scope = scope
        self._structure = structure
        self._seed = int(seed)
        self._step = 0
        self._scores, self._regrow, self._data = scores, regrow, data
        self._norms = scoring.norms_behind(self._model) if scores == "batch_norm" else {}
        given = _given(self._model, masks)
        self._only = set(given) if isinstance(schedule, _Never) else None
        found = selection.find(
            self._model,
            include,
            exclude,
            "torch.Pruner",
            "prune",
            "pruned",
            self._rule_for,
        )
        self._rows = found.rows
        rows = {row.name: row for row in found.rows}
        self._targets = [
            _Target(name, found.parameters[name].shape, rule, rows[name])
            for name, rule in found.rules.items()
        ]
        for target in self._targets:
            mask = given.pop(id(self._weight(target)), None)
            target.bits = None if mask is None else masking.pack(mask)
        if given:
            ids = {id(each): name for name, each in self._model.named_parameters()}
            left = ", ".join(ids[each] for each in given)
            raise Error(f"[torch.Pruner] masks must be of selected parameters, got {left}")
        self._minimum = self._bounds(minimum, "minimum")
        self._maximum = self._bounds(maximum, "maximum")
        if strict:
            require(self.coverage, "torch.Pruner")
        together.join(self)
        if not self._targets:
            warnings.warn("[torch.Pruner] no parameter is selected", stacklevel=2)
        elif self._only is None and self._next_update() is None:
            warnings.warn(
                "[torch.Pruner] the schedule never prunes: should_prune is False at every step "
                "from 1 on",
                stacklevel=2,
            )

    @torch.no_grad()
    def step(self) -> bool:
        """Counts one optimizer step and leaves the weights sparse; True where masks were renewed.

        Raises NonFiniteError naming the parameter when masks are due and a weight is NaN, and
        Error when a score needs a gradient that is not there (call it before zero_grad); then
        the masks have not changed and the step is not counted.
        """
        step = self._step + 1
        due = self._due_at(step) if self._targets else None
        renew = due is not None
        moved = self._moved()
        if due is not None:
            self._renew(float(self._schedule.sparsity(due)), due, moved)
        grown = {} if renew or self._regrow is None else self._regrown(step)
        for target, score in zip(self._targets, moved, strict=True):
            target.moved = score
        self.apply()
        if grown:
            # Old masks were applied first: what grows starts at zero.
            for target in self._targets:
                target.bits = grown.get(target.name, target.bits)
            self.apply()
            together.renewed(set(self._masks_now()))
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

        Keys: prune/step, prune/seed, prune/settings (the bytes of a JSON object),
        prune/<parameter>/mask (uint8, one bit per weight), of
        movement scores prune/<parameter>/scores, and the seals of `moptcore.core.seal`.
        `numpy.savez` takes it as it is. `torch.load` reads only tensors back by default: save
        `{k: torch.from_numpy(v) for k, v in state.items()}`, which `load_state_dict` takes too.
        """
        state: dict[str, npt.NDArray[Any]] = {
            "prune/step": np.array(self._step, np.int64),
            "prune/seed": np.array(self._seed, np.int64),
            "prune/settings": settings.entry(self._settings()),
        }
        for target in self._targets:
            if target.bits is not None:
                state[f"prune/{target.name}/mask"] = target.bits.cpu().numpy()
            if target.moved is not None:
                state[f"prune/{target.name}/scores"] = target.moved.cpu().numpy()
        return seal(state, self._fingerprint())

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike], strict: bool = True) -> None:
        """Continues where the state was taken; resuming equals never having stopped.

        The weights are the checkpoint's own business and are not touched until `step` or
        `apply`. Raises FormatError naming the key for a damaged state and, with `strict`, for
        another model, other parameters, or another structure, scope or kind of scores; without it
        unknown masks are left out. Schedule, bounds and regrowth say what happens from here on:
        they may differ, as where training goes on for longer.
        """
        if not isinstance(state, Mapping):
            raise DTypeError(
                "[torch.Pruner] state must be a mapping as state_dict returns it, got "
                f"{type(state).__name__}"
            )
        required = ["prune/step", "prune/seed", "prune/settings"]
        masks_of = [f"prune/{target.name}/mask" for target in self._targets]
        if any(key in state for key in masks_of):
            required += masks_of
        entries = unseal(state, self._fingerprint(), strict, required)
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
        if strict:
            settings.check("torch.Pruner", entries, "prune/settings", self._settings())
        entries.pop("prune/settings", None)
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
        moved: dict[str, torch.Tensor] = {}
        for target in self._targets:
            key = f"prune/{target.name}/scores"
            value = entries.pop(key, None) if self._scores == "movement" else None
            if value is None:
                continue
            if value.dtype.kind != "f" or value.shape != tuple(target.shape):
                raise FormatError(
                    f"[torch.Pruner] {key} must be floating {tuple(target.shape)}, got "
                    f"{value.dtype} {value.shape}"
                )
            moved[target.name] = torch.from_numpy(value.copy())
        if strict and self._scores == "movement" and step > 0 and len(moved) < len(self._targets):
            raise FormatError("[torch.Pruner] state must hold the scores of every parameter")
        missing = [target.name for target in self._targets if target.name not in masks]
        if strict and entries:
            raise FormatError(f"[torch.Pruner] state has unknown entries: {sorted(entries)}")
        if strict and masks and missing:
            raise FormatError(f"[torch.Pruner] state must hold a mask of each of {missing}")
        self._step, self._seed = step, seed
        for target in self._targets:
            mask = masks.get(target.name)
            target.bits = None if mask is None else mask.to(self._weight(target).device)
            score = moved.get(target.name)
            target.moved = None if score is None else score.to(self._weight(target).device)

    def _rule_for(
        self, module: torch.nn.Module, weight: torch.Tensor
    ) -> tuple[masking.Rule | None, str]:
        if self._only is not None and id(weight) not in self._only:
            return None, "no mask is given"
        rule, why = masking.rule_for(self._structure, module, weight)
        if rule is None:
            return rule, why
        why = scoring.why_not(self._scores, module, weight, self._norms)
        if self._scores == "batch_norm" and not why:
            scales: Any = self._norms[module].weight
            if len(scales) != weight.shape[rule.axis]:
                why = "scores='batch_norm': the BatchNorm behind it has other channels"
        if self._scores == "wanda" and rule.kind == "weight" and self._scope == "layer":
            rule = masking.Rule("row", 0)
        return (None, why) if why else (rule, "")

    def _bounds(self, given: Bounds, argument: str) -> list[float] | None:
        """One share of zeros for each target."""
        if given is None:
            return None
        if isinstance(self._structure, tuple | list):
            raise Error(f"[torch.Pruner] {argument} must be None with structure (n, m)")
        default = 0.0 if argument == "minimum" else 1.0
        pairs = list(given.items()) if isinstance(given, Mapping) else [("*", given)]
        for pattern, share in pairs:
            if not 0.0 <= share < 1.0:
                raise Error(f"[torch.Pruner] {argument} must be in [0, 1), got {share}")
            if not any(_covers(pattern, target.name) for target in self._targets):
                raise Error(
                    f"[torch.Pruner] {argument} patterns must match a selected parameter, got "
                    f"{pattern!r}"
                )
        return [
            float(next((share for pattern, share in pairs if _covers(pattern, t.name)), default))
            for t in self._targets
        ]

    def _explain(self, rows: tuple[Coverage, ...]) -> None:
        """Has `coverage` say what another function did and why not."""
        self._rows = rows
        by_name = {row.name: row for row in rows}
        for target in self._targets:
            target.row = by_name[target.name]

    def _weight(self, target: _Target) -> torch.Tensor:
        return selection.parameter(self._model, target.name, target.shape, "torch.Pruner")

    def _masks_now(self) -> dict[int, torch.Tensor]:
        # Others ask for their own parameters: what is gone from this model is none of them.
        found = {}
        for target in self._targets:
            weight = selection.known(self._model, target.name, target.shape)
            if weight is not None and target.bits is not None:
                found[id(weight)] = target.bits
        return found

    def _renew(self, sparsity: float, step: int, moved: list[torch.Tensor | None]) -> None:
        weights = [self._weight(target).detach() for target in self._targets]
        scores = self._score(weights, moved)
        lowest = self._minimum or [0.0] * len(weights)
        highest = self._maximum or [1.0] * len(weights)
        if self._scope == "global":
            bounded = self._minimum is not None or self._maximum is not None
            try:
                masks = masking.global_bits(
                    weights,
                    sparsity,
                    scores,
                    [min(each, sparsity) for each in lowest] if bounded else None,
                    highest if bounded else None,
                )
            except NonFiniteError as error:
                names = [
                    target.name
                    for target, each in zip(self._targets, scores or weights, strict=True)
                    if bool(each.isnan().any())
                ]
                raise NonFiniteError(_non_finite(", ".join(names), error)) from error
        else:
            masks = []
            for index, (target, weight) in enumerate(zip(self._targets, weights, strict=True)):
                rule = target.rule
                if rule.kind == "n:m" and hasattr(self._schedule, "kept"):
                    rule = replace(rule, sizes=(self._schedule.kept(step), rule.sizes[1]))
                share = min(max(sparsity, lowest[index]), highest[index])
                score = None if scores is None else scores[index]
                try:
                    masks.append(rule.bits(weight, share, score))
                except NonFiniteError as error:
                    raise NonFiniteError(_non_finite(target.name, error)) from error
        for target, bits in zip(self._targets, masks, strict=True):
            target.bits = bits

    def _score(
        self, weights: list[torch.Tensor], moved: list[torch.Tensor | None]
    ) -> list[torch.Tensor] | None:
        """What is ranked instead of magnitudes: one number for each weight or channel."""
        kind, targets = self._scores, self._targets
        if kind == "magnitude":
            return None
        if not isinstance(kind, str):
            return [self._checked(each, kind(each.name, self._weight(each))) for each in targets]
        if kind == "movement":
            return [
                scoring.aggregated(self._due(target, score), target.rule)
                for target, score in zip(targets, moved, strict=True)
            ]
        grads: list[torch.Tensor] = []
        if kind in scoring.OF_GRADIENTS:
            grads = [self._due(target, self._weight(target).grad) for target in targets]
        total = None
        if kind == "snip":
            pairs = zip(weights, grads, strict=True)
            total = sum(scoring.snip_total(weight, grad) for weight, grad in pairs) or 1.0
        statistics: dict[str, Any] = {}
        if kind in scoring.OF_DATA:
            assert self._data is not None
            layers = {target.name: self._module(target) for target in targets}
            statistics = scoring.gather(kind, self._model, self._data, layers)
        elif kind == "batch_norm":
            statistics = {each.name: self._norms[self._module(each)].weight for each in targets}
        found = []
        for index, (target, weight) in enumerate(zip(targets, weights, strict=True)):
            grad = grads[index] if grads else None
            statistic = statistics.get(target.name)
            score = scoring.score(kind, weight, grad, target.rule.axis, statistic, total)
            found.append(scoring.aggregated(score, target.rule))
        return found

    def _due(self, target: _Target, value: torch.Tensor | None) -> torch.Tensor:
        if value is None:
            raise Error(
                f"[torch.Pruner] {target.name} must have a gradient for what is due at this step: "
                "call step() after the optimizer's step and before zero_grad(), got none"
            )
        return value.to_dense() if value.layout != torch.strided else value

    def _checked(self, target: _Target, score: Any) -> torch.Tensor:
        shapes = {tuple(target.shape)}
        if target.rule.kind == "channel":
            shapes.add((target.shape[target.rule.axis],))
        if not isinstance(score, torch.Tensor) or tuple(score.shape) not in shapes:
            raise Error(
                f"[torch.Pruner] scores must return a tensor of shape {tuple(target.shape)} for "
                f"{target.name}, got {tuple(getattr(score, 'shape', ())) or score!r}"
            )
        return scoring.aggregated(score.detach(), target.rule)

    def _moved(self) -> list[torch.Tensor | None]:
        """The movement scores with this step's gradients: pruned weights do not move."""
        if self._scores != "movement":
            return [None for _ in self._targets]
        self.apply()
        found: list[torch.Tensor | None] = []
        for target in self._targets:
            weight, moved = self._weight(target), target.moved
            if weight.grad is None:
                found.append(moved)
                continue
            found.append(scoring.moved(weight, self._due(target, weight.grad), moved))
        return found

    def _regrown(self, step: int) -> dict[str, torch.Tensor]:
        """New masks by parameter name where the regrowth's turn has come."""
        regrow = self._regrow
        if hasattr(regrow, "fraction"):
            fraction = float(regrow.fraction(step)) if regrow.should_regrow(step) else 0.0
        else:
            fraction = float(regrow(step))
        grown: dict[str, torch.Tensor] = {}
        for target in self._targets if fraction else []:
            if target.bits is not None:
                weight = self._weight(target).detach()
                grad = self._due(target, self._weight(target).grad).to(weight.dtype)
                keep = masking.unpack(target.bits, target.shape).cpu()
                # On other devices the choice travels to the core, which alone makes it.
                found: Any = _core.prune.regrow(keep, weight.cpu(), grad.cpu(), fraction)
                grown[target.name] = masking.pack(found.to(weight.device))
        return grown

    def _module(self, target: _Target) -> torch.nn.Module:
        return self._model.get_submodule(target.name.rpartition(".")[0])

    def _row(self, target: _Target) -> Coverage:
        if target.bits is None:
            return target.row
        kept = int(masking.unpack(target.bits, target.shape).sum())
        size = target.shape.numel()
        notes = [target.row.reason] if target.row.reason else []
        if kept == 0:
            notes.append("every weight is pruned")
        after = {**target.row.after, "nonzeros": kept, "sparsity": 1.0 - kept / max(size, 1)}
        return replace(target.row, reason="; ".join(notes), after=after)

    def _settings(self) -> dict[str, Any]:
        scores = self._scores if isinstance(self._scores, str) else "function"
        return {"structure": self._structure, "scope": self._scope, "scores": scores}

    def _fingerprint(self) -> str:
        # Sorted: a module rewritten for quantization may list its parameters in another order.
        return fingerprint_of(
            sorted((t.name, tuple(t.shape), str(self._weight(t).dtype)) for t in self._targets)
        )

    def _due_at(self, step: int) -> int | None:
        """The step of the schedule that is due; the first call is also what step 0 asks for."""
        if self._schedule.should_prune(step):
            return step
        first = step == 1 and self._schedule.should_prune(0) and self._schedule.sparsity(0) > 0.0
        return 0 if first else None

    def _next_update(self) -> int | None:
        return next(iter(self._updates(first_only=True)), None)

    def _updates(self, first_only: bool = False) -> list[int]:
        """The steps at which masks are renewed; an endless schedule's first ones."""
        begin = getattr(self._schedule, "begin_step", None)
        end = getattr(self._schedule, "end_step", None)
        every = getattr(self._schedule, "frequency", None)
        if isinstance(begin, int) and isinstance(end, int) and isinstance(every, int):
            last = end if end >= 0 else begin + every * _UPDATES_SHOWN
            steps: Iterable[int] = sorted({*range(begin, last + 1, every), last})
        else:
            steps = range(1, _STEPS_SEARCHED + 1)
        found = [0] if self._due_at(1) == 0 else []
        for step in () if found and first_only else steps:
            if step >= 1 and self._schedule.should_prune(step):
                found.append(step)
                if first_only:
                    break
        return found


def _given(
    model: torch.nn.Module, masks: Mapping[str, torch.Tensor] | None
) -> dict[int, torch.Tensor]:
    """Masks on the devices of their parameters, by the ids of these."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[int, torch.Tensor] = {}
    for name, mask in (masks or {}).items():
        if name not in parameters:
            raise Error(f"[torch.Pruner] masks must be of parameters of the model, got {name!r}")
        parameter = parameters[name]
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise DTypeError(f"[torch.Pruner] masks must be bool tensors, got {got} for {name}")
        if mask.shape != parameter.shape:
            raise Error(
                f"[torch.Pruner] masks must have the parameter's shape {tuple(parameter.shape)}, "
                f"got {tuple(mask.shape)} for {name}"
            )
        if id(parameter) in found:
            raise Error(f"[torch.Pruner] masks must name a tied parameter once, got also {name}")
        found[id(parameter)] = mask.to(parameter.device)
    return found


def _covers(pattern: str, name: str) -> bool:
    """Whether a glob matches a parameter or a module around it."""
    while name:
        if fnmatchcase(name, pattern):
            return True
        name = name.rpartition(".")[0]
    return False


def _non_finite(name: str, error: Exception) -> str:
    return f"[torch.Pruner] {name} must not hold NaN; nothing was changed: {error}"
