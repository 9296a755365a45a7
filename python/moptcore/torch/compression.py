# SPDX-License-Identifier: Apache-2.0
"""Several techniques on one model: one step, one table, one state."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moptcore import DTypeError, Error, FormatError
from moptcore.core import Coverage, fingerprint_of, require, seal, unseal
from moptcore.torch.clustering import Clusterer
from moptcore.torch.pruner import Pruner

__all__ = ["Compression"]

Arrays = dict[str, npt.NDArray[Any]]


class Compression:
    """Masks, codebooks and the integer grid of one model: `step()` after every optimizer step.

    parts: Pruner, Clusterer and the module of prepare_qat, each at most as often as it makes
        sense, in any order. Masks are renewed and applied first, then the codebooks take the
        update, then the grid: pruned weights are zero, clustered ones have at most k values, zero
        included, and those are integers of the exported file. With a module of prepare_qat the
        others follow it. Otherwise they must be of the same module or of modules that share some.
    strict: raises CoverageError when a parameter selected for one of the parts is left out by it.

    Factorized modules and distillation need no step, and so no part.
    """

    def __init__(self, *parts: Any, strict: bool = False) -> None:
        self._pruners: list[Pruner] = []
        self._clusterers: list[Clusterer] = []
        self._quantized: torch.nn.Module | None = None
        for part in parts:
            if isinstance(part, Pruner):
                self._pruners.append(part)
            elif isinstance(part, Clusterer):
                self._clusterers.append(part)
            elif _is_quantized(part):
                if self._quantized not in (None, part):
                    raise Error("[torch.Compression] parts must hold one quantized model, got two")
                self._quantized = part
            else:
                raise DTypeError(
                    "[torch.Compression] parts must be a Pruner, a Clusterer or what prepare_qat "
                    f"returns, got {type(part).__name__}"
                )
        if not parts:
            raise Error("[torch.Compression] parts must be one or more, got none")
        if len({id(part) for part in parts}) < len(parts):
            raise Error("[torch.Compression] parts must differ, got one of them twice")
        if self._quantized is not None:
            self.follow(self._quantized)
        _check_related([part._model for part in self._trained()])
        if strict:
            require(self.coverage, "torch.Compression")

    def step(self) -> bool:
        """Counts one optimizer step; True where masks were renewed or weights changed value."""
        changed = False
        for part in self._trained():
            changed |= part.step()
        self._restore()
        return changed

    def apply(self) -> None:
        """Sets pruned weights to zero and clustered ones to their values, without a step."""
        for part in self._trained():
            part.apply()
        self._restore()

    def follow(self, model: torch.nn.Module) -> None:
        """Continues on a copy, or on the module that prepare_qat makes of the model."""
        for part in self._trained():
            part.follow(model)
        if _is_quantized(model):
            self._quantized = model

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """The rows of all parts, those of one parameter next to each other."""
        rows = [row for part in self._parts() for row in part.coverage]
        order = {name: place for place, name in enumerate(dict.fromkeys(row.name for row in rows))}
        return tuple(sorted(rows, key=lambda row: order[row.name]))

    def state_dict(self) -> Arrays:
        """All parts and the random numbers as a flat dict of arrays, sealed.

        Keys are those of the parts; a second pruner's start with prune#2/. quant/* are ranges and
        scales, random/* the generators of torch, numpy and Python. The weights and the optimizer
        are saved as always.
        """
        state: Arrays = {}
        for technique, part in self._named():
            entries = part.state_dict() if isinstance(part, Pruner) else part._entries()
            for key, value in entries.items():
                if not key.startswith("__"):
                    state[f"{technique}/{key.partition('/')[2]}"] = value
        if self._quantized is not None:
            for key, tensor in self._quantized.get_submodule("_quant").state_dict().items():
                state[f"quant/{key}"] = tensor.detach().cpu().numpy()
        state.update(_random_state())
        return seal(state, self._fingerprint())

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike], strict: bool = True) -> None:
        """Continues where the state was taken, random numbers included: the same bits follow.

        Load the weights and the optimizer first. Raises FormatError naming the key for a damaged
        state and, with `strict`, for other parts or another model; then nothing changes.
        """
        if not isinstance(state, Mapping):
            raise DTypeError(
                "[torch.Compression] state must be a mapping as state_dict returns it, got "
                f"{type(state).__name__}"
            )
        entries = unseal(state, self._fingerprint(), strict)
        shares: dict[str, Arrays] = {}
        for key, value in entries.items():
            technique, _, rest = key.partition("/")
            shares.setdefault(technique, {})[rest] = value
        generators = shares.pop("random", {})
        ranges = shares.pop("quant", {})
        named = self._named()
        missing = [technique for technique, _ in named if technique not in shares]
        unknown = sorted(set(shares) - {technique for technique, _ in named})
        if strict and (missing or unknown or bool(ranges) != (self._quantized is not None)):
            raise FormatError(
                "[torch.Compression] state must be of the same parts; missing "
                f"{missing or 'none'}, unknown {unknown or 'none'}, "
                f"quantized {bool(ranges)}"
            )
        before = [part.state_dict() for _, part in named]
        try:
            for technique, part in named:
                if technique in shares:
                    prefix = technique.partition("#")[0]
                    own = {f"{prefix}/{key}": value for key, value in shares[technique].items()}
                    part.load_state_dict(seal(own, part._fingerprint()), strict)
            if ranges and self._quantized is not None:
                tensors = {key: torch.from_numpy(value.copy()) for key, value in ranges.items()}
                self._quantized.get_submodule("_quant").load_state_dict(tensors, strict=False)
            _load_random_state(generators)
        except BaseException:
            for (_, part), old in zip(named, before, strict=True):
                part.load_state_dict(old)
            raise

    def _parts(self) -> Sequence[Any]:
        quantized = () if self._quantized is None else (self._quantized,)
        return (*self._trained(), *quantized)

    def _trained(self) -> list[Pruner | Clusterer]:
        """The parts with a step, masks first."""
        return [*self._pruners, *self._clusterers]

    def _named(self) -> list[tuple[str, Pruner | Clusterer]]:
        """Parts by the first word of their keys."""
        named: list[tuple[str, Pruner | Clusterer]] = []
        counts: dict[str, int] = {}
        for part in self._trained():
            word = "prune" if isinstance(part, Pruner) else "cluster"
            counts[word] = counts.get(word, 0) + 1
            named.append((word if counts[word] == 1 else f"{word}#{counts[word]}", part))
        return named

    def _fingerprint(self) -> str:
        triples: list[tuple[str, tuple[int, ...], str]] = [
            (name, (), part._fingerprint()) for name, part in self._named()
        ]
        if self._quantized is not None:
            triples += sorted(
                (name, tuple(each.shape), str(each.dtype))
                for name, each in self._quantized.named_parameters()
            )
        return fingerprint_of(triples)

    def _restore(self) -> None:
        if self._quantized is not None:
            self._quantized.restore_zeros()  # type: ignore[operator]


def _check_related(models: Sequence[torch.nn.Module]) -> None:
    """Raises Error for models that have nothing in common, not even through others of them."""
    groups: list[set[int]] = []
    for model in models:
        found = {id(each) for each in (*model.modules(), *model.parameters())}
        joined = [group for group in groups if group & found]
        groups = [group for group in groups if not group & found]
        groups.append(found.union(*joined))
    if len(groups) > 1:
        raise Error(
            "[torch.Compression] parts must be of one model (make them of the whole model and "
            f"select with include where each is for other layers), got {len(groups)} unrelated ones"
        )


def _is_quantized(part: Any) -> bool:
    # By what it has: its module is loaded on first use.
    return isinstance(part, torch.nn.Module) and hasattr(part, "hold_codebooks")


def _random_state() -> Arrays:
    name, keys, place, has_gauss, gauss = np.random.get_state()
    version, words, following = random.getstate()
    if name != "MT19937":
        raise Error(f"[torch.Compression] numpy's generator must be MT19937, got {name}")
    state: Arrays = {
        "random/torch": torch.get_rng_state().numpy(),
        "random/numpy": np.asarray(keys),
        "random/numpy_place": np.array([place, has_gauss], np.int64),
        "random/numpy_gauss": np.array(gauss, np.float64),
        "random/python": np.array(words, np.uint32),
        "random/python_version": np.array(version, np.int64),
        "random/python_gauss": np.array(np.nan if following is None else following, np.float64),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for index, tensor in enumerate(torch.cuda.get_rng_state_all()):
            state[f"random/cuda{index}"] = tensor.numpy()
    return state


def _load_random_state(state: Arrays) -> None:
    if not state:
        return
    try:
        place, has_gauss = state["numpy_place"].tolist()
        gauss, following = float(state["numpy_gauss"]), float(state["python_gauss"])
        words = tuple(int(word) for word in state["python"])
        python = (int(state["python_version"]), words, None if np.isnan(following) else following)
        numpy_state = ("MT19937", state["numpy"], place, has_gauss, gauss)
        generator = torch.from_numpy(state["torch"].copy())
    except KeyError as error:
        raise FormatError(f"[torch.Compression] state must hold random/{error.args[0]}") from error
    np.random.set_state(numpy_state)
    random.setstate(python)
    torch.set_rng_state(generator)
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = state.get(f"cuda{index}")
        if found is not None:
            torch.cuda.set_rng_state(torch.from_numpy(found.copy()), index)
