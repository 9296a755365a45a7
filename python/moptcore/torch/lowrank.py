# SPDX-License-Identifier: Apache-2.0
"""Replace layers by two or three thinner ones that compute nearly the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from moptcore import DTypeError, Error, FormatError, NonFiniteError, lowrank
from moptcore.core import Coverage, Pattern, fingerprint_of, require, seal, unseal
from moptcore.torch import inputs, selection
from moptcore.torch.arguments import number, prepared, unwrapped
from moptcore.torch.factorized import Factorized

__all__ = ["Factorization", "apply_factorization", "factorize"]

_WHERE = "torch.factorize"
_METHODS = ("svd", "randomized", "krylov")
_CONVOLUTIONS = ("channel", "spatial", "tucker2")
# The numbers that recipes give to the kinds of replacement.
_KINDS = ("linear", *_CONVOLUTIONS)
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_ZEROS = 0.1

Rank = int | tuple[int, int]


@dataclass(frozen=True)
class Factorization:
    """What `factorize` did.

    model: the module, with its layers replaced; another object only where the module itself was
        the layer. coverage: a row for each parameter of two or more dimensions. recipe: the
        kinds and ranks as a flat dict of arrays, sealed: `apply_factorization` gives a fresh
        model the same layers, so that a state_dict of `model` fits into it.
    """

    model: nn.Module
    coverage: tuple[Coverage, ...]
    recipe: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class _Plan:
    """A layer to replace: the module, how, and the whitening second moment if there is one."""

    module: nn.Linear | nn.Conv2d
    kind: str


def factorize(
    model: nn.Module,
    rank: Rank | None = None,
    energy: float | None = None,
    params: float | None = None,
    error: float | None = None,
    budget: float | None = None,
    method: str = "svd",
    convolution: str = "channel",
    calibration: Any = None,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    seed: int = 0,
    keep_sparse: bool = True,
    strict: bool = False,
) -> Factorization:
    """Replaces Linear and Conv2d layers, in place, by sequences of thinner ones.

    A layer `fc` becomes an nn.Sequential of plain layers, with parameters `fc.0.weight`,
    `fc.1.weight` and `fc.1.bias`: they train, compile, prune, quantize and export like any others.
    Code that reads `fc.weight` gets the product of the factors, and saves nothing by them.
    Make the optimizer afterwards: the weights are new parameters.

    rank, energy, params, error: for each layer alone, as in `moptcore.lowrank.factorize`.
    budget: the share of the selected weights' parameters to keep in all layers together; ranks go
        where they keep most (`moptcore.lowrank.allocate_choices`, by exact spectra, for every kind
        of `convolution`), so layers differ and some may stay whole. Exactly one of these five.
    method: "svd", "randomized" or "krylov". convolution: "channel" ([r, in, kh, kw], 1 x 1),
        "spatial" (kh x 1, 1 x kw) or "tucker2" (1 x 1, kh x kw, 1 x 1; rank: a pair, which leaves
        Linear layers alone, or one number).
    calibration: inputs of the model, a tensor, a tuple of arguments or an iterable of such
        batches. Linear layers and channel convolutions then keep what matters for these
        inputs: the error of their outputs is the least, not that of their weights.
    keep_sparse: a layer with 10 % zeros or more is left alone, because factors are dense.
    strict: raises CoverageError, before anything changes, when a selected layer is left as it is.

    Layers that no rank makes smaller, grouped convolutions, tied weights, subclasses and layers
    with hooks are left alone, with the reason in the coverage. Raises NonFiniteError naming a
    weight that holds NaN; then nothing has changed.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{_WHERE}] model must be a Module, got {type(model).__name__}")
    given = {"rank": rank, "energy": energy, "params": params, "error": error, "budget": budget}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise Error(
            f"[{_WHERE}] exactly one of rank, energy, params, error and budget must be given, "
            f"got {', '.join(given) or 'none'}"
        )
    _one_of("method", method, _METHODS)
    _one_of("convolution", convolution, _CONVOLUTIONS)
    if not hasattr(seed, "__index__") or int(seed) < 0:
        raise Error(f"[{_WHERE}] seed must be an integer >= 0, got {seed!r}")
    for name, value in given.items():
        _checked(name, value, convolution)
    root = unwrapped(model)
    inside = prepared(_WHERE, root, "factorize")
    parents = _parents(root)
    uses = _uses(root)

    def rule(module: nn.Module, weight: torch.Tensor) -> tuple[_Plan | None, str]:
        why = inside.get(module) or _obstacle(module, weight, parents, uses, keep_sparse)
        if not why and isinstance(module, nn.Linear) and isinstance(rank, tuple | list):
            why = f"rank {tuple(rank)} is for convolutions; one number is for Linear layers too"
        if why or not isinstance(module, nn.Linear | nn.Conv2d):
            return None, why
        return _Plan(module, "linear" if isinstance(module, nn.Linear) else convolution), ""

    found = selection.find(root, include, exclude, _WHERE, "lowrank", "factorized", rule)
    plans: dict[str, _Plan] = found.rules
    moments = {} if calibration is None else _moments(root, plans, calibration)
    choices: dict[str, dict[str, Any]] = {
        name: {"rank": _rank(rank, plan.kind)} if rank is not None else dict(given)
        for name, plan in plans.items()
    }
    reasons: dict[str, str] = {}
    if budget is not None and plans:
        ranks_of = _allocated(plans, moments, float(budget), reasons)
        choices = {name: {"rank": chosen} for name, chosen in ranks_of.items()}
    factors: dict[str, Sequence[torch.Tensor]] = {}
    for name, plan in plans.items():
        if name in reasons:
            continue
        try:
            factors[name] = _factors(plan, choices[name], method, int(seed), moments.get(name))
        except NonFiniteError as failure:
            raise NonFiniteError(
                f"[{_WHERE}] {name} must not hold NaN or infinities; nothing was changed: {failure}"
            ) from failure
        except Error as failure:
            reasons[name] = str(failure)
    rows = tuple(
        _row(row, plans, factors, reasons, moments, found.parameters) for row in found.rows
    )
    if strict:
        require(rows, _WHERE)
    fingerprint = _fingerprint(root)
    recipe: dict[str, npt.NDArray[Any]] = {}
    for name, weights in factors.items():
        plan = plans[name]
        path = name.rpartition(".")[0]
        ranks = [weights[0].shape[0]] if plan.kind != "tucker2" else [*weights[1].shape[:2]]
        recipe[f"lowrank/{path}/ranks"] = np.array([_KINDS.index(plan.kind), *ranks], np.int64)
        layers = _layers(plan.module, plan.kind, ranks)
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                layer.weight.copy_(weight)
        root = _put(root, path, layers, plan.module)
    return Factorization(root, rows, seal(recipe, fingerprint))


def apply_factorization(model: nn.Module, recipe: Mapping[str, npt.ArrayLike]) -> nn.Module:
    """Gives a fresh model the layers of a factorized one, in place: its state_dict then fits.

    recipe: `Factorization.recipe` of a model with the same parameters. The new weights are those
    of new layers until `load_state_dict`. Returns the model, another object only where it is
    the layer itself. Raises FormatError for a damaged recipe or one of another model; then nothing
    has changed.
    """
    where = "torch.apply_factorization"
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{where}] model must be a Module, got {type(model).__name__}")
    if not isinstance(recipe, Mapping):
        raise DTypeError(
            f"[{where}] recipe must be a mapping as Factorization.recipe is, got "
            f"{type(recipe).__name__}"
        )
    root = unwrapped(model)
    entries = unseal(recipe, _fingerprint(root))
    modules = dict(root.named_modules())
    made: list[tuple[str, list[nn.Linear | nn.Conv2d], nn.Linear | nn.Conv2d]] = []
    for key, value in entries.items():
        path = key.removeprefix("lowrank/").removesuffix("/ranks").removesuffix("ranks")
        module = modules.get(path)
        if not isinstance(module, nn.Linear | nn.Conv2d) or not 0 <= value.flat[0] < len(_KINDS):
            raise FormatError(f"[{where}] recipe must name layers of the model, got {key}: {value}")
        kind = _KINDS[int(value.flat[0])]
        made.append((path, _layers(module, kind, [int(each) for each in value.flat[1:]]), module))
    for path, layers, module in made:
        root = _put(root, path, layers, module)
    return root


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise Error(f"[{_WHERE}] {name} must be one of {', '.join(allowed)}, got {value!r}")


def _checked(name: str, value: Any, convolution: str) -> None:
    """Raises for what no layer could take."""
    if name != "rank":
        found = number(_WHERE, name, value, 0.0, 1.0)
        # An error of 0 and all of the energy or of the budget are bounds; nothing less is.
        if (found == 0.0 and name != "error") or (found == 1.0 and name in ("params", "error")):
            allowed = {"params": "(0, 1)", "error": "[0, 1)"}.get(name, "(0, 1]")
            raise Error(f"[{_WHERE}] {name} must be in {allowed}, got {value}")
        return
    pair = isinstance(value, tuple | list)
    if pair and (convolution != "tucker2" or len(value) != 2):
        raise Error(
            f"[{_WHERE}] rank must be one number, or a pair with convolution='tucker2', got "
            f"{value} with {convolution!r}"
        )
    for each in value if pair else (value,):
        if isinstance(each, bool) or not hasattr(each, "__index__"):
            raise DTypeError(f"[{_WHERE}] rank must be an integer >= 1, got {value!r}")
        if int(each) < 1:
            raise Error(f"[{_WHERE}] rank must be >= 1, got {value}")


def _rank(rank: Any, kind: str) -> Any:
    if kind == "tucker2":
        return tuple(rank) if isinstance(rank, tuple | list) else (rank, rank)
    return rank


def _parents(root: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    parents: dict[nn.Module, list[nn.Module]] = {}
    for module in root.modules():
        for child in module.children():
            parents.setdefault(child, []).append(module)
    return parents


def _uses(root: nn.Module) -> dict[int, int]:
    """How many names each parameter has."""
    uses: dict[int, int] = {}
    for _, parameter in root.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return uses


def _obstacle(
    module: nn.Module,
    weight: torch.Tensor,
    parents: Mapping[nn.Module, list[nn.Module]],
    uses: Mapping[int, int],
    keep_sparse: bool,
) -> str:
    """Why a layer cannot be replaced; empty where it can."""
    if type(module) not in (nn.Linear, nn.Conv2d):
        return f"a {type(module).__name__} is no plain Linear or Conv2d"
    if weight is not module._parameters.get("weight"):
        return "it is not the layer's weight"
    if uses[id(weight)] > 1:
        return "it is tied to another parameter"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "the layer has hooks, which would be lost"
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent in parents.get(module, [])):
        return "TransformerEncoderLayer reads the weight itself"
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return f"the convolution has {module.groups} groups"
    if weight.dtype not in _DTYPES:
        return f"its dtype is {weight.dtype}"
    if weight.is_meta or weight.layout != torch.strided:
        return "it has no dense memory"
    zeros = 1.0 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)
    if keep_sparse and zeros >= _ZEROS:
        return (
            f"{100 * zeros:.0f} % of it is zero, which factors would not keep; "
            "keep_sparse=False factorizes it all the same"
        )
    return ""


def _matrix(plan: _Plan) -> torch.Tensor:
    """The matrix whose rank is chosen."""
    weight = plan.module.weight.detach().cpu()
    if plan.kind == "spatial":
        out, inputs, height, width = weight.shape
        return weight.permute(1, 2, 0, 3).reshape(inputs * height, out * width)
    return weight.flatten(1)


def _candidates(
    plan: _Plan, moment: torch.Tensor | None
) -> tuple[list[Rank], list[tuple[int, float]]]:
    """The ranks that make a layer smaller, with their parameters and the energy that they lose."""
    if plan.kind == "tucker2":
        pairs, held, losses = lowrank.tucker2_choices(plan.module.weight.detach().cpu())
        return [(int(a), int(b)) for a, b in pairs], list(
            zip(held.tolist(), losses.tolist(), strict=True)
        )
    matrix = _matrix(plan)
    m, n = matrix.shape
    squares = lowrank.singular_values(matrix, whiten=moment) ** 2
    tails = np.cumsum(squares[::-1])[::-1]
    ranks = list(range(1, min(len(squares) - 1, lowrank.largest_useful_rank(m, n)) + 1))
    # What is zero has nothing to lose.
    whole = float(tails[0]) or 1.0
    return list(ranks), [(r * (m + n), min(float(tails[r]) / whole, 1.0)) for r in ranks]


def _allocated(
    plans: Mapping[str, _Plan],
    moments: Mapping[str, torch.Tensor],
    budget: float,
    reasons: dict[str, str],
) -> dict[str, Rank]:
    """The ranks under a common budget; `reasons` gets why the other layers have none."""
    candidates: dict[str, tuple[list[Rank], list[tuple[int, float]]]] = {}
    for name, plan in plans.items():
        try:
            candidates[name] = _candidates(plan, moments.get(name))
        except NonFiniteError as failure:
            raise NonFiniteError(
                f"[{_WHERE}] {name} must not hold NaN or infinities; nothing was changed: {failure}"
            ) from failure
    try:
        chosen = lowrank.allocate_choices(
            [choices for _, choices in candidates.values()],
            [plan.module.weight.numel() for plan in plans.values()],
            params=budget,
        )
    except Error as failure:
        raise Error(f"[{_WHERE}] budget must be within reach: {failure}") from failure
    taken: dict[str, Rank] = {}
    for (name, (ranks, _)), index in zip(candidates.items(), chosen, strict=True):
        if index is not None:
            taken[name] = ranks[index]
        elif ranks:
            reasons[name] = "the budget keeps it whole"
        else:
            reasons[name] = "no rank makes it smaller"
    return taken


def _factors(
    plan: _Plan,
    choice: Mapping[str, Any],
    method: str,
    seed: int,
    moment: torch.Tensor | None,
) -> Sequence[torch.Tensor]:
    """The weights of the layers in the order in which they are applied."""
    weight = plan.module.weight.detach().cpu()
    if plan.kind == "linear":
        u, v = lowrank.factorize(weight, **choice, method=method, seed=seed, whiten=moment)
        return v, u
    if plan.kind == "channel":
        made: Any = lowrank.channel_svd(weight, **choice, method=method, seed=seed, whiten=moment)
    elif plan.kind == "spatial":
        made = lowrank.spatial_svd(weight, **choice, method=method, seed=seed)
    else:
        made = lowrank.tucker2(weight, **choice)
    factors: Sequence[torch.Tensor] = made
    return factors


def _layers(
    module: nn.Linear | nn.Conv2d, kind: str, ranks: Sequence[int]
) -> list[nn.Linear | nn.Conv2d]:
    """New layers of these ranks; the bias of the old one stays behind the last."""
    options: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype}
    layers: list[nn.Linear | nn.Conv2d]
    if isinstance(module, nn.Linear):
        layers = [
            nn.Linear(module.in_features, ranks[0], bias=False, **options),
            nn.Linear(ranks[0], module.out_features, bias=False, **options),
        ]
    else:
        inputs, out = module.in_channels, module.out_channels
        kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
        padding: Any = module.padding
        options |= {"bias": False}
        # "same" and "valid" mean the same for each axis.
        whole: dict[str, Any] = {
            **options,
            "kernel_size": kernel,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "padding_mode": module.padding_mode,
        }
        if kind == "channel":
            layers = [
                nn.Conv2d(inputs, ranks[0], **whole),
                nn.Conv2d(ranks[0], out, 1, **options),
            ]
        elif kind == "tucker2":
            r_out, r_in = ranks
            layers = [
                nn.Conv2d(inputs, r_in, 1, **options),
                nn.Conv2d(r_in, r_out, **whole),
                nn.Conv2d(r_out, out, 1, **options),
            ]
        else:
            named = isinstance(padding, str)
            down = whole | {
                "kernel_size": (kernel[0], 1),
                "stride": (stride[0], 1),
                "padding": padding if named else (padding[0], 0),
                "dilation": (dilation[0], 1),
            }
            across = whole | {
                "kernel_size": (1, kernel[1]),
                "stride": (1, stride[1]),
                "padding": padding if named else (0, padding[1]),
                "dilation": (1, dilation[1]),
            }
            layers = [nn.Conv2d(inputs, ranks[0], **down), nn.Conv2d(ranks[0], out, **across)]
    for layer in layers:
        layer.weight.requires_grad_(module.weight.requires_grad)
    layers[-1].bias = module.bias
    return layers


def _put(
    root: nn.Module,
    path: str,
    layers: Sequence[nn.Module],
    module: nn.Module,
) -> nn.Module:
    """The root with the module at `path` replaced by the layers."""
    sequence = Factorized(*layers).train(module.training)
    if not path:
        return sequence
    around, _, name = path.rpartition(".")
    root.get_submodule(around)._modules[name] = sequence
    return root


def _row(
    row: Coverage,
    plans: Mapping[str, _Plan],
    factors: Mapping[str, Sequence[torch.Tensor]],
    reasons: Mapping[str, str],
    moments: Mapping[str, torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
) -> Coverage:
    if row.name in reasons:
        return replace(row, done=False, reason=reasons[row.name])
    if row.name not in factors:
        return row
    plan, made = plans[row.name], factors[row.name]
    weight = parameters[row.name].detach().cpu().double()
    wide = [each.double() for each in made]
    back = wide[1] @ wide[0] if plan.kind == "linear" else lowrank.reconstruct(*wide)
    norm = float(weight.norm())
    rank: Any = made[0].shape[0] if plan.kind != "tucker2" else tuple(made[1].shape[:2])
    after = {
        "kind": plan.kind,
        "rank": rank,
        "parameters": sum(each.numel() for each in made),
        "error": float((weight - back).norm()) / norm if norm else 0.0,
        "whitened": row.name in moments,
    }
    before = {**row.before, "parameters": weight.numel()}
    return replace(row, before=before, after=after)


def _fingerprint(root: nn.Module) -> str:
    return fingerprint_of(
        sorted((name, tuple(each.shape), "") for name, each in root.named_parameters())
    )


def _batches(calibration: Any) -> Iterable[tuple[Any, ...]]:
    if isinstance(calibration, tuple):
        calibration = [calibration]
    for batch in inputs.batches(_WHERE, "calibration", calibration):
        yield batch if isinstance(batch, tuple) else (batch,)


@torch.no_grad()
def _moments(
    root: nn.Module, plans: Mapping[str, _Plan], calibration: Any
) -> dict[str, torch.Tensor]:
    """X^T X of the inputs of each layer that can be whitened, in double precision."""
    moments: dict[str, torch.Tensor] = {}

    def gather(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            x = _rows(module, arguments[0].detach())
            product = (x.T @ x).double().cpu()
            moments[name] = product if name not in moments else moments[name].add_(product)

        return hook

    modes = {module: module.training for module in root.modules()}
    hooks = [
        plan.module.register_forward_pre_hook(gather(name, plan.module))
        for name, plan in plans.items()
        if plan.kind in ("linear", "channel")
    ]
    try:
        root.eval()
        for arguments in _batches(calibration):
            root(*arguments)
    finally:
        for handle in hooks:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    for name, moment in moments.items():
        if not bool(torch.isfinite(moment).all()):
            raise NonFiniteError(f"[{_WHERE}] calibration must give {name} finite inputs")
    return moments


def _rows(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the weight is multiplied with, one sample or patch a row, in float32 or wider."""
    x = x if x.dtype == torch.float64 else x.float()
    if isinstance(module, nn.Conv2d):
        if x.dim() == 3:
            x = x.unsqueeze(0)
        # Left, right, top, bottom, as the layer itself pads.
        around = list(module._reversed_padding_repeated_twice)
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = nn.functional.pad(x, around, mode=mode)
        patches = nn.functional.unfold(
            x, module.kernel_size, dilation=module.dilation, stride=module.stride
        )
        return patches.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0)
