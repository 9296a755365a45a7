# SPDX-License-Identifier: Apache-2.0
"""Cut whole channels out of a module: smaller layers of the same classes under the same names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from moptcore import DTypeError, Error, UnsupportedError, graph
from moptcore.core import Coverage, Pattern, require
from moptcore.torch import selection
from moptcore.torch.arguments import number, prepared, unwrapped
from moptcore.torch.capture import evaluating, example_inputs
from moptcore.torch.export import unfolded

__all__ = ["ChannelRemoval", "remove_channels"]

_WHERE = "torch.remove_channels"
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = nn.modules.batchnorm._NormBase


@dataclass(frozen=True)
class ChannelRemoval:
    """What `remove_channels` did.

    model: the module, the very object that was given. coverage: a row for each parameter of two or
    more dimensions, done where some of its outputs are gone. recipe: gives a fresh module of the
    same architecture the same shapes, so that a state_dict of `model` fits into it. groups: those
    of its graph before, by which `recipe` calls them.
    """

    model: nn.Module
    coverage: tuple[Coverage, ...]
    recipe: graph.ChannelRecipe
    groups: tuple[graph.ChannelGroup, ...]


@dataclass(frozen=True)
class _Place:
    """Where an initializer of the graph comes from: a parameter or buffer, and its axes there."""

    name: str
    axes: tuple[int, ...]  # by axis of the initializer; -1 for one that the parameter lacks
    rank: int  # of the parameter


@dataclass
class _Changes:
    """What was changed so far, to be undone."""

    tensors: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    settings: list[tuple[nn.Module, str, Any]] = field(default_factory=list)

    def put(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        self.tensors.append((tensor, tensor.data))
        tensor.data = data

    def set(self, module: nn.Module, name: str, value: Any) -> None:
        self.settings.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def undo(self) -> None:
        for module, name, value in reversed(self.settings):
            setattr(module, name, value)
        for tensor, data in reversed(self.tensors):
            tensor.data = data


def remove_channels(
    model: nn.Module,
    example: Any,
    sparsity: float = 0.5,
    *,
    recipe: graph.ChannelRecipe | str | None = None,
    scope: str = "layer",
    ord: float = 2.0,
    scores: Mapping[str, Sequence[float]] | None = None,
    min_units: int = 1,
    multiple_of: int = 1,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    strict: bool = False,
) -> ChannelRemoval:
    """Cuts output channels of layers, and what reads them, in place; what is left is dense.

    The module keeps its class, its names and its parameters as objects, which become smaller; make
    the optimizer afterwards. It computes what it did with those channels at 0.

    example: a tensor or a tuple of tensors for forward, with the batch first. sparsity: the share
        of the channels to cut, in each group of channels that go together, or with
        scope="global" of all, ranked by their norm over the mean of their group.
    recipe: `ChannelRemoval.recipe` of a module of the same architecture, or its JSON; then nothing
        is ranked. scores: by name of a group, a number for each unit instead of the norm of order
        `ord`. min_units: units that every group keeps. multiple_of: what the number of channels
        left is a multiple of.
    include, exclude: the layers whose outputs may be cut. A group is cut where all layers that
        write it may be. strict: raises CoverageError, before anything changes, when the outputs of
        a selected layer stay whole.

    Whole heads of attention are cut where forward takes their number from an attribute, which is
    set anew, and are left alone where it computes the width of a head from another width. Raises
    UnsupportedError where forward does not follow in other ways, for example through
    `view(-1, 512)`, naming the modules; then nothing has changed.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{_WHERE}] model must be a Module, got {type(model).__name__}")
    if scope not in ("layer", "global"):
        raise Error(f"[{_WHERE}] scope must be 'layer' or 'global', got {scope!r}")
    share = number(_WHERE, "sparsity", sparsity, 0.0, 1.0)
    root = unwrapped(model)
    inside = prepared(_WHERE, root, "remove_channels")
    if inside:
        raise Error(f"[{_WHERE}] model must not hold prepared layers, got {len(inside)}")
    inputs = example_inputs(example, _WHERE)
    proto = unfolded(root, inputs)
    whole = graph.load(proto.SerializeToString())
    groups = tuple(graph.channel_groups(whole))
    places = _places(root, proto)
    uneven = {
        each.name
        for each in proto.graph.initializer
        if each.name not in places and np.unique(onnx.numpy_helper.to_array(each)).size > 1
    }
    barred = {
        each.name: reason for each in groups if (reason := _barred(each, places, uneven, root))
    }
    writers = _writers(groups, places, root)

    def rule(module: nn.Module, weight: torch.Tensor) -> tuple[bool | None, str]:
        return True, ""

    found = selection.find(root, include, exclude, _WHERE, "channels", "cut", rule)
    selected = {row.name for row in found.rows if row.selected}
    told = graph.ChannelRecipe.from_json(recipe) if isinstance(recipe, str) else recipe
    if told is not None and not isinstance(told, graph.ChannelRecipe):
        raise DTypeError(
            f"[{_WHERE}] recipe must be a ChannelRecipe or its JSON, got {type(told).__name__}"
        )
    given = None
    if scores is not None:
        given = {name: [float(score) for score in each] for name, each in scores.items()}
    while True:
        chosen = told or graph.choose_channels(
            whole,
            share,
            scope="group" if scope == "layer" else "global",
            ord=ord,
            scores=given,
            min_units=min_units,
            multiple_of=multiple_of,
            take=lambda group: (
                group.name not in barred
                and bool(writers[group.name])
                and set(writers[group.name]) <= selected
            ),
        )
        smaller = graph.remove_channels(whole, chosen)
        for name in chosen.kept:
            if name in barred:
                raise UnsupportedError(f"[{_WHERE}] recipe must not cut {name}: {barred[name]}")
        rows = tuple(
            _row(row, groups, places, writers, chosen, barred, found.parameters)
            for row in found.rows
        )
        if strict:
            require(rows, _WHERE)
        changes = _Changes()
        try:
            _shrink(root, groups, places, chosen, changes)
            _check(root, inputs, smaller, groups, places, chosen, changes)
        except UnsupportedError:
            changes.undo()
            heads = [each.name for each in groups if each.unit > 1 and each.name in chosen.kept]
            if told is not None or not heads:
                raise
            # Code that divides a width by the number of heads cannot have fewer of them.
            barred.update(dict.fromkeys(heads, "forward does not follow when heads of it are cut"))
        except BaseException:
            changes.undo()
            raise
        else:
            break
    for tensor, _ in changes.tensors:
        tensor.grad = None
    return ChannelRemoval(model, rows, chosen, groups)


def _places(root: nn.Module, proto: onnx.ModelProto) -> dict[str, _Place]:
    """The parameters and buffers that initializers are, by name of the initializer."""
    tensors: dict[str, torch.Tensor] = dict(root.named_parameters(remove_duplicate=False))
    tensors.update(root.named_buffers(remove_duplicate=False))
    multiplied = {node.input[1] for node in proto.graph.node if node.op_type == "MatMul"}
    modules = dict(root.named_modules(remove_duplicate=False))
    places = {}
    for initializer in proto.graph.initializer:
        tensor = tensors.get(initializer.name)
        if tensor is None:
            continue
        shape, own = tuple(initializer.dims), tuple(tensor.shape)
        path, _, attribute = initializer.name.rpartition(".")
        turned = (
            isinstance(modules.get(path), nn.Linear)
            and attribute == "weight"
            and initializer.name in multiplied
            and not _is_turned_by_node(initializer.name, proto)
        )
        axes: tuple[int, ...]
        if turned and shape == own[::-1]:
            axes = (1, 0)
        elif shape == own:
            axes = tuple(range(len(shape)))
        elif [n for n in shape if n != 1] == [n for n in own if n != 1]:
            rest = iter([axis for axis, n in enumerate(own) if n != 1])
            axes = tuple(-1 if n == 1 else next(rest) for n in shape)
        else:
            continue
        places[initializer.name] = _Place(initializer.name, axes, len(own))
    return places


def _is_turned_by_node(name: str, proto: onnx.ModelProto) -> bool:
    return any(name in node.input for node in proto.graph.node if node.op_type == "Transpose")


def _barred(
    group: graph.ChannelGroup, places: Mapping[str, _Place], uneven: set[str], root: nn.Module
) -> str:
    """Why a module cannot follow its graph there; empty where it can."""
    modules = dict(root.named_modules(remove_duplicate=False))
    for member in group.members:
        if not member.initializer:
            continue
        place = places.get(member.tensor)
        if place is None:
            # Constants that are the same everywhere, such as ones, are made of settings.
            if member.tensor in uneven:
                return f"forward makes a constant of that size ({member.tensor})"
            continue
        path = place.name
        while path:
            path = path.rpartition(".")[0]
            module = modules.get(path)
            if isinstance(module, nn.MultiheadAttention):
                return f"{path} (MultiheadAttention) computes with widths of its own"
            if isinstance(module, nn.RNNBase):
                return f"{path} ({type(module).__name__}) holds its weights in a form of its own"
    return ""


def _writers(
    groups: Sequence[graph.ChannelGroup], places: Mapping[str, _Place], root: nn.Module
) -> dict[str, list[str]]:
    """The parameters of two or more dimensions that write the channels of each group."""
    modules = dict(root.named_modules(remove_duplicate=False))
    writers: dict[str, list[str]] = {}
    for group in groups:
        names = writers.setdefault(group.name, [])
        for member in group.members:
            place = places.get(member.tensor) if member.initializer else None
            if place is None or place.axes[member.axis] < 0 or place.rank < 2:
                continue
            module = modules.get(place.name.rpartition(".")[0])
            axis = place.axes[member.axis]
            if axis == _output_axis(module) and place.name not in names:
                names.append(place.name)
    return writers


def _output_axis(module: nn.Module | None) -> int:
    return 1 if isinstance(module, (*_TRANSPOSED, nn.Embedding)) else 0


def _row(
    row: Coverage,
    groups: Sequence[graph.ChannelGroup],
    places: Mapping[str, _Place],
    writers: Mapping[str, list[str]],
    recipe: graph.ChannelRecipe,
    barred: Mapping[str, str],
    parameters: Mapping[str, torch.Tensor],
) -> Coverage:
    own = [group for group in groups if row.name in writers[group.name]]
    parameter = parameters.get(row.name)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if parameter is not None:
        before["shape"] = tuple(parameter.shape)
        kept = _kept_axes(places.get(row.name), parameter.shape, groups, recipe)
        after["shape"] = tuple(
            len(kept[axis]) if axis in kept else extent
            for axis, extent in enumerate(parameter.shape)
        )
    done = any(group.name in recipe.kept for group in own)
    reason = row.reason
    if not done and row.selected:
        fixed = [group.reason for group in own if group.fixed]
        fixed += [barred[group.name] for group in own if group.name in barred]
        others = {name for group in own for name in writers[group.name]} - {row.name}
        if row.name not in places:
            reason = "the graph does not hold it as it is"
        elif not own:
            reason = "no channels of weights are written by it"
        elif fixed:
            reason = fixed[0]
        elif others:
            reason = f"no channel was to be cut; they go with {', '.join(sorted(others))}"
        else:
            reason = "no channel was to be cut"
    return Coverage(row.name, row.kind, "channels", done, reason, before, after, row.selected)


def _kept_axes(
    place: _Place | None,
    shape: Sequence[int],
    groups: Sequence[graph.ChannelGroup],
    recipe: graph.ChannelRecipe,
) -> dict[int, list[int]]:
    """The indices that stay, for each axis of a parameter that loses some."""
    gone: dict[int, set[int]] = {}
    for group in groups if place is not None else ():
        if group.name not in recipe.kept:
            continue
        cut = set(range(group.units)) - set(recipe.kept[group.name])
        for member in group.members:
            if place is None or not member.initializer or member.tensor != place.name:
                continue
            indices = member.indices
            for unit in cut:
                part = indices[unit * member.block : (unit + 1) * member.block]
                gone.setdefault(place.axes[member.axis], set()).update(part)
    return {
        axis: [index for index in range(shape[axis]) if index not in each]
        for axis, each in gone.items()
        if each
    }


def _shrink(
    root: nn.Module,
    groups: Sequence[graph.ChannelGroup],
    places: Mapping[str, _Place],
    recipe: graph.ChannelRecipe,
    changes: _Changes,
) -> None:
    """Slices parameters and buffers, tied ones once, and sets what their modules say of them."""
    done: set[int] = set()
    for path, module in root.named_modules(remove_duplicate=False):
        tensors: dict[str, torch.Tensor | None] = {**module._parameters, **module._buffers}
        for name, tensor in tensors.items():
            place = places.get(f"{path}.{name}" if path else name)
            if tensor is None or place is None or id(tensor) in done:
                continue
            kept = _kept_axes(place, tensor.shape, groups, recipe)
            if not kept:
                continue
            done.add(id(tensor))
            old = tuple(tensor.shape)
            data = tensor.data
            for axis, indices in kept.items():
                data = data.index_select(axis, torch.tensor(indices, device=data.device))
            changes.put(tensor, data.contiguous())
            if name == "weight":
                _resettle(module, old, tuple(data.shape), kept, changes)


def _resettle(
    module: nn.Module,
    old: tuple[int, ...],
    new: tuple[int, ...],
    kept: Mapping[int, Sequence[int]],
    changes: _Changes,
) -> None:
    """The settings that go with a weight of another shape."""
    if isinstance(module, (*_CONVS, *_TRANSPOSED)):
        each = old[0] // module.groups
        whole = module.groups
        rows = [0] * module.groups
        for index in kept.get(0, range(old[0])):
            rows[index // each] += 1
        if 0 in rows:
            whole = sum(count > 0 for count in rows)
        changes.set(module, "groups", whole)
        turned = isinstance(module, _TRANSPOSED)
        channels = {"out_channels": new[0], "in_channels": new[1] * whole}
        if turned:
            channels = {"in_channels": new[0], "out_channels": new[1] * whole}
        for name, value in channels.items():
            changes.set(module, name, value)
    elif isinstance(module, nn.Linear):
        changes.set(module, "out_features", new[0])
        changes.set(module, "in_features", new[1])
    elif isinstance(module, _NORMS):
        changes.set(module, "num_features", new[0])
    elif isinstance(module, nn.Embedding):
        changes.set(module, "embedding_dim", new[1])
    elif isinstance(module, nn.PReLU):
        changes.set(module, "num_parameters", new[0])
    elif isinstance(module, nn.GroupNorm):
        each = module.num_channels // module.num_groups
        changes.set(module, "num_channels", new[0])
        changes.set(module, "num_groups", max(new[0] // each, 1))


def _check(
    root: nn.Module,
    inputs: Sequence[torch.Tensor],
    smaller: graph.Model,
    groups: Sequence[graph.ChannelGroup],
    places: Mapping[str, _Place],
    recipe: graph.ChannelRecipe,
    changes: _Changes,
) -> None:
    """Compares the module with the smaller graph on one sample; numbers of heads are set anew."""
    samples = [each[:1] for each in inputs]
    named = zip(smaller.inputs, samples, strict=True)
    truth = smaller.evaluate({info.name: each.detach().cpu().numpy() for info, each in named})
    wanted = [truth[info.name] for info in smaller.outputs]
    problem = _problem(root, samples, wanted)
    if not problem:
        return
    settings = list(_settings(root, groups, recipe, places))
    for module, name, value in settings:
        changes.set(module, name, value)
    if settings and not _problem(root, samples, wanted):
        return
    paths = sorted({name.rpartition(".")[0] or "the model" for name in _touched(recipe, groups)})
    raise UnsupportedError(
        f"[{_WHERE}] forward must follow the channels that are left, without literal shapes such "
        f"as view(-1, 512), in or behind {', '.join(paths)}; exclude them, got {problem}"
    )


def _problem(root: nn.Module, samples: Sequence[torch.Tensor], wanted: Sequence[Any]) -> str:
    """What is wrong with the outputs of the module; empty where nothing is."""
    try:
        with evaluating(root), torch.no_grad():
            found = list(_leaves(root(*samples)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return str(error).strip().partition("\n")[0]
    for own, truth in zip(found, wanted, strict=True):
        if tuple(own.shape) != truth.shape:
            return f"shape {tuple(own.shape)} instead of {truth.shape}"
        numbers = own.detach().cpu().double().numpy()
        # Sums of a few thousand products in float32, in another order.
        tolerance = 1e-3 * max(1.0, float(np.abs(truth).max(initial=0.0)))
        if not np.allclose(numbers, truth, rtol=1e-3, atol=tolerance, equal_nan=True):
            return f"outputs that differ by {float(np.abs(numbers - truth).max()):.3g}"
    return ""


def _leaves(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _leaves(each)


def _touched(recipe: graph.ChannelRecipe, groups: Sequence[graph.ChannelGroup]) -> dict[str, None]:
    return {
        member.tensor: None
        for group in groups
        if group.name in recipe.kept
        for member in group.members
        if member.initializer
    }


def _settings(
    root: nn.Module,
    groups: Sequence[graph.ChannelGroup],
    recipe: graph.ChannelRecipe,
    places: Mapping[str, _Place],
) -> Iterator[tuple[nn.Module, str, int]]:
    """Whole numbers of a user's modules that are counts of heads or channels which changed.

    Of the smallest module that holds all weights of a group; the comparison decides afterwards.
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    for group in groups:
        if group.name not in recipe.kept:
            continue
        names = [m.tensor for m in group.members if m.initializer and m.tensor in places]
        paths = [name.split(".")[:-1] for name in names]
        shared: list[str] = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) != 1:
                break
            shared.append(parts[0])
        module = modules.get(".".join(shared))
        if module is None or type(module).__module__.startswith("torch.nn."):
            continue
        count = len(recipe.kept[group.name])
        values = {group.extent: count * group.unit, group.units: count}
        for name, value in list(vars(module).items()):
            if type(value) is int and not name.startswith("_") and value in values:
                if group.units == value and group.unit > 1 and "dim" in name:
                    continue
                yield module, name, values[value]
