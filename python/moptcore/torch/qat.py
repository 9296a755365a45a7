# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: `prepare_qat` gives a module that computes as the int8 file will.

Weights are int8 with one symmetric scale per output channel, activations uint8 with one scale and
zero point per tensor, biases int32. A BatchNorm behind a layer trains on batch statistics as it
always did: multiplying a channel's weights by a constant multiplies its scale and leaves its
integers alone, so folding commutes with quantization and happens at evaluation and export only.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from moptcore import DTypeError, Error, FormatError, UnsupportedError
from moptcore.core import Coverage, Pattern, Selection, require, select
from moptcore.torch import masking, together
from moptcore.torch.arguments import dimensions, unwrapped
from moptcore.torch.capture import (
    Program,
    Ref,
    Step,
    capture,
    evaluating,
    example_inputs,
    map_refs,
    observe_values,
)
from moptcore.torch.codebook import Book
from moptcore.torch.fake_quant import rounded
from moptcore.torch.integer import Geometry, Operands, geometry, integer_layer, why_not
from moptcore.torch.learned import lsq

__all__ = ["ActivationQuantizer", "Folded", "QuantizedLayer", "QuantizedModel", "prepare_qat"]

SCHEMES = ("int8",)
MODES = ("simulate", "integer")
SCALES = ("measured", "learned")
WEIGHT_MAX = 127
# With a scale that does not follow the weights, two neighbours still have to fit one lane.
_LEARNED_MAX = 63
ACTIVATION_MAX = 255

_WHERE = "torch.prepare_qat"
_TINY = torch.finfo(torch.float32).tiny
# A bias far beyond the sums that it joins would overflow their int32.
_BIAS_MAX = 2**29
_MOMENTUM = 0.01
_ROWS_SHOWN = 4
_RELU, _RELU6 = (0.0, math.inf), (0.0, 6.0)

# Integers in, integers with the same scale out: nothing is rounded again.
_SAME_SCALE = {
    "max_pool",
    "adaptive_max_pool",
    "reshape",
    "transpose",
    "permute",
    "identity",
    "getitem",
    "split",
    "unbind",
    "pixel_shuffle",
}
# Computed on integers where their inputs are integers.
_ARITHMETIC = {"add", "mul", "concat", "avg_pool", "adaptive_avg_pool", "mean"}
# What may lie between an integer layer and integer arithmetic.
_ACTIVATIONS = {"relu", "clip", "sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "leaky_relu"}


def prepare_qat(
    model: nn.Module,
    example: Any,
    scheme: str = "int8",
    mode: str = "simulate",
    include: Pattern | Iterable[Pattern] | None = None,
    exclude: Pattern | Iterable[Pattern] | None = None,
    strict: bool = False,
    scales: str = "measured",
) -> QuantizedModel:
    """A new module that trains with the rounding of the exported int8 model; `model` is untouched.

    `example` (a tensor, or a tuple of them) is passed through once to size the ranges; the first
    training batch replaces what it gave. Parameters and buffers keep their names, weights that
    are zero (pruned) stay zero, and weights that a Clusterer holds keep their codebooks, which
    become as few integers; ranges are measured in train() and frozen in eval(), where BatchNorm is
    folded as in the file. With scales="learned" they start as measured and are parameters from
    then on, under `_quant`, with the gradients of LSQ: give them to the optimizer, best without
    weight decay.

    With mode="simulate" layers compute in float on rounded values. With mode="integer" the forward
    pass of linear layers and convolutions in one and two dimensions multiplies the integers
    themselves, with int32 sums, as the int8 file is to be computed; gradients stay those of
    "simulate". It takes float32 on CPU; elsewhere, and in layers for which `coverage` gives a
    reason, the forward pass is simulated.

    `coverage` names every weight and, where it stays float, why. `strict` raises CoverageError
    for a selected weight that stays float, or that mode "integer" simulates; a warning says that
    all stay float. Raises UnsupportedError
    for a forward whose control flow depends on data, naming the line.
    """
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{_WHERE}] model must be a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    if isinstance(model, QuantizedModel):
        raise Error(f"[{_WHERE}] model must not be prepared already, got {type(model).__name__}")
    if scheme not in SCHEMES:
        raise UnsupportedError(f"[{_WHERE}] scheme must be one of {SCHEMES}, got {scheme!r}")
    if mode not in MODES:
        raise UnsupportedError(f"[{_WHERE}] mode must be one of {MODES}, got {mode!r}")
    if scales not in SCALES:
        raise Error(f"[{_WHERE}] scales must be one of {SCALES}, got {scales!r}")
    inputs = example_inputs(example, _WHERE)
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise Error(f"[{_WHERE}] model must be initialized, got lazy parameter {name!r}")
    wanted = _wanted(model, include, exclude)

    root = copy.deepcopy(model)
    for parameter in root.parameters():
        parameter.grad = None
    program = capture(root, _WHERE)
    values = observe_values(program, root, inputs, _WHERE)
    plan = _Plan(program, root, values, wanted, inputs[0].device, scales == "learned", mode)
    quantized = QuantizedModel(root, plan.rewrite(), plan.quantizers, plan.coverage(), scheme)
    if strict:
        simulated = [
            dataclasses.replace(row, done=row.done and (mode == "simulate" or not row.reason))
            for row in quantized.coverage
        ]
        require(simulated, _WHERE)
    rows = quantized.coverage
    if not any(row.done for row in rows):
        why = "; ".join(f"{row.name}: {row.reason}" for row in rows[:_ROWS_SHOWN])
        warnings.warn(
            f"[{_WHERE}] nothing becomes int8 ({why or 'no parameter has 2 or more dimensions'})",
            stacklevel=2,
        )
    books = {
        id(root.get_parameter(name)): book
        for name, parameter in model.named_parameters()
        if (book := together.book_of(parameter)) is not None
    }
    quantized.hold_codebooks(books)
    quantized._size_ranges(inputs)
    return quantized


class ActivationQuantizer(nn.Module):
    """Measures the range of a tensor while training, and rounds it to 256 levels.

    The range is the mean of the batches' minima and maxima, weighted by 0.99 per batch of age
    and always containing 0, so that 0 is exact. Batches with infinities or NaN do not count.

    With `bounds` it stands for a ReLU too: the range is cut at them, and rounding saturates
    there, as in the deployed model. With `in_place` it overwrites its input, which the caller
    then has no other use for. While `passing` nothing is measured or rounded.
    """

    low: torch.Tensor
    high: torch.Tensor
    batches: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.bounds: tuple[float, float] | None = None
        self.in_place = False
        self.passing = False
        self.register_buffer("low", torch.zeros((), device=device))
        self.register_buffer("high", torch.zeros((), device=device))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("scale", torch.ones((), device=device))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.passing:
            return x if self.bounds is None else x.clamp(*self.bounds)
        if self.training:
            self.observe(x)
        return rounded(x, self.scale, self.zero_point, 0, ACTIVATION_MAX, in_place=self.in_place)

    @torch.no_grad()
    def fix(self, scale: float, zero_point: int) -> None:
        """Sets the grid; training would move it from there on as after one batch."""
        self.low.fill_(-zero_point * scale)
        self.high.fill_((ACTIVATION_MAX - zero_point) * scale)
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)
        self.batches.fill_(1)

    @torch.no_grad()
    def observe(self, x: torch.Tensor, count: bool = True) -> None:
        """Lets a batch move the range; `count=False` sets it until the first counted batch."""
        low, high = torch.aminmax(x.detach())
        if self.bounds is not None:
            low, high = low.clamp(*self.bounds), high.clamp(*self.bounds)
        if low.is_cpu and not torch.compiler.is_compiling():
            self._observe_numbers(low.item(), high.item(), count)
        else:
            self._observe_tensors(low.float(), high.float(), count)

    # The weight of the n-th batch in a mean whose weights fall by 0.99 per batch of age is
    # 0.01 / (1 - 0.99^n): 1 for the first, which so replaces whatever was there.

    def _observe_numbers(self, low: float, high: float, count: bool) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):
            return
        batches, old_low, old_high = self.batches.item() + 1, self.low.item(), self.high.item()
        weight = _MOMENTUM / (1.0 - (1.0 - _MOMENTUM) ** batches)
        low, high = old_low + weight * (low - old_low), old_high + weight * (high - old_high)
        self.low.fill_(low)
        self.high.fill_(high)
        if count:
            self.batches.fill_(batches)
        low, high = min(self.low.item(), 0.0), max(self.high.item(), 0.0)
        scale = (high - low) / ACTIVATION_MAX
        scale = 1.0 if scale < _TINY else scale
        self.scale.fill_(scale)
        self.zero_point.fill_(min(max(round(-low / scale), 0), ACTIVATION_MAX))

    def _observe_tensors(self, low: torch.Tensor, high: torch.Tensor, count: bool) -> None:
        # Without a look at the numbers: neither waits for a device nor breaks a traced graph.
        finite = torch.isfinite(low) & torch.isfinite(high)
        batches = self.batches + 1
        weight = _MOMENTUM / (1.0 - (1.0 - _MOMENTUM) ** batches.double())
        weight = torch.where(finite, weight, 0.0).float()
        self.low += weight * (torch.where(finite, low, self.low) - self.low)
        self.high += weight * (torch.where(finite, high, self.high) - self.high)
        if count:
            self.batches += finite
        least, most = self.low.double().clamp(max=0.0), self.high.double().clamp(min=0.0)
        scale = (most - least) / ACTIVATION_MAX
        scale = torch.where(scale < _TINY, 1.0, scale)
        self.scale.copy_(scale)
        self.zero_point.copy_(torch.round(-least / scale).clamp(0, ACTIVATION_MAX))

    def _apply(self, fn: Any, recurse: bool = True) -> ActivationQuantizer:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # A model in half precision still needs the whole scale.
        for name in ("low", "high", "scale"):
            self._buffers[name] = getattr(self, name).float()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        # The state of the model that was prepared has no ranges, and loads all the same.
        if any(prefix + name in state_dict for name in self._buffers):
            super()._load_from_state_dict(state_dict, prefix, *others)


class LearnedQuantizer(ActivationQuantizer):
    """Rounds a tensor to 256 levels of a scale and zero point that are trained.

    They start as the range of the first training batch. Where a ReLU is left to the rounding, the
    zero point stays 0 and the scale does not reach beyond its upper bound.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        del self.scale
        self.scale = nn.Parameter(torch.ones((), device=device))
        self.position = nn.Parameter(torch.zeros((), device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not bool(self.batches):
            self.observe(x)
        self._bind()
        position = self.position if self.bounds is None else None
        return lsq(x, self.scale, position, 0, ACTIVATION_MAX)

    @torch.no_grad()
    def observe(self, x: torch.Tensor, count: bool = True) -> None:
        super().observe(x, count)
        self.position.copy_(self.zero_point)

    @torch.no_grad()
    def _bind(self) -> None:
        """Puts what an optimizer made of the grid back within its bounds."""
        most = math.inf if self.bounds is None else self.bounds[1] / ACTIVATION_MAX
        self.scale.data.clamp_(min=_TINY, max=most)
        self.position.data.clamp_(0, ACTIVATION_MAX)
        if self.bounds is not None:
            self.position.data.zero_()
        self.zero_point.copy_(torch.round(self.position))

    def _apply(self, fn: Any, recurse: bool = True) -> LearnedQuantizer:
        nn.Module._apply(self, fn, recurse)
        for name in ("low", "high"):
            self._buffers[name] = getattr(self, name).float()
        for parameter in (self.scale, self.position):
            parameter.data = parameter.data.float()
        return self


class Folded(NamedTuple):
    """A layer as deployed: weights are `weight * scale` along axis 0."""

    weight: torch.Tensor  # int8
    scale: torch.Tensor  # float32 [out]
    bias: torch.Tensor | None  # int32 [out]
    bias_scale: torch.Tensor  # float32 [out]: the input's scale times `scale`
    # float32 [out] of 1 and -1: what the layer's results are multiplied by; None is 1.
    sign: torch.Tensor | None = None


class QuantizedLayer(nn.Module):
    """A convolution or linear layer, the BatchNorm behind it and a ReLU, as one operation.

    Holds no parameters: those stay in the modules of the model, under their names. `pruned` marks
    the weights that were zero when the model was prepared, and that stay zero whatever an
    optimizer does to them; None where there were none. `book` holds the weights at few values.

    In `mode` "integer" the integers themselves are multiplied where integer_layer can, in
    training only where the input is `on_grid`: what a dropout scales is not.

    A codebook without an axis, or with another than the outputs, needs one scale for the whole
    weight: only so do k values become k integers. For the same reason a negative factor of the
    BatchNorm is not folded into the weights then.
    """

    pruned: torch.Tensor | None
    deployed: torch.Tensor | None

    zeros: torch.Tensor

    def __init__(
        self,
        kind: str,
        weight: tuple[nn.Module, str],
        bias: tuple[nn.Module, str] | None,
        options: dict[str, Any],
        norm: nn.Module | None,
        activation: tuple[float, float] | None,
        source: ActivationQuantizer,
        learned: bool = False,
        mode: str = "simulate",
    ) -> None:
        super().__init__()
        self.mode = mode
        self.on_grid = True
        self.kind = kind
        self.options = options
        self.activation = activation
        # Tuples keep these from being registered a second time under another name.
        self._weight, self._bias, self._norm, self._source = weight, bias, (norm,), (source,)
        conv = kind == "conv"
        self._geometry = geometry(options, self.weight) if conv else Geometry()
        zeros = self.weight.detach() == 0
        # Nothing but zeros is a layer that has yet to learn, not one that was pruned.
        sparse = bool(zeros.any()) and not bool(zeros.all())
        self.register_buffer("pruned", zeros if sparse else None)
        zeros = torch.zeros(len(self.weight), dtype=torch.int32, device=self.weight.device)
        self.register_buffer("zeros", zeros, persistent=False)
        # The scales that a deployed state came with; weights on a grid may measure another one.
        self.register_buffer("deployed", None)
        self.book: Book | None = None
        self.limit = WEIGHT_MAX
        self.scale: nn.Parameter | None = None
        if learned:
            values = self.weight.detach().float()
            self.limit = WEIGHT_MAX if self._is_depthwise(values) else _LEARNED_MAX
            peak = values.flatten(1).abs().amax(1) / self.limit
            self.scale = nn.Parameter(torch.where(peak < _TINY, 1.0, peak))

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLayer:
        deployed = self.deployed
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if deployed is not None and self.deployed is not None:
            self.deployed = deployed.to(self.deployed.device)
        if self.scale is not None:
            # A model in half precision still needs the whole scale.
            self.scale.data = self.scale.data.float()
        return self

    @property
    def weight(self) -> torch.Tensor:
        owner, name = self._weight
        found: torch.Tensor = getattr(owner, name)
        return found

    @property
    def bias(self) -> torch.Tensor | None:
        return None if self._bias is None else getattr(*self._bias)

    def restore_zeros(self) -> None:
        """Sets the pruned weights to zero again."""
        if self.pruned is not None:
            # Past autograd: graphs of earlier forward passes hold the rounded weight, not this.
            self.weight.data.masked_fill_(self.pruned, 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Sets the pruned weights to zero again, and each clustered one to its value."""
        self.restore_zeros()
        if self.book is None:
            return
        together.join(self)
        kept = self.book.kept
        bits = together.masks().get(id(self.weight))
        if bits is not None:
            kept = masking.unpack(bits, (self.weight.numel(),))
        self.book.settle([self.weight.data], kept)

    def _moptcore_hold_(self, books: dict[int, Book]) -> None:
        book = books.get(id(self.weight))
        if book is not None:
            self.book = book
            together.join(self)

    def _books_now(self) -> dict[int, Book]:
        return {} if self.book is None else {id(self.weight): self.book}

    def _settle_on(self, parameters: set[int]) -> set[int]:
        held = parameters & set(self._books_now())
        if held:
            self.restore()
        return held

    def _kept(self) -> torch.Tensor:
        """The weight, with no gradient where it is pruned: a step of an optimizer that carries no
        momentum from before leaves zeros there.
        """
        return self.weight if self.pruned is None else self.weight.masked_fill(self.pruned, 0.0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        found = state_dict.get(prefix + "pruned")
        deployed = state_dict.get(prefix + "deployed")
        self.deployed = None if deployed is None else deployed.to(self.weight.device, copy=True)
        if deployed is not None:
            self.book = None
        if found is not None and found.dim() == 0:
            # The weights are loaded already: `_quant` is the last child.
            self.pruned = self.weight.detach() == 0 if bool(found) else None
        elif found is not None:
            # A copy on the weight's device, which may be that of another layer next time.
            self.pruned = found.to(self.weight.device, torch.bool, copy=True)
        scale = state_dict.get(f"{prefix}scale")
        if self.scale is not None and scale is not None:
            self.scale.data.copy_(scale)
        mark = f"{prefix}book."
        state = {key.removeprefix(mark): v for key, v in state_dict.items() if key.startswith(mark)}
        if state:
            axis, group_size, k = state.pop("kind").tolist()
            sizes = (None if axis < 0 else axis, group_size or None)
            book = Book(k, "optimal", *sizes, "centroids", "mean", 0, [self.weight.shape])
            wrong = book.load({key: value.clone() for key, value in state.items()})
            if wrong:
                raise FormatError(f"[torch.QuantizedModel] {mark}* {wrong}")
            self._moptcore_hold_({id(self.weight): book})

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.book is not None:
            kind = (
                -1 if self.book.axis is None else self.book.axis,
                self.book.group_size or 0,
                self.book.k,
            )
            destination[f"{prefix}book.kind"] = torch.tensor(kind)
            for key, value in self.book.state().items():
                destination[f"{prefix}book.{key}"] = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.restore()
        if self.training:
            self.deployed = None
            weight = self._kept()
            scale = self._scale(weight)
            own = self.pruned is not None
            if self.scale is not None:
                weight = lsq(weight, scale, None, -self.limit, self.limit, 0)
            else:
                weight = rounded(weight, scale, self.zeros, -WEIGHT_MAX, WEIGHT_MAX, 0, own)
            if self.on_grid and self._multiplies_integers(x):
                y = self._trained_integers(x, weight, scale)
            else:
                y = self._linear(x, weight, self.bias)
            if self._norm[0] is not None:
                y = self._norm[0](y)
        elif self._multiplies_integers(x):
            folded = self.folded()
            scale = folded.scale if folded.sign is None else folded.scale * folded.sign
            source = self._source[0]
            y = integer_layer(
                x,
                *self._evaluated(folded),
                Operands(source.scale, source.zero_point, folded.weight, scale, folded.bias),
                self._geometry,
            )
        else:
            y = self._linear(x, *self._evaluated(self.folded()))
        return self._activate(y)

    def _multiplies_integers(self, x: torch.Tensor) -> bool:
        return (
            self.mode == "integer"
            and not self._source[0].passing
            and x.dtype == self.weight.dtype == torch.float32
            and not (self.kind == "conv" and self.weight.dim() > 4)
        )

    def _trained_integers(
        self, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """The layer before its BatchNorm. Without one its bias is rounded as deployed."""
        source, bias = self._source[0], self.bias
        shape = (-1, *[1] * (weight.dim() - 1))
        with torch.no_grad():
            q = torch.round(weight / scale.reshape(shape)).to(torch.int8)
            steps = None
            if bias is not None and self._norm[0] is None:
                steps = torch.round(bias.double() / (source.scale * scale).double())
                steps = steps.clamp(-(2**31) + 1, 2**31 - 1).to(torch.int32)
        y = integer_layer(
            x,
            weight,
            None if steps is None else bias,
            Operands(source.scale, source.zero_point, q, scale, steps),
            self._geometry,
        )
        if bias is not None and steps is None:
            y = y + (bias.reshape(shape[:-1]) if self.kind == "conv" else bias)
        return y

    def _linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if self.kind == "linear":
            return F.linear(x, weight, bias)
        conv = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        o = self.options
        return conv(x, weight, bias, o["stride"], o["padding"], o["dilation"], o["groups"])

    def _activate(self, y: torch.Tensor) -> torch.Tensor:
        if self.activation is None:
            return y
        if self.activation == _RELU:
            return F.relu(y, inplace=True)
        return F.hardtanh(y, *self.activation, inplace=True)

    def _scale(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 [out]: the largest magnitude lands on 127, and so does that of the sum of two
        neighbours.

        Neighbours along the input channels meet in one 16-bit lane of the int8 instructions of
        CPUs without VNNI (two products of a weight and a uint8), where more would saturate
        silently and the deployed model would differ from the trained one.
        """
        if self.deployed is not None:
            return self.deployed
        if self.scale is not None:
            # Optimizers know no bounds.
            self.scale.data.clamp_(min=_TINY)
            return self.scale.amax().expand(self.scale.shape) if self._one_scale else self.scale
        weight = weight.detach().float()
        rows = weight.flatten(1)
        peak = rows.abs().amax(1)
        if not self._is_depthwise(weight):
            if weight.dim() > 2 and weight.shape[1] % 2 == 0:
                sums = weight[:, ::2] + weight[:, 1::2]
            else:
                rows = weight.movedim(1, -1).flatten(1)
                pairs = rows.shape[1] // 2 * 2
                sums = rows[:, :pairs:2] + rows[:, 1:pairs:2]
            if sums.numel():
                peak = torch.maximum(peak, sums.flatten(1).abs().amax(1))
        if self._one_scale and peak.numel():
            peak = peak.amax().expand(len(peak))
        scale = peak / WEIGHT_MAX
        return torch.where(scale < _TINY, 1.0, scale)

    @property
    def _one_scale(self) -> bool:
        return self.book is not None and self.book.axis != 0

    def _is_depthwise(self, weight: torch.Tensor) -> bool:
        # One weight per channel and position, which runtimes multiply without pairing.
        return self.kind == "conv" and weight.shape[1] == 1 < self.options["groups"] == len(weight)

    def _factors(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What the folded BatchNorm multiplies each channel by, and the bias behind it."""
        norm, bias = self._norm[0], self.bias
        return (None, bias) if norm is None else fold_norm(norm, bias)

    @torch.no_grad()
    def folded(self) -> Folded:
        """The integers and scales that evaluation computes with and export writes."""
        self.restore()
        weight = self.weight
        scale = self._scale(weight)
        shape = (-1, *[1] * (weight.dim() - 1))
        q = torch.round(weight.float() / scale.reshape(shape)).clamp(-self.limit, self.limit)
        factor, bias = self._factors()
        wide = scale.double()
        sign = None
        if factor is not None:
            wide = wide * factor.abs()
            sign = torch.sign(factor).float()
            if self._one_scale and bool((factor < 0).any()):
                sign = torch.where(factor < 0, -1.0, 1.0)
                bias = None if bias is None else bias.double() * sign
            else:
                q = q * sign.reshape(shape)
                sign = None
        source = self._source[0].scale.double()
        # A channel of (nearly) no weight must still hold its bias in an int32: its scale grows,
        # and its weights round again.
        used = wide * q.flatten(1).any(1)
        least = torch.full_like(used, _TINY / min(1.0, float(source)))
        if bias is not None:
            least = torch.maximum(least, bias.detach().double().abs() / (source * _BIAS_MAX))
        grown = torch.where(used < least, least, wide)
        shrunk = torch.round(q.double() * (wide / grown).reshape(shape)).float()
        if self.book is not None:
            shrunk = _nearest(shrunk, q)
        q = torch.where((grown != wide).reshape(shape), shrunk, q)
        scale = grown.float()
        bias_scale = self._source[0].scale * scale
        rounded = None
        if bias is not None:
            rounded = torch.round(bias.detach().double() / bias_scale.double())
            rounded = rounded.clamp(-(2**31) + 1, 2**31 - 1).to(torch.int32)
        return Folded(q.to(torch.int8), scale, rounded, bias_scale, sign)

    @torch.no_grad()
    def settled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight on its grid, before a BatchNorm is folded into it, and the scales [out].

        Zeros are all positive. With these scales evaluation computes the same as with the weight.
        """
        self.restore()
        weight = self.weight.detach()
        scale = self._scale(weight).detach().clone()
        shape = (-1, *[1] * (weight.dim() - 1))
        q = torch.round(weight.float() / scale.reshape(shape)).clamp(-self.limit, self.limit)
        return (q * scale.reshape(shape)).to(weight.dtype) + 0.0, scale

    def _evaluated(self, folded: Folded) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = self.weight
        shape = (-1, *[1] * (weight.dim() - 1))
        deployed = (folded.weight.float() * folded.scale.reshape(shape)).to(weight.dtype)
        bias = None
        if folded.bias is not None:
            bias = (folded.bias.double() * folded.bias_scale.double()).to(weight.dtype)
        if folded.sign is not None:
            deployed = deployed * folded.sign.to(weight.dtype).reshape(shape)
            bias = None if bias is None else bias * folded.sign.to(weight.dtype)
        if torch.is_grad_enabled() and weight.requires_grad:
            factor, shift = self._factors()
            weight = self._kept()
            if factor is not None:
                weight = weight * factor.to(weight.dtype).reshape(shape)
            # The value deployed, with the gradient of the float weight.
            deployed = weight + (deployed - weight).detach()
            if bias is not None and shift is not None and shift.requires_grad:
                shift = shift.to(weight.dtype)
                bias = shift + (bias - shift).detach()
        return deployed, bias


class QuantizedModel(nn.Module):
    """What `prepare_qat` returns: the model's parameters and buffers, and the int8 arithmetic.

    Submodules, parameters and buffers are those of a copy of the model, under the same names;
    `_quant` holds the measured ranges.
    """

    def __init__(
        self,
        root: nn.Module,
        program: Program,
        quantizers: dict[str, nn.Module],
        coverage: tuple[Coverage, ...],
        scheme: str,
    ) -> None:
        super().__init__()
        if "_quant" in root._modules:
            raise Error(f"[{_WHERE}] model must not have a child called '_quant'")
        root.add_module("_quant", nn.ModuleDict(quantizers))
        # One set of names for both: what is trained here is what `strip` finds in the original
        # class.
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[name] = root.__dict__[name]
        self._root = (root,)
        self.training = root.training
        self._program = program
        self._coverage = coverage
        self.scheme = scheme
        self.register_state_dict_pre_hook(_restore_before_state)  # type: ignore[no-untyped-call]

    def restore_zeros(self) -> None:
        """Sets the weights that were zero when the model was prepared to zero again, and clustered
        ones to the values of their codebooks.

        forward, state_dict, `strip` and export do so themselves.
        """
        for layer in self.get_submodule("_quant").children():
            if isinstance(layer, QuantizedLayer):
                layer.restore()

    def hold_codebooks(self, books: dict[int, Book]) -> None:
        """Keeps the weights with these ids at the values of their codebooks."""
        for layer in self.get_submodule("_quant").children():
            if isinstance(layer, QuantizedLayer):
                layer._moptcore_hold_(books)

    @property
    def program(self) -> Program:
        """The steps of forward."""
        return self._program

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """One row per parameter with two or more dimensions: int8, or why not."""
        return self._coverage

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        env = self._program.bind(args, kwargs, "torch.QuantizedModel")
        return self._program.run(env, self.training)

    def deployed_state(self) -> dict[str, torch.Tensor]:
        """A state dict of what evaluation computes with: weights on their grids, and the scales.

        Loaded into this model, or one that was prepared from the same module, it evaluates bit
        for bit as this one. It is no state to resume training from: what the rounding took from
        the weights, the codebooks, and which of the zeros were none but by rounding are not in it.
        A weight that several layers share stays as it is where their scales differ.
        """
        state = dict(self.state_dict())
        layers: dict[int, list[tuple[str, QuantizedLayer]]] = {}
        for name, layer in self.get_submodule("_quant").named_children():
            if isinstance(layer, QuantizedLayer) and bool(torch.isfinite(layer.weight).all()):
                layers.setdefault(id(layer.weight), []).append((name, layer))
        for key, parameter in self.named_parameters(remove_duplicate=False):
            users = layers.get(id(parameter), [])
            grids = [layer.settled() for _, layer in users]
            if not grids or any(not torch.equal(scale, grids[0][1]) for _, scale in grids):
                continue
            state[key] = grids[0][0]
            for name, layer in users:
                prefix = f"_quant.{name}."
                for other in [k for k in state if k.startswith(f"{prefix}book.")]:
                    del state[other]
                state[f"{prefix}pruned"] = torch.tensor(layer.pruned is not None)
                state[f"{prefix}deployed"] = grids[0][1]
        return state

    def _size_ranges(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """First ranges, so that evaluation before any training makes sense."""
        self.measure(inputs, lambda quantizer, value: quantizer.observe(value, count=False))

    def measure(
        self,
        inputs: tuple[torch.Tensor, ...],
        update: Callable[[ActivationQuantizer, torch.Tensor], None],
    ) -> None:
        """One evaluation; `update` gets each quantizer with every value that it will round."""
        users = self._program.users

        def seen(step: Step, value: Any) -> None:
            for user in users[step.name]:
                if user.kind == "quantize":
                    update(user.target[0], value)

        with evaluating(self), torch.no_grad():
            env = self._program.bind(inputs, {}, _WHERE)
            self._program.run(env, False, seen)

    def _moptcore_strip_(self) -> nn.Module:
        """A copy of the original module, its own class, with what was trained here."""
        self.restore_zeros()
        root = self._root[0]
        ranges = root._modules.pop("_quant")
        try:
            plain = copy.deepcopy(root)
        finally:
            root._modules["_quant"] = ranges
        return plain.train(self.training)


def _restore_before_state(model: nn.Module, *_: Any) -> None:
    assert isinstance(model, QuantizedModel)
    model.restore_zeros()


def fold_norm(norm: Any, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """float64: what a BatchNorm in eval() multiplies each channel by, and the bias behind it."""
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.running_mean.double() * factor
    if bias is not None:
        shift = shift + bias.double() * factor
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return factor, shift


def _nearest(values: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Each of `values` moved to the nearest that occurs in `among`."""
    found: torch.Tensor = among.unique()
    if len(found) < 2:
        return found.expand(values.shape).clone() if len(found) else values
    return found[torch.bucketize(values, (found[1:] + found[:-1]) / 2)]


class _Plan:
    """Decides which layers become int8, what is folded into them and where values are rounded."""

    def __init__(
        self,
        program: Program,
        root: nn.Module,
        values: dict[str, torch.Tensor],
        wanted: dict[str, Selection],
        device: torch.device,
        learned: bool,
        mode: str,
    ) -> None:
        self._learned = learned
        self._mode = mode
        self._values = values
        self._steps = {step.name: step for step in program.steps}
        self._users = program.users
        self._modules = dict(root.named_modules())
        self._parameters = dict(root.named_parameters())
        self._names = {id(value): name for name, value in self._parameters.items()}
        self._wanted = wanted
        self._same_relu: set[str] = set()
        self._layers: dict[str, _Fusion] = {}  # by the name of the last step fused
        self._fused: set[str] = set()
        self._reasons: dict[str, str] = {}
        for step in program.steps:
            if step.kind in ("conv", "linear"):
                self._fuse(step)
        self._marked = self._mark()
        kind = LearnedQuantizer if learned else ActivationQuantizer
        self._ranges = {name: kind(device) for name in self._marked}
        self._sources = {n: self._root(fusion.source) for n, fusion in self._layers.items()}
        self._on_grid = {name: self._stays_on_grid(name) for name in self._layers}
        self.quantizers: dict[str, nn.Module] = {}
        self._idle: set[str] = set()  # steps that the rounding behind them does
        self._bound()

    def _bound(self) -> None:
        """Leaves ReLUs to the rounding behind them, which saturates at their bounds anyway."""
        for name, quantizer in self._ranges.items():
            step, fusion = self._steps[name], self._layers.get(name)
            if fusion is not None and fusion.activation is not None:
                quantizer.bounds = fusion.activation
                self._layers[name] = fusion._replace(activation=None)
            elif fusion is None and step.kind == "relu" and self._sole(step.inputs[0], step):
                quantizer.bounds = _RELU
                self._idle.add(name)
                step = self._steps[step.inputs[0]]
            quantizer.in_place = fusion is not None or step.kind == "add"

    def _sole(self, name: str, user: Step) -> bool:
        return self._users[name] == [user] and name not in self._ranges

    def rewrite(self) -> Program:
        """The program with quantized layers, and values rounded where integers will be."""
        steps: list[Step] = []
        renamed: dict[str, str] = {}

        def current(ref: Ref) -> Ref:
            return Ref(renamed.get(ref.name, ref.name))

        for name, step in self._steps.items():
            if name in self._fused:
                continue
            if name in self._layers:
                step = self._layer_step(name)
            step.args, step.kwargs, step.attrs = map_refs(
                (step.args, step.kwargs, step.attrs), current
            )
            if name in self._idle:
                renamed[name] = step.inputs[0]
                source = Ref(renamed[name])
            else:
                steps.append(step)
                source = Ref(name)
            if name in self._ranges:
                renamed[name] = f"{name}_int8"
                quantizer = self.quantizers[renamed[name]] = self._ranges[name]
                steps.append(
                    Step(renamed[name], "module", (quantizer,), (source,), kind="quantize")
                )
        used = {name for step in steps for name in step.inputs}
        return Program([s for s in steps if s.op != "attribute" or s.name in used])

    def coverage(self) -> tuple[Coverage, ...]:
        done = {name for fusion in self._layers.values() for name in fusion.parameters}
        simulated: dict[str, set[str]] = {}
        for last, fusion in self._layers.items():
            weight = getattr(*fusion.weight)
            reason = why_not(weight, fusion.step.kind) if self._mode == "integer" else ""
            if not reason and not weight.is_cpu:
                reason = f"integer kernels run on CPU, got {weight.device}"
            if not reason and not self._on_grid[last]:
                reason = "behind a dropout the forward pass is simulated in train()"
            for name in fusion.parameters if reason else ():
                simulated.setdefault(name, set()).add(reason)
        rows = []
        for name, parameter in self._parameters.items():
            if parameter.dim() < 2:
                continue
            module = self._modules[name.rpartition(".")[0]]
            selection = self._wanted[name]
            reason = ""
            if not selection.selected:
                reason = selection.reason
            elif name not in done:
                reason = self._reasons.get(name) or self._left(name, module)
            before = {"dtype": str(parameter.dtype).removeprefix("torch.")}
            after = {"dtype": "int8"} if name in done else before
            if name in done and self._mode == "integer":
                reason = "; ".join(sorted(simulated.get(name, ())))
                after = {**after, "forward": "simulate" if reason else "integer"}
            rows.append(
                Coverage(
                    name,
                    type(module).__name__,
                    "quant",
                    name in done,
                    reason,
                    before,
                    after,
                    selection.selected,
                )
            )
        return tuple(rows)

    def _left(self, name: str, module: nn.Module) -> str:
        path = name.rpartition(".")[0]
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        for step in self._steps.values():
            # torch's own modules are called whole, with all that is inside.
            if (
                step.op == "module"
                and not step.kind
                and f"{path}.".startswith(f"{step.attrs['path']}.")
            ):
                return (
                    f"left in float: {type(step.target[0]).__name__} is not a Linear, Conv1d, "
                    "Conv2d or Conv3d; export_onnx cannot write it yet"
                )
        if isinstance(module, kinds) and not any(
            step.attrs.get("path") == path for step in self._steps.values()
        ):
            return "left in float: the forward pass does not call it"
        return f"left in float: {type(module).__name__} is not a Linear, Conv1d, Conv2d or Conv3d"

    def _fuse(self, step: Step) -> None:
        """Plans a quantized layer for a convolution or linear step where that is possible."""
        weight = self._attribute(step, "weight")
        if weight is None:
            return
        name = self._names.get(id(getattr(*weight)))
        bias = self._attribute(step, "bias")
        if name is None or not self._wanted[name].selected:
            return
        if bias is None and step.attrs.get("bias") is not None and step.op == "function":
            self._reasons[name] = "left in float: its bias is computed"
            return
        if step.attrs.get("padding_mode", "zeros") != "zeros":
            self._reasons[name] = f"left in float: padding_mode {step.attrs['padding_mode']!r}"
            return
        norm, activation, last = None, None, step
        after = self._sole_user(last)
        if after is not None and after.kind == "batch_norm" and self._folds(after, step):
            norm, last = after.target[0], after
            self._fused.add(step.name)
            after = self._sole_user(last)
        if after is not None and after.kind in ("relu", "clip"):
            bounds = (after.attrs.get("min"), after.attrs.get("max"))
            if after.kind == "relu" or bounds == _RELU6:
                activation = _RELU if after.kind == "relu" else _RELU6
                self._fused.add(last.name)
                last = after
        parameters = (name,)
        owner = None if bias is None or getattr(*bias) is None else bias
        source = step.args[0] if step.args else step.kwargs["input"]
        self._layers[last.name] = _Fusion(
            step, weight, owner, norm, activation, source.name, parameters
        )

    def _layer_step(self, name: str) -> Step:
        fusion = self._layers[name]
        options: dict[str, Any] = {
            key: fusion.step.attrs[key]
            for key in ("stride", "padding", "dilation", "groups")
            if key in fusion.step.attrs
        }
        layer = QuantizedLayer(
            fusion.step.kind,
            fusion.weight,
            fusion.bias,
            options,
            fusion.norm,
            fusion.activation,
            self._ranges[self._sources[name]],
            self._learned,
            "simulate" if why_not(getattr(*fusion.weight), fusion.step.kind) else self._mode,
        )
        layer.on_grid = self._on_grid[name]
        self.quantizers[name] = layer
        return Step(name, "module", (layer,), (Ref(fusion.source),), kind="layer")

    def _stays_on_grid(self, layer: str) -> bool:
        """Whether training, too, hands the layer what its source rounded."""
        name = self._layers[layer].source
        while name != self._sources[layer]:
            step = self._steps[name]
            if step.op == "module":
                drops = getattr(step.target[0], "p", 0.0) != 0.0
            else:
                drops = "dropout" in str(getattr(step.target, "__name__", step.target))
            if drops:
                return False
            name = step.inputs[0]
        return True

    def _attribute(self, step: Step, which: str) -> tuple[nn.Module, str] | None:
        """The module and name of a step's weight or bias; None where it is computed or absent."""
        if step.op == "module":
            return step.target[0], which
        ref = step.attrs.get(which)
        if type(ref) is not Ref or self._steps[ref.name].op != "attribute":
            return None
        (owner,), name = self._steps[ref.name].target
        return owner, name

    def _sole_user(self, step: Step) -> Step | None:
        users = self._users[step.name]
        return users[0] if len(users) == 1 else None

    def _folds(self, step: Step, layer: Step) -> bool:
        norm = step.target[0]
        channels_last = layer.kind == "linear" and self._values[layer.name].dim() != 2
        return norm.running_mean is not None and norm.track_running_stats and not channels_last

    def _mark(self) -> set[str]:
        """The values that are rounded to uint8."""
        marked = {self._root(fusion.source) for fusion in self._layers.values()}
        marked |= {name for name, fusion in self._layers.items() if fusion.step.kind == "conv"}
        integers = marked | set(self._layers)  # computed from integers
        size = -1
        while size != len(marked) + len(integers):
            size = len(marked) + len(integers)
            for step in self._steps.values():
                if step.kind in _ARITHMETIC and self._is_arithmetic(step):
                    roots = {self._root(name) for name in self._tensors(step)}
                    if roots & integers:
                        marked |= roots
                        integers |= {*roots, step.name}
                elif step.kind in _ACTIVATIONS and self._root(step.inputs[0]) in integers:
                    integers.add(step.name)
        # A ReLU of integers is integers with the same scale.
        for step in self._steps.values():
            if step.kind == "relu" and step.name in marked and step.name not in self._layers:
                source = self._root(step.inputs[0])
                if source in marked:
                    marked.discard(step.name)
                    self._same_relu.add(step.name)
        return marked

    def _is_arithmetic(self, step: Step) -> bool:
        tensors = self._tensors(step)
        if not all(self._values[name].is_floating_point() for name in tensors):
            return False
        if step.kind in ("add", "mul"):
            return len(tensors) == 2 and step.attrs.get("alpha", 1) == 1
        return bool(tensors) and (step.kind != "mean" or step.attrs["dim"] is not None)

    def _tensors(self, step: Step) -> list[str]:
        """The inputs that are tensors, and not sizes."""
        return [name for name in step.inputs if self._is_tensor(name)]

    def _is_tensor(self, name: str) -> bool:
        return isinstance(self._values[name], torch.Tensor)

    def _root(self, name: str) -> str:
        """The step whose rounding decides the scale of a value."""
        while name not in self._layers:
            step = self._steps[name]
            if step.kind not in _SAME_SCALE and name not in self._same_relu:
                break
            source = step.inputs[0]
            if not self._is_tensor(source) and self._steps[source].kind not in _SAME_SCALE:
                break  # one of the results of a module that is called whole
            name = source
        return name


class _Fusion(NamedTuple):
    step: Step
    weight: tuple[nn.Module, str]
    bias: tuple[nn.Module, str] | None
    norm: nn.Module | None
    activation: tuple[float, float] | None
    source: str
    parameters: tuple[str, ...]


def _wanted(
    model: nn.Module,
    include: Pattern | Iterable[Pattern] | None,
    exclude: Pattern | Iterable[Pattern] | None,
) -> dict[str, Selection]:
    modules = dict(model.named_modules())
    candidates = []
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            path = name.rpartition(".")[0]
            candidates.append((path, name, modules[path]))
    others = dimensions(model, "quantized by themselves")
    found = select(candidates, include, exclude, _WHERE, modules=modules, others=others)
    return {selection.parameter: selection for selection in found}
