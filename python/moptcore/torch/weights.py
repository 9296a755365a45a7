# SPDX-License-Identifier: Apache-2.0
"""Weights in fewer bits without training: `quantize_weights` and the layers it puts in."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from moptcore import DTypeError, Error, NonFiniteError, UnsupportedError, _core
from moptcore.core import Pattern, require
from moptcore.torch import inputs as calls
from moptcore.torch import masking, selection, together
from moptcore.torch.arguments import prepared, unwrapped
from moptcore.torch.codebook import Book

__all__ = ["DynamicLayer", "WeightOnlyLayer", "quantize_weights"]

SCHEMES = ("weight_int8", "weight_int4", "float16", "bfloat16", "int8_dynamic")
METHODS = ("rtn", "gptq", "awq", "hqq", "adaround")

_WHERE = "torch.quantize_weights"
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_STORED = {"weight_int8": "int8", "weight_int4": "int4", "int8_dynamic": "int8"}
_LEVELS = 255
# Sums below this are exact in float32.
_EXACT = 2**24
# A weight of as few values, each of which comes as often on average, is taken for a clustered one.
_FEW_VALUES = 256
_REPEATS = 4
# Below this a scale loses precision in float32.
_TINY = float(torch.finfo(torch.float32).tiny)


def quantize_weights(
    model: nn.Module,
    scheme: str = "weight_int8",
    group_size: int | None = None,
    method: str = "rtn",
    calibration: Iterable[Any] | None = None,
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    strict: bool = False,
) -> nn.Module:
    """A new module whose Linear and Conv layers hold their weights in fewer bits, for inference.

    scheme: "weight_int8", "weight_int4": integers with one scale for each output, or with
        `group_size` for each so many neighbours of an output's weights (all of them, where it is
        larger than their number); int4 takes half a byte.
        "float16", "bfloat16": halves. These compute in the dtype of their input. "int8_dynamic":
        int8 weights, and inputs rounded to uint8 on the range of each call, as ONNX's
        DynamicQuantizeLinear does.
    method: "rtn" rounds to the nearest; "hqq" (Badri and Shaji 2023) places scale and zero point
        without data; "gptq" (Frantar et al. 2022), "awq" (Lin et al. 2023) and "adaround" (Nagel
        et al. 2020) keep the outputs for the inputs of `calibration`. All but "rtn" are for
        integers, and all that need data for Linear and Conv without groups.
    calibration: one tensor, or batches, each an argument or a tuple of arguments of the model; a
        few hundred samples in all are enough.
    strict: raises CoverageError when a selected weight would stay as it is.

    Weights that are zero, as pruned ones are, stay exactly zero: the methods round the others with
    that in mind, and "hqq" then has whole zero points. A weight of few distinct values, as
    `cluster` leaves it, gets no more of them: where the method would make more, its values are
    rounded to the nearest with one scale for the whole weight, or for each codebook along the
    outputs, whatever `method` and `group_size` say; its coverage then says so. Codebooks of a
    living Clusterer are known; without one, a weight of at most 256 values in all that come four
    times on average is taken for clustered. Layers that share a codebook need the Clusterer to
    have no more than its values in all of them.

    `model` is untouched. What is returned has a `quantization_coverage` with a row per parameter
    of two or more dimensions; `strip` turns its layers into plain ones with the rounded weights.
    Raises Error for bad arguments, NonFiniteError naming a weight with NaN or infinity.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{_WHERE}] model must be a Module, got {type(model).__name__}")
    if scheme not in SCHEMES:
        raise UnsupportedError(f"[{_WHERE}] scheme must be one of {SCHEMES}, got {scheme!r}")
    if method not in METHODS:
        raise Error(f"[{_WHERE}] method must be one of {METHODS}, got {method!r}")
    if method != "rtn" and scheme in _HALF:
        raise Error(f"[{_WHERE}] method must be 'rtn' with scheme {scheme!r}, got {method!r}")
    if group_size is not None:
        if type(group_size) is not int:
            raise DTypeError(f"[{_WHERE}] group_size must be an integer, got {group_size!r}")
        if group_size < 1:
            raise Error(f"[{_WHERE}] group_size must be >= 1, got {group_size}")
        if scheme in _HALF or scheme == "int8_dynamic":
            raise Error(f"[{_WHERE}] group_size must be None with {scheme!r}, got {group_size}")
    if scheme == "int8_dynamic" and method in ("awq", "hqq"):
        raise Error(
            f"[{_WHERE}] method must be 'rtn', 'gptq' or 'adaround' with scheme {scheme!r}, got "
            f"{method!r}"
        )
    needs_data = method in ("gptq", "awq", "adaround")
    if needs_data and calibration is None:
        raise Error(f"[{_WHERE}] calibration must hold batches for method {method!r}, got None")
    source = unwrapped(model)
    inside = prepared(_WHERE, source, "quantize_weights")
    owners = Counter(id(each) for part in source.modules() for each in part._parameters.values())

    def rule(module: nn.Module, weight: torch.Tensor) -> tuple[bool | None, str]:
        found, why = masking.rule_for(None, module, weight)
        if found is None or module in inside:
            return None, why or inside[module]
        if type(module) not in _LAYERS:
            return None, f"{type(module).__name__} is not a Linear, Conv1d, Conv2d or Conv3d"
        if weight is not module.weight:
            return None, "not the weight of its layer"
        if owners[id(weight)] > 1:
            return None, "tied: other modules read it too"
        if needs_data and getattr(module, "groups", 1) != 1:
            return None, f"method {method!r} needs a convolution without groups"
        if needs_data and isinstance(module, nn.Conv3d):
            return None, f"method {method!r} is for Linear, Conv1d and Conv2d"
        if weight.dtype in _HALF.values() and scheme in _HALF:
            return None, f"holds {weight.dtype} already"
        return True, ""

    chosen = selection.find(source, include, exclude, _WHERE, "quant", "quantized", rule)
    if strict:
        require(chosen.rows, _WHERE)
    for name, weight in chosen.parameters.items():
        if not bool(torch.isfinite(weight).all()):
            raise NonFiniteError(f"[{_WHERE}] {name} must not hold NaN or infinity")
    if not chosen.rules:
        warnings.warn(f"[{_WHERE}] no parameter is selected", stacklevel=2)

    root = copy.deepcopy(source)
    modules = dict(root.named_modules(remove_duplicate=False))
    layers = {name: modules[name.rpartition(".")[0]] for name in chosen.rules}
    seen = _inputs_of(root, layers, calibration) if needs_data and calibration is not None else {}
    done: dict[nn.Module, nn.Module] = {}
    rows = {row.name: row for row in chosen.rows}
    for name, layer in layers.items():
        if needs_data and name not in seen:
            why = "no batch of calibration reaches it"
            rows[name] = replace(rows[name], done=False, reason=why)
            continue
        put, by_values = _kept_few(
            chosen.parameters[name], layer, scheme, group_size, method, seen.get(name)
        )
        done[layer] = put
        after = {"dtype": _STORED.get(scheme, scheme), "bytes": put.weight_bytes}
        if by_values:
            after["rounded"] = "the values of its codebook"
        rows[name] = replace(
            rows[name], before={**rows[name].before, "bytes": layer.weight.nbytes}, after=after
        )
    if strict:
        require(rows.values(), _WHERE)
    if root in done:
        root = done[root]
    for module in list(root.modules()):
        for child_name, child in module._modules.items():
            if child in done:
                module._modules[child_name] = done[child]
    root.quantization_coverage = tuple(rows.values())  # type: ignore[assignment]
    return root


@dataclass
class _Inputs:
    """What calibration saw of a layer: X^T X and the sum of |X| of its inputs as rows."""

    squares: torch.Tensor
    magnitudes: torch.Tensor
    rows: int


@torch.no_grad()
def _inputs_of(
    root: nn.Module, layers: dict[str, nn.Module], calibration: Iterable[Any]
) -> dict[str, _Inputs]:
    seen: dict[str, _Inputs] = {}

    def watch(name: str) -> Any:
        def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
            rows = _rows(layer, args[0].detach()).double()
            found = seen.get(name)
            if found is None:
                zero = rows.new_zeros(rows.shape[1])
                found = seen[name] = _Inputs(torch.outer(zero, zero), zero, 0)
            found.squares = found.squares + rows.T @ rows
            found.magnitudes = found.magnitudes + rows.abs().sum(0)
            found.rows += len(rows)

        return note

    modes = [(module, module.training) for module in root.modules()]
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        root.eval()
        for batch in calls.batches(_WHERE, "calibration", calibration):
            root(*(batch if isinstance(batch, tuple | list) else (batch,)))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    for name, found in seen.items():
        if not bool(torch.isfinite(found.squares).all()):
            raise NonFiniteError(f"[{_WHERE}] calibration must give {name} finite inputs")
    return seen


def _rows(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """The inputs of each output as rows, in the order of the flattened weight of an output."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    if isinstance(layer, nn.Conv1d):
        x, kernel = x.unsqueeze(2), (1, *kernel)
        stride, dilation = (1, *stride), (1, *dilation)
    if x.dim() == 3:
        x = x.unsqueeze(0)  # a convolution also takes one image without a batch
    return F.unfold(x, kernel, dilation, 0, stride).transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def _kept_few(
    parameter: torch.Tensor,
    layer: Any,
    scheme: str,
    group_size: int | None,
    method: str,
    inputs: _Inputs | None,
) -> tuple[_Quantized, bool]:
    """The layer with no more distinct values than before if they are few, and whether only the
    rounding of the values themselves did that.

    `parameter` is the weight of the caller's model, which a Clusterer knows.
    """
    weight = layer.weight.detach()
    book = together.book_of(parameter) if scheme not in _HALF else None
    if book is not None:
        written = torch.empty_like(weight)
        book.write([written])
        # What was changed behind its Clusterer, as by a loaded state, is not what it holds.
        if torch.equal(written, weight):
            return _by_values(layer, scheme, _peaks_of(book, weight)), True
    put = _converted(layer, scheme, group_size, method, inputs)
    few = _few_values(weight)
    if few is not None and len(put.dense_weight(weight.dtype).unique()) > few:
        return _by_values(layer, scheme, weight.abs().amax().expand(len(weight))), True
    return put, False


def _few_values(weight: torch.Tensor) -> int | None:
    """How many distinct values the weight has; None where they are not few."""
    # Most weights show in their first ones that they are not.
    if len(weight.flatten()[: 2 * _FEW_VALUES].unique()) > _FEW_VALUES:
        return None
    found = len(weight.unique())
    return found if found <= min(_FEW_VALUES, weight.numel() // _REPEATS) else None


def _peaks_of(book: Book, weight: torch.Tensor) -> torch.Tensor:
    """[out]: the largest magnitude of the values that must share a scale with those of a row."""
    peaks = book.centroids.to(weight.dtype).abs().amax(1)
    if book.axis is not None and book.axis % weight.dim() == 0:
        return peaks.repeat_interleave(book.group_size or 1)[: len(weight)]
    return peaks.amax().expand(len(weight))


def _by_values(layer: Any, scheme: str, peaks: torch.Tensor) -> _Quantized:
    """Every weight rounded to the nearest on the grid that `peaks` give to its row."""
    top = 7 if scheme == "weight_int4" else 127
    weight = layer.weight.detach().flatten(1).float()
    scale = (peaks.float() / top)[:, None]
    scale = torch.where(scale < _TINY, torch.ones_like(scale), scale)
    integers = torch.round(weight / scale).clamp(-top, top).to(torch.int8)
    if scheme == "int8_dynamic":
        return DynamicLayer(layer, integers, scale)
    return WeightOnlyLayer(layer, integers, top == 7, weight.shape[1], scale)


@torch.no_grad()
def _converted(
    layer: Any, scheme: str, group_size: int | None, method: str, inputs: _Inputs | None
) -> _Quantized:
    if scheme in _HALF:
        return WeightOnlyLayer(layer, half=layer.weight.detach().to(_HALF[scheme]))
    weight = layer.weight.detach().flatten(1).to("cpu", torch.float32)
    dtype = "int4" if scheme == "weight_int4" else "int8"
    size = min(group_size or weight.shape[1], weight.shape[1])
    columns = zero_point = None
    if method == "hqq":
        # Between whole numbers, zero would be no value of the grid.
        whole = bool((weight == 0).any())
        q, scale, zero_point = _core.quant.hqq(weight, dtype, size, integer_zero=whole)
    elif method == "gptq":
        assert inputs is not None
        squares = inputs.squares.float().cpu()
        q, grid = _core.quant.gptq(weight, squares, dtype, size, preserve_zeros=True)
        scale = grid.scale
    else:
        if method == "awq":
            assert inputs is not None
            mean = (inputs.magnitudes / max(inputs.rows, 1)).float().cpu()
            squares = inputs.squares.float().cpu()
            found, _ = _core.quant.awq_scales(weight, mean, squares, dtype, size)
            columns = torch.as_tensor(found).float()
            weight = weight * columns
        grid = _core.quant.group_qparams(weight, size, 1, dtype, True)
        scale = grid.scale
        if method == "adaround":
            assert inputs is not None
            squares = inputs.squares.float().cpu()
            q = _core.quant.adaround(weight, squares, grid, preserve_zeros=True)
        else:
            spread = _spread(torch.as_tensor(scale), size, weight.shape[1])
            q = torch.round(weight / spread).clamp(grid.qmin, grid.qmax)
    device = layer.weight.device

    def by_group(found: Any) -> torch.Tensor:
        return torch.as_tensor(found).float().reshape(len(weight), -1).to(device)

    integers = torch.as_tensor(q).to(torch.int8).to(device)
    if scheme == "int8_dynamic":
        return DynamicLayer(layer, integers, by_group(scale))
    return WeightOnlyLayer(
        layer,
        integers,
        dtype == "int4",
        size,
        by_group(scale),
        None if zero_point is None else by_group(zero_point),
        None if columns is None else columns.to(device),
    )


def _spread(of_groups: torch.Tensor, size: int, width: int) -> torch.Tensor:
    """[out, groups] as [out, width]."""
    return of_groups.repeat_interleave(size, 1)[:, :width]


class _Quantized(nn.Module):
    """A Linear or convolution whose weight is kept in another form."""

    bias: nn.Parameter | None
    _kind: type[nn.Module]
    _shape: torch.Size
    _dtype: torch.dtype
    _options: dict[str, Any]

    def __init__(self, layer: Any) -> None:
        super().__init__()
        own = set(vars(nn.Module()))
        self._kind = type(layer)
        self._shape = layer.weight.shape
        self._dtype = layer.weight.dtype
        self._options = {key: value for key, value in vars(layer).items() if key not in own}
        self.register_parameter("bias", layer.bias)
        self.train(layer.training)

    @property
    def weight(self) -> torch.Tensor:
        """What code that reads the weight of the layer that was here gets: `dense_weight`."""
        return self.dense_weight(self._dtype)

    def _moptcore_held_(self) -> dict[str, Any]:
        """Figures of a weight that is no parameter."""
        stored = next(each for each in self._buffers.values() if each is not None)
        dtype = str(stored.dtype).removeprefix("torch.")
        return {"shape": tuple(self._shape), "dtype": dtype, "bytes": self.weight_bytes}

    @property
    def weight_bytes(self) -> int:
        """What the stored weight takes."""
        return sum(each.nbytes for each in self._buffers.values() if each is not None)

    def dense_weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight that it computes with."""
        raise NotImplementedError

    def _moptcore_strip_(self) -> nn.Module:
        layer: nn.Module = self._kind.__new__(self._kind)
        nn.Module.__init__(layer)
        layer.__dict__.update(self._options)
        layer.weight = nn.Parameter(self.dense_weight(self._dtype))
        layer.register_parameter("bias", self.bias)
        return layer.train(self.training)

    def _computed(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if self._kind is nn.Linear:
            return F.linear(x, weight, bias)
        options = self._options
        padding = options["padding"]
        if options["padding_mode"] != "zeros":
            around = options["_reversed_padding_repeated_twice"]
            x, padding = F.pad(x, around, mode=options["padding_mode"]), 0
        conv: Any = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        y: torch.Tensor = conv(
            x, weight, bias, options["stride"], padding, options["dilation"], options["groups"]
        )
        return y

    def extra_repr(self) -> str:
        return f"{self._kind.__name__} {tuple(self._shape)}, {self.weight_bytes} bytes"


class WeightOnlyLayer(_Quantized):
    """Integers and scales, or halves; the weight is made of them in each call.

    integers: int8 [out, in], or uint8 with two int4 in each byte, the first in the lower half.
    scale, zero_point: float32 [out, groups]; columns: float32 [in], what weights were multiplied
    by before they were rounded.
    """

    def __init__(
        self,
        layer: nn.Module,
        integers: torch.Tensor | None = None,
        int4: bool = False,
        group_size: int = 1,
        scale: torch.Tensor | None = None,
        zero_point: torch.Tensor | None = None,
        columns: torch.Tensor | None = None,
        half: torch.Tensor | None = None,
    ) -> None:
        super().__init__(layer)
        self._int4, self._group_size = int4, group_size
        if int4 and integers is not None:
            even = F.pad(integers, (0, integers.shape[1] % 2)).to(torch.int16) & 15
            integers = (even[:, ::2] | even[:, 1::2] << 4).to(torch.uint8)
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("columns", columns)
        self.register_buffer("halves", half)

    def dense_weight(self, dtype: torch.dtype) -> torch.Tensor:
        if self._buffers["halves"] is not None:
            return self._buffers["halves"].to(dtype)
        q, scale = self._buffers["integers"], self._buffers["scale"]
        assert q is not None
        assert scale is not None
        width = self._shape[1:].numel()
        if self._int4:
            halves = torch.stack([q & 15, q >> 4], 2).flatten(1)[:, :width].to(torch.int8)
            q = torch.where(halves > 7, halves - 16, halves)
        weight = q.to(scale.dtype)
        if (zero_point := self._buffers["zero_point"]) is not None:
            weight = weight - _spread(zero_point, self._group_size, width)
        weight = weight * _spread(scale, self._group_size, width)
        if (columns := self._buffers["columns"]) is not None:
            weight = weight / columns
        return weight.reshape(self._shape).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._computed(x, self.dense_weight(x.dtype), bias)


class DynamicLayer(_Quantized):
    """int8 weights with a scale for each output, inputs rounded to uint8 in each call.

    The sums are those of integers, exactly; then they are scaled and the bias is added.
    """

    integers: torch.Tensor
    scale: torch.Tensor

    def __init__(self, layer: nn.Module, integers: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(layer)
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)

    def dense_weight(self, dtype: torch.dtype) -> torch.Tensor:
        weight = self.integers.to(self.scale.dtype) * self.scale
        return weight.reshape(self._shape).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        low, high = torch.aminmax(wide)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = (high - low) / _LEVELS
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = torch.round(-low / scale).clamp(0, _LEVELS)
        q = (torch.round(wide / scale) + zero).clamp(0, _LEVELS) - zero
        exact = self.integers.shape[1] * _LEVELS * 127 < _EXACT
        dtype = torch.float32 if exact or x.device.type == "mps" else torch.float64
        sums = self._computed(
            q.to(dtype), self.integers.reshape(self._shape).to(dtype), None
        ).float()
        along = (-1,) if self._kind is nn.Linear else (-1, *[1] * (len(self._shape) - 2))
        y = sums * (scale * self.scale.reshape(along))
        if self.bias is not None:
            y = y + self.bias.float().reshape(along)
        return y.to(x.dtype)
