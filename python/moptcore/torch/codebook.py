# SPDX-License-Identifier: Apache-2.0
"""The codebook of one or several tensors, and what it does with an optimizer's update.

Let w be the weights as the codebook has them, w = c[a] with centroids c and assignment a, and let
an optimizer move them by d. The members of centroid j are the kept weights i with a_i = j.

    c_j <- c_j + mean d_i  (or sum d_i) over the members of j;  the zero centroid stays 0
    "centroids":         a stays                                   w <- c[a]
    "straight_through":  v <- v + d,  a_i <- argmin_j |v_i - c_j|  w <- c[a]

The latent weights v start as the weights before they were clustered. With plain SGD d = -rate * g,
so that the sum is the gradient step of the centroids (Han, Mao and Dally, arXiv:1510.00149, section
3) and both together are the training of TFMOT's clustering with its gradient aggregation. An
optimizer that scales each weight's step (Adam) already moves each of many members by a whole
step, where only the mean makes sense.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from moptcore import NonFiniteError, _core
from moptcore.torch import masking

__all__ = ["Book"]


class Book:
    """Centroids and assignment over the joined elements of some tensors, all in C order.

    axis: None is one codebook for all; else one for every `group_size` consecutive indices of
        that axis of the only tensor.
    kept: where weights are not held at zero; None is everywhere.
    """

    def __init__(
        self,
        k: int,
        init: str,
        axis: int | None,
        group_size: int | None,
        update: str,
        gradient: str,
        seed: int,
        shapes: Sequence[torch.Size],
    ) -> None:
        self.k, self.init, self.seed = k, init, seed
        self.axis, self.group_size = axis, group_size
        self.update, self.gradient = update, gradient
        self.shapes = tuple(shapes)
        self.centroids = torch.zeros(0, 0)  # [groups, values], sorted when they were assigned
        self.indices = torch.zeros(0, dtype=torch.uint8)  # flat
        self.zero: torch.Tensor | None = None  # [groups], the entry that is 0 for good
        self.kept: torch.Tensor | None = None  # flat bool
        self.latent: torch.Tensor | None = None  # flat
        self.is_part = False  # of a codebook that others have too
        # The assignment and members that were counted last, and how many each value has.
        self._counted: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor] | None = None

    # The tensors here are replaced and never written to: `take` and copies share them.

    @torch.no_grad()
    def fit(
        self, weights: Sequence[torch.Tensor], kept: torch.Tensor | None, preserve: bool
    ) -> None:
        """Clusters the weights in place; with `preserve` one value is 0, which zeros keep."""
        values = self._joined(weights)
        if kept is not None:
            values = values.masked_fill(~kept, 0.0)
        self.kept = kept
        self._cluster(values, preserve, self.init)
        self.latent = values if self.update == "straight_through" else None
        self.write(weights)

    @torch.no_grad()
    def settle(self, weights: Sequence[torch.Tensor], kept: torch.Tensor | None) -> bool:
        """Takes what an optimizer and new masks did to the weights; True for a new assignment.

        Raises NonFiniteError before anything changes where a kept weight is NaN or infinite.
        """
        self._move_to(weights[0].device)
        values = self._joined(weights)
        if kept is not None:
            kept = kept.to(values.device)
            values = values.masked_fill(~kept, 0.0)
        masks_changed = not _same(kept, self.kept)
        if not masks_changed:
            kept = self.kept  # the very tensor, whose members are counted
        keys = self._keys()
        before = self._looked_up(keys, weights[0].dtype)
        if not masks_changed and torch.equal(values, before):
            if kept is not None:
                self.write(weights, only_where_needed=True)
            return False

        # Members are what the mask keeps now and kept before.
        members, returned = kept, None
        if masks_changed and self.kept is not None:
            returned = ~self.kept if kept is None else kept & ~self.kept
            members = self.kept if kept is None else kept & self.kept
        move = values - before
        if not bool(torch.isfinite(move).all()):
            raise NonFiniteError("weights must not hold NaN or infinity")
        centroids = self._moved(keys, move, members)
        latent = self.latent
        if latent is not None:
            latent = latent + move
            if returned is not None:
                latent = torch.where(returned, values, latent)
            if kept is not None:
                latent = latent.masked_fill(~kept, 0.0)
        previous, self.kept, self.latent, self.centroids = self.indices, kept, latent, centroids

        lacks = kept is not None and masks_changed and self._lacks_zero()
        # Weights that a mask took from clustered ones differ only after they have moved on. Groups
        # are not all touched then for the sake of one.
        again = masks_changed or not self._grouped
        if kept is not None and (lacks or (again and self._wastes(keys, kept))):
            # One of the k values has to become 0 now, or some have lost all their weights.
            source = latent
            if source is None:
                # What the weights differ by from each other, around where their values are now.
                same = self._looked_up(keys, centroids.dtype)
                source = same + (values - self._mean_of(keys, values, members))
                if returned is not None:
                    source = torch.where(returned, values, source)
            self._cluster(source.masked_fill(~kept, 0.0), True, "optimal")
        elif latent is not None:
            self._sort()
            self.indices = self._assigned(latent)
            self._hold_zeros()
        elif masks_changed:
            if returned is not None:
                self._sort()
                self.indices = torch.where(returned, self._assigned(values), self.indices)
            self._hold_zeros()
        self.write(weights)
        return self.indices is not previous and not torch.equal(self.indices, previous)

    @torch.no_grad()
    def write(self, weights: Sequence[torch.Tensor], only_where_needed: bool = False) -> None:
        """Gives the tensors their values of the codebook."""
        self._move_to(weights[0].device)
        looked_up = self._looked_up(self._keys(), weights[0].dtype, widen=False)
        sizes = [shape.numel() for shape in self.shapes]
        for weight, part in zip(weights, looked_up.split(sizes), strict=True):
            new = part.reshape(weight.shape)
            if not only_where_needed or not torch.equal(new, weight):
                weight.copy_(new)

    def part(self, index: int) -> Book:
        """The codebook of one of the tensors; it shares the arrays."""
        start = sum(shape.numel() for shape in self.shapes[:index])
        span = slice(start, start + self.shapes[index].numel())
        part = self.empty_copy([self.shapes[index]])
        # It only holds on to the assignment: what trains is the whole.
        part.update, part.gradient = "centroids", "mean"
        part.is_part = len(self.shapes) > 1
        part.centroids, part.zero = self.centroids, self.zero
        part.indices = self.indices[span]
        part.kept = None if self.kept is None else self.kept[span]
        return part

    def empty_copy(self, shapes: Sequence[torch.Size] | None = None) -> Book:
        """A codebook of the same kind, to `load` into."""
        return Book(
            self.k,
            self.init,
            self.axis,
            self.group_size,
            self.update,
            self.gradient,
            self.seed,
            self.shapes if shapes is None else shapes,
        )

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """The centroids as the weights hold them: [values], or [groups, values] with an axis."""
        centroids = self.centroids.to(dtype)
        return centroids if self._grouped else centroids.reshape(-1)

    # State

    def state(self) -> dict[str, torch.Tensor]:
        """All that training changes; masks as packed bits."""
        found = {"centroids": self.centroids, "indices": self.indices}
        if self.zero is not None:
            found["zero"] = self.zero
        if self.kept is not None:
            found["kept"] = masking.pack(self.kept)
        if self.latent is not None:
            found["latent"] = self.latent
        return found

    def load(self, state: dict[str, torch.Tensor]) -> str:
        """Takes what `state` gave; returns what is wrong with it instead, if anything is."""
        size = sum(shape.numel() for shape in self.shapes)
        centroids, indices = state.get("centroids"), state.get("indices")
        if centroids is None or indices is None:
            return "must hold centroids and indices"
        groups = self._group_count()
        if (
            not centroids.is_floating_point()
            or centroids.dim() != 2
            or len(centroids) != groups
            or not 1 <= centroids.shape[1] <= self.k
        ):
            return (
                f"centroids must be [{groups}, n] with 1 <= n <= k = {self.k}, got "
                f"{list(centroids.shape)}"
            )
        if indices.shape != (size,) or indices.is_floating_point():
            return f"indices must be {size} integers, got {list(indices.shape)}"
        if size and not 0 <= int(indices.min()) <= int(indices.max()) < centroids.shape[1]:
            return f"indices must be in [0, {centroids.shape[1]})"
        zero, latent, kept = state.get("zero"), state.get("latent"), state.get("kept")
        if zero is not None:
            ok = zero.shape == (groups,) and not zero.is_floating_point()
            if not ok or bool(((zero < -1) | (zero >= centroids.shape[1])).any()):
                return f"zero must be {groups} integers in [-1, {centroids.shape[1]})"
        if (latent is not None) != (self.update == "straight_through"):
            return "must be of the same update"
        if latent is not None and latent.shape != (size,):
            return f"latent must have {size} numbers, got {list(latent.shape)}"
        if kept is not None and (kept.shape != (-(-size // 8),) or kept.dtype != torch.uint8):
            return f"kept must be {-(-size // 8)} bytes, got {list(kept.shape)}"
        self.centroids, self.indices, self.latent = centroids, indices, latent
        # -1 of a group that holds no zeros.
        self.zero = None if zero is None else zero.long()
        self.kept = None if kept is None else masking.unpack(kept, (size,))
        if self._lacks_zero():
            return "zero must name a value for every group that holds weights at zero"
        return ""

    # Inside

    def _joined(self, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        flat = [weight.detach().reshape(-1) for weight in weights]
        whole = flat[0] if len(flat) == 1 else torch.cat(flat)
        return whole.to(torch.promote_types(whole.dtype, torch.float32), copy=len(flat) == 1)

    def _group_count(self) -> int:
        if not self._grouped:
            return 1
        shape = self.shapes[0]
        extent = shape.numel() if self.axis is None else shape[self.axis]
        return -(-extent // (self.group_size or 1))

    @property
    def _grouped(self) -> bool:
        return self.axis is not None or self.group_size is not None

    def _groups(self, device: torch.device) -> torch.Tensor:
        """The codebook of every element, flat."""
        shape, width = self.shapes[0], self.group_size or 1
        if self.axis is None:
            return torch.arange(shape.numel(), device=device) // width
        along = torch.arange(shape[self.axis], device=device) // width
        view = [1] * len(shape)
        view[self.axis] = -1
        return along.reshape(view).expand(shape).reshape(-1)

    def _by_group(self, of_groups: torch.Tensor) -> torch.Tensor:
        """A number of each group, for every element."""
        return of_groups[self._groups(of_groups.device)] if self._grouped else of_groups[0]

    def _keys(self) -> torch.Tensor:
        """The place of every element's value in the flattened centroids."""
        keys = self.indices.long()
        if not self._grouped:
            return keys
        return keys + self._groups(keys.device) * self.centroids.shape[1]

    def _looked_up(
        self, keys: torch.Tensor, dtype: torch.dtype, widen: bool = True
    ) -> torch.Tensor:
        found = self.centroids.to(dtype).reshape(-1)
        found = found.to(self.centroids.dtype) if widen else found
        if found.is_cpu and not self._grouped:
            looked_up: torch.Tensor = _core.cluster.lookup(self.indices, found)
            return looked_up
        return found[keys]

    def _cluster(self, values: torch.Tensor, preserve: bool, init: str) -> None:
        host = values.cpu()
        found = _core.cluster.kmeans(
            host.reshape(self.shapes[0]) if self._grouped else host,
            self.k,
            init=init,
            axis=self.axis,
            group_size=self.group_size,
            preserve_zeros=preserve,
            seed=self.seed,
        )
        centroids = torch.as_tensor(found.centroids).to(values.device, values.dtype)
        self.centroids = centroids.reshape(self._group_count(), -1)
        small = torch.uint8 if self.centroids.shape[1] <= 256 else torch.int32
        indices = torch.as_tensor(found.indices).reshape(-1)
        self.indices = indices.to(torch.int32).to(values.device, small)
        self.zero = None
        if preserve:
            at_zero = self.centroids == 0
            first = at_zero.int().argmax(1)
            # A group that holds no zeros has no entry for them.
            self.zero = torch.where(at_zero.any(1), first, -1)
        self._hold_zeros()

    def _moved(
        self, keys: torch.Tensor, move: torch.Tensor, members: torch.Tensor | None
    ) -> torch.Tensor:
        """The centroids after the moves of their members."""
        size = self.centroids.numel()
        if keys.is_cpu and not self._grouped:
            kept = move if members is None else move.masked_fill(~members, 0.0)
            total: torch.Tensor = _core.cluster.centroid_gradient(kept.double(), self.indices, size)
        else:
            # A place of their own for what is no member.
            own = keys if members is None else torch.where(members, keys, size)
            total = _sums(own, move, size + 1)[:-1]
        if self.gradient == "mean":
            total = total / self._counts(keys, members).clamp(min=1.0)
        moved = self.centroids + total.to(self.centroids.dtype).reshape(self.centroids.shape)
        if self.zero is not None:
            columns = torch.arange(moved.shape[1], device=moved.device)
            moved = moved.masked_fill(columns == self.zero[:, None], 0.0)
        return moved

    def _sort(self) -> None:
        self.centroids, order = torch.sort(self.centroids, dim=1, stable=True)
        places = torch.argsort(order, dim=1)
        indices = self.indices.long()
        rows = self._groups(indices.device) if self._grouped else torch.zeros_like(indices)
        self.indices = places[rows, indices].to(self.indices.dtype)
        if self.zero is not None:
            moved = places.gather(1, self.zero.clamp(min=0)[:, None]).squeeze(1)
            self.zero = torch.where(self.zero < 0, self.zero, moved)

    def _assigned(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest of the sorted centroids, the lower one of two that are as near.

        The entry of zero is for weights that are held there, and stands aside.
        """
        # No float64 on MPS: there the middle is rounded like the weights.
        wide = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
        centroids = self.centroids.to(wide.dtype)
        beside = None
        if self.zero is not None and centroids.shape[1] > 1:
            # In its place stands a neighbour, which then gets what is assigned there.
            beside = torch.where(self.zero == 0, 1, self.zero - 1).clamp(min=0)
            neighbour = centroids.gather(1, beside[:, None])
            columns = torch.arange(centroids.shape[1], device=centroids.device)
            centroids = torch.where(columns == self.zero[:, None], neighbour, centroids)
        middles = (centroids[:, 1:] + centroids[:, :-1]) / 2
        if not self._grouped:
            found = torch.bucketize(wide, middles[0])
        else:
            groups = self._groups(values.device)
            found = torch.zeros_like(groups)
            for column in middles.unbind(1):
                found += wide > column[groups]
        if beside is not None and self.zero is not None:
            found = torch.where(found == self._by_group(self.zero), self._by_group(beside), found)
        return found.to(self.indices.dtype)

    def _lacks_zero(self) -> bool:
        """Whether a weight is to be zero whose codebook has no entry for it."""
        if self.kept is None:
            return False
        if self.zero is None:
            return not bool(self.kept.all())
        return bool((~self.kept & (self._by_group(self.zero) < 0)).any())

    def _wastes(self, keys: torch.Tensor, kept: torch.Tensor) -> bool:
        """Whether a value other than zero is that of no weight that is kept, and could be."""
        if self.is_part or self.zero is None:
            return False
        counts = self._counts(keys, kept).reshape(self.centroids.shape)
        return bool(((counts > 0).sum(1) < counts.sum(1).clamp(max=self.k - 1)).any())

    def _counts(self, keys: torch.Tensor, members: torch.Tensor | None) -> torch.Tensor:
        """How many members each value has; counted anew where either has changed."""
        known = self._counted
        if known is None or known[0] is not self.indices or known[1] is not members:
            size = self.centroids.numel()
            own = keys if members is None else torch.where(members, keys, size)
            known = self._counted = (self.indices, members, _sums(own, None, size + 1)[:-1])
        return known[2]

    def _mean_of(
        self, keys: torch.Tensor, values: torch.Tensor, members: torch.Tensor | None
    ) -> torch.Tensor:
        """For every element the mean of the members of its value."""
        size = self.centroids.numel()
        counted = keys if members is None else torch.where(members, keys, size)
        total = _sums(counted, values, size + 1)
        mean = total / _sums(counted, None, size + 1).clamp(min=1.0)
        return mean.to(values.dtype)[keys]

    def _hold_zeros(self) -> None:
        if self.kept is None or self.zero is None:
            return
        zeros = self._by_group(self.zero).to(self.indices.dtype)
        self.indices = torch.where(self.kept, self.indices, zeros)

    def _move_to(self, device: torch.device) -> None:
        if self.centroids.device == device:
            return
        for name in ("centroids", "indices", "zero", "kept", "latent"):
            found = getattr(self, name)
            if found is not None:
                setattr(self, name, found.to(device))


def _sums(keys: torch.Tensor, values: torch.Tensor | None, size: int) -> torch.Tensor:
    """The sum of the values (or the count) of each key, in an order that does not vary."""
    if keys.is_cpu:
        weights = None if values is None else values.double()
        return torch.bincount(keys, weights, minlength=size).double()
    # Of torch's scattered sums this one is in order on every device.
    wide = torch.float32 if keys.device.type == "mps" else torch.float64
    ones = torch.ones_like(keys, dtype=wide) if values is None else values.to(wide)
    return torch.zeros(size, dtype=wide, device=keys.device).index_put_(
        (keys,), ones, accumulate=True
    )


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other.to(one.device))
