# SPDX-License-Identifier: Apache-2.0
"""Keep a module's weights at few distinct values while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moptcore import DTypeError, Error, FormatError, NonFiniteError
from moptcore.core import Coverage, Pattern, fingerprint_of, require, seal, unseal
from moptcore.torch import masking, selection, settings, together
from moptcore.torch.arguments import unwrapped
from moptcore.torch.codebook import Book

__all__ = ["Clusterer", "Codebook", "cluster", "weight_share"]

INITS = ("optimal", "linear", "density", "random", "kmeans++")
UPDATES = ("centroids", "straight_through")
GRADIENTS = ("mean", "sum")
_K_MAX = 65536


@dataclass(frozen=True)
class Codebook:
    """The values of a parameter and which of them each weight has.

    centroids: [values], or [groups, values] with an axis or group_size; of the weights' dtype.
    indices: integers of the weights' shape.
    """

    centroids: torch.Tensor
    indices: torch.Tensor


def cluster(
    model: torch.nn.Module,
    k: int = 16,
    init: str = "optimal",
    axis: int | None = None,
    group_size: int | None = None,
    preserve_zeros: bool | None = None,
    update: str = "centroids",
    gradient: str = "mean",
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    seed: int = 0,
    strict: bool = False,
) -> Clusterer:
    """Leaves each selected weight of `model` at most `k` distinct values, in place.

    What it returns keeps them so while the model trains, if its `step()` is called after every
    optimizer step; without training it may be dropped. See Clusterer for the arguments.
    """
    return Clusterer(
        model,
        k,
        init,
        axis,
        group_size,
        preserve_zeros,
        update,
        gradient,
        False,
        include,
        exclude,
        seed,
        strict,
    )


def weight_share(
    model: torch.nn.Module,
    k: int = 16,
    init: str = "optimal",
    preserve_zeros: bool | None = None,
    update: str = "centroids",
    gradient: str = "mean",
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    seed: int = 0,
    strict: bool = False,
) -> Clusterer:
    """`cluster` with one codebook for all selected weights: `k` distinct values in all of them.

    They must have one dtype. A codebook is stored once then, but layers of different scales fit
    it worse than a codebook each.
    """
    return Clusterer(
        model,
        k,
        init,
        None,
        None,
        preserve_zeros,
        update,
        gradient,
        True,
        include,
        exclude,
        seed,
        strict,
    )


@dataclass
class _Shelf:
    """A codebook and the parameters that it is of, looked up by name."""

    names: tuple[str, ...]
    book: Book


class Clusterer:
    """Weights at few distinct values: call `step()` once after every finished optimizer step.

    The weights are clustered when this is made. What the optimizer then does to them, `step`
    gives to the codebook, so that they have at most `k` values after every step, zero included.
    Masks of a Pruner on the same weights are kept, in whichever order the two are stepped.

    model: its parameters of two or more dimensions are candidates; tied ones count once. Class,
        names, shapes, state_dict, copies and pickles of the module stay as they are.
    k: in [1, 65536]; [2, 65536] where zeros are preserved.
    init: the optimum of k-means, or another start of Lloyd's iteration, as `cluster.kmeans` says.
    axis, group_size: a codebook for each index of `axis`, for `group_size` consecutive ones of
        them, or for that many consecutive weights; None is one for each parameter.
    preserve_zeros: one of the values is exactly 0 and holds what is 0 now; None does so where a
        parameter has zeros without being all zero, as a pruned one has.
    update: "centroids" keeps the assignment, and each value moves with its weights;
        "straight_through" also lets hidden weights collect the updates and change their value.
    gradient: a value moves by the "mean" of its weights' updates, or by their "sum": that is the
        gradient of the value, for optimizers that do not scale steps (SGD, not Adam).
    shared: one codebook for all selected parameters.
    include, exclude: globs on module path or parameter name, types, callables (path, module).
    seed: of the inits that draw.
    strict: raises CoverageError, before anything changes, when a selected parameter cannot be
        clustered.

    Raises Error for bad arguments and NonFiniteError naming a parameter with NaN or infinity.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        k: int = 16,
        init: str = "optimal",
        axis: int | None = None,
        group_size: int | None = None,
        preserve_zeros: bool | None = None,
        update: str = "centroids",
        gradient: str = "mean",
        shared: bool = False,
        include: Pattern | Iterable[Pattern] | None = None,
        exclude: Pattern | Iterable[Pattern] | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise DTypeError(
                f"[torch.Clusterer] model must be a Module, got {type(model).__name__}"
            )
        self._k = _integer("k", k, 2 if preserve_zeros else 1, _K_MAX)
        _one_of("init", init, INITS)
        _one_of("update", update, UPDATES)
        _one_of("gradient", gradient, GRADIENTS)
        if preserve_zeros not in (None, True, False):
            raise DTypeError(
                f"[torch.Clusterer] preserve_zeros must be None or a bool, got {preserve_zeros!r}"
            )
        if group_size is not None:
            group_size = _integer("group_size", group_size, 1)
        if axis is not None and not isinstance(axis, int):
            raise DTypeError(f"[torch.Clusterer] axis must be None or an integer, got {axis!r}")
        if shared and not (axis is None and group_size is None):
            raise Error("[torch.Clusterer] shared must be False with axis or group_size, got True")
        self._model = unwrapped(model)
        self._init, self._update, self._gradient = init, update, gradient
        self._axis, self._group_size, self._shared = axis, group_size, bool(shared)
        self._seed = _integer("seed", seed, 0)
        self._step = 0
        found = selection.find(
            self._model, include, exclude, "torch.Clusterer", "cluster", "clustered", self._rule
        )
        self._rows = found.rows
        self._shapes = {name: each.shape for name, each in found.parameters.items()}
        if strict:
            require(self._rows, "torch.Clusterer")
        if not found.rules:
            warnings.warn("[torch.Clusterer] no parameter is selected", stacklevel=3)
        self._shelves = self._fitted(found, preserve_zeros)
        together.join(self)
        self._give()

    @torch.no_grad()
    def step(self) -> bool:
        """Counts one optimizer step and leaves the weights clustered; True where weights moved to
        another value of their codebook.

        Raises NonFiniteError naming the parameter when a weight is NaN or infinite; the step is
        not counted then, and that parameter has not changed.
        """
        together.join(self)
        moved = self._settle(self._shelves)
        self._step += 1
        return moved

    @torch.no_grad()
    def apply(self) -> None:
        """Sets the weights to the values of their codebooks again, whatever was done to them."""
        for shelf in self._shelves:
            shelf.book.write(self._weights(shelf))

    def follow(self, model: torch.nn.Module) -> None:
        """Continues on another module with the same parameter names and shapes.

        That is a copy, or the module that prepare_qat makes of this one. Raises Error naming a
        parameter that is missing; then nothing changes.
        """
        previous, self._model = self._model, unwrapped(model)
        try:
            for shelf in self._shelves:
                self._weights(shelf)
        except Error:
            self._model = previous
            raise
        together.join(self)
        self._give()

    @property
    def codebooks(self) -> dict[str, Codebook]:
        """By parameter name. Copies."""
        found = {}
        for shelf in self._shelves:
            for index, name in enumerate(shelf.names):
                part = shelf.book.part(index)
                weight = self._weight(name)
                found[name] = Codebook(
                    part.values(weight.dtype).clone(),
                    part.indices.to(torch.int64).reshape(weight.shape),
                )
        return found

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """One row per parameter of two or more dimensions: what is done to it, or why not."""
        held = {
            name: shelf.book.part(index)
            for shelf in self._shelves
            for index, name in enumerate(shelf.names)
        }
        rows = []
        for row in self._rows:
            if (book := held.get(row.name)) is not None:
                weight = self._weight(row.name)
                after: dict[str, Any] = {
                    "values": int(weight.detach().unique().numel()),
                    "codebooks": len(book.centroids),
                    "nonzeros": int(torch.count_nonzero(weight)),
                }
                row = replace(row, after=after)
            rows.append(row)
        return tuple(rows)

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Step, seed, codebooks and hidden weights as a flat dict of arrays, sealed.

        Keys: cluster/step, cluster/seed, cluster/settings (the bytes of a JSON object),
        cluster/<parameter>/centroids, indices, and where they exist zero (-1 of a codebook without
        one), kept (one bit per weight) and latent; cluster/* is one shared codebook. See
        `Pruner.state_dict` for how to save it.
        """
        return seal(self._entries(), self._fingerprint())

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike], strict: bool = True) -> None:
        """Continues where the state was taken; resuming equals never having stopped.

        The weights are the checkpoint's own business and are not touched until `step` or
        `apply`. Raises FormatError naming the key for a damaged state or one of more than `k`
        values and, with `strict`, for another model, other parameters, or another k, axis,
        group_size, update or shared; then nothing changes.
        """
        if not isinstance(state, Mapping):
            raise DTypeError(
                "[torch.Clusterer] state must be a mapping as state_dict returns it, got "
                f"{type(state).__name__}"
            )
        self._load(unseal(state, self._fingerprint(), strict), strict)

    # With the other parts

    def _masks_of(self, shelf: _Shelf, masks: dict[int, torch.Tensor]) -> torch.Tensor | None:
        """What pruners keep of the weights, or else what was not zero when they were clustered."""
        weights = self._weights(shelf)
        if not any(id(weight) in masks for weight in weights):
            return shelf.book.kept
        parts = []
        for index, weight in enumerate(weights):
            bits = masks.get(id(weight))
            if bits is not None:
                kept: torch.Tensor | None = masking.unpack(bits, (weight.numel(),))
            else:
                kept = shelf.book.part(index).kept
            if kept is None:
                kept = torch.ones(weight.numel(), dtype=torch.bool)
            parts.append(kept.to(weight.device))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @torch.no_grad()
    def _settle_on(self, parameters: set[int]) -> set[int]:
        shelves = [
            shelf
            for shelf in self._shelves
            if any(id(self._known(name)) in parameters for name in shelf.names)
        ]
        self._settle(shelves)
        return {id(weight) for shelf in shelves for weight in self._weights(shelf)}

    def _books_now(self) -> dict[int, Book]:
        # Others ask for their own parameters: what is gone from this model is none of them.
        return {
            id(weight): shelf.book.part(index)
            for shelf in self._shelves
            for index, name in enumerate(shelf.names)
            if (weight := self._known(name)) is not None
        }

    def _settle(self, shelves: Sequence[_Shelf]) -> bool:
        masks = together.masks()
        moved = False
        for shelf in shelves:
            try:
                weights = self._weights(shelf)
                moved |= shelf.book.settle(weights, self._masks_of(shelf, masks))
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"[torch.Clusterer] {', '.join(shelf.names)} must not hold NaN or infinity"
                ) from error
        self._give()
        return moved

    def _give(self) -> None:
        """Lets the quantized layers of the model know the codebooks of their weights."""
        books: dict[int, Book] | None = None
        for layer in self._model.modules():
            hold = getattr(layer, "_moptcore_hold_", None)
            if hold is not None:
                books = self._books_now() if books is None else books
                hold(books)

    def _entries(self) -> dict[str, npt.NDArray[Any]]:
        state: dict[str, npt.NDArray[Any]] = {
            "cluster/step": np.array(self._step, np.int64),
            "cluster/seed": np.array(self._seed, np.int64),
            "cluster/settings": settings.entry(self._settings()),
        }
        for shelf in self._shelves:
            for key, value in shelf.book.state().items():
                state[f"cluster/{self._key(shelf)}/{key}"] = value.cpu().numpy()
        return state

    def _load(self, entries: dict[str, npt.NDArray[Any]], strict: bool) -> None:
        numbers = {}
        for key in ("cluster/step", "cluster/seed"):
            value = entries.get(key)
            if value is None or value.size != 1 or value.dtype.kind not in "iu" or value < 0:
                raise FormatError(
                    f"[torch.Clusterer] state must hold {key} as an integer >= 0, got {value}"
                )
            numbers[key] = int(value.item())
        if strict:
            settings.check("torch.Clusterer", entries, "cluster/settings", self._settings())
        unknown = set(entries) - {*numbers, "cluster/settings"}
        loaded = []
        for shelf in self._shelves:
            prefix = f"cluster/{self._key(shelf)}/"
            found = {
                key.removeprefix(prefix): torch.from_numpy(np.array(value))
                for key, value in entries.items()
                if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
            }
            unknown -= {prefix + key for key in found}
            book = shelf.book.empty_copy()
            wrong = book.load(found)
            if wrong and (strict or found):
                raise FormatError(f"[torch.Clusterer] {prefix}* {wrong}")
            loaded.append(shelf.book if wrong else book)
        if strict and unknown:
            raise FormatError(f"[torch.Clusterer] state has unknown entries: {sorted(unknown)}")
        self._step, self._seed = numbers["cluster/step"], numbers["cluster/seed"]
        for shelf, book in zip(self._shelves, loaded, strict=True):
            shelf.book = book
        self._give()

    def _settings(self) -> dict[str, Any]:
        names = ("k", "axis", "group_size", "update", "shared")
        return {name: getattr(self, f"_{name}") for name in names}

    def _key(self, shelf: _Shelf) -> str:
        return "*" if self._shared else shelf.names[0]

    # Inside

    def _rule(self, _: torch.nn.Module, weight: torch.Tensor) -> tuple[bool | None, str]:
        rule, why = masking.rule_for(None, _, weight)
        if rule is None:
            return None, why
        if self._axis is not None and not -weight.dim() <= self._axis < weight.dim():
            return None, f"has no axis {self._axis}"
        return True, ""

    def _fitted(self, found: selection.Found[bool], preserve_zeros: bool | None) -> list[_Shelf]:
        names = list(found.rules)
        parts = [tuple(names)] if self._shared and names else [(name,) for name in names]
        dtypes = {found.parameters[name].dtype for name in names}
        if self._shared and len(dtypes) > 1:
            raise Error(
                "[torch.Clusterer] shared weights must have one dtype, got "
                f"{', '.join(sorted(map(str, dtypes)))}"
            )
        for name in names:
            if not bool(torch.isfinite(found.parameters[name]).all()):
                raise NonFiniteError(
                    f"[torch.Clusterer] {name} must not hold NaN or infinity; nothing was changed"
                )
        masks = together.masks()
        shelves = []
        for part in parts:
            weights = [found.parameters[name] for name in part]
            axis = self._axis
            book = Book(
                self._k,
                self._init,
                axis if axis is None or axis >= 0 else axis + weights[0].dim(),
                self._group_size,
                self._update,
                self._gradient,
                self._seed,
                [weight.shape for weight in weights],
            )
            kept, preserve = _zeros_of(weights, masks, preserve_zeros)
            if preserve and self._k < 2:
                raise Error(
                    f"[torch.Clusterer] k must be >= 2 for {part[0]}, whose zeros take one value, "
                    f"got {self._k}"
                )
            shelves.append((weights, kept, preserve, _Shelf(part, book)))
        for weights, kept, preserve, shelf in shelves:
            shelf.book.fit(weights, kept, preserve)
        return [shelf for *_, shelf in shelves]

    def _weight(self, name: str) -> torch.Tensor:
        return selection.parameter(self._model, name, self._shapes[name], "torch.Clusterer")

    def _known(self, name: str) -> torch.Tensor | None:
        return selection.known(self._model, name, self._shapes[name])

    def _weights(self, shelf: _Shelf) -> list[torch.Tensor]:
        return [self._weight(name) for name in shelf.names]

    def _fingerprint(self) -> str:
        # Sorted: a module rewritten for quantization may list its parameters in another order.
        return fingerprint_of(
            sorted(
                (name, tuple(shape), str(self._weight(name).dtype))
                for name, shape in self._shapes.items()
            )
        )


def _zeros_of(
    weights: Sequence[torch.Tensor], masks: dict[int, torch.Tensor], preserve: bool | None
) -> tuple[torch.Tensor | None, bool]:
    """Which of the joined weights are not held at zero (None: all), and whether one value is 0."""
    kept = []
    for weight in weights:
        bits = masks.get(id(weight))
        nonzero = (weight.detach() != 0).reshape(-1)
        if bits is not None:
            nonzero = masking.unpack(bits.to(weight.device), (weight.numel(),)) & nonzero
        elif preserve is None and not bool(nonzero.any()):
            # Nothing but zeros is a layer that has yet to learn, not one that was pruned.
            nonzero = torch.ones_like(nonzero)
        kept.append(nonzero)
    joined = torch.cat(kept)
    if any(id(weight) in masks for weight in weights):
        preserve = True  # a mask holds whatever is asked for here
    if preserve is False or bool(joined.all()):
        return None, bool(preserve)
    return joined, True


def _integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    allowed = f">= {low}" if high is None else f"in [{low}, {high}]"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise DTypeError(f"[torch.Clusterer] {name} must be an integer {allowed}, got {value!r}")
    found = int(value.__index__())
    if found < low or (high is not None and found > high):
        raise Error(f"[torch.Clusterer] {name} must be {allowed}, got {found}")
    return found


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        shown = ", ".join(repr(each) for each in allowed)
        raise Error(f"[torch.Clusterer] {name} must be one of {shown}, got {value!r}")
