# SPDX-License-Identifier: Apache-2.0
"""`export_onnx`: float modules as plain ONNX, prepared ones as QDQ int8 with folded BatchNorm."""

from __future__ import annotations

import inspect
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from moptcore import DTypeError, Error, UnsupportedError, __version__
from moptcore.graph import Model, load
from moptcore.torch.arguments import unwrapped
from moptcore.torch.capture import (
    Program,
    Ref,
    Step,
    capture,
    evaluating,
    example_inputs,
    observe_values,
)
from moptcore.torch.free_axes import FreeAxes
from moptcore.torch.qat import ActivationQuantizer, QuantizedLayer, QuantizedModel, fold_norm
from moptcore.torch.weights import DynamicLayer

__all__ = ["export_onnx", "to_graph"]

_WHERE = "torch.export_onnx"
_OPSETS = range(13, 22)
# The IR that came with each opset, so that old runtimes read what they can run.
_IR = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
_MAX_BYTES = 2**31 - 1


def export_onnx(
    model: nn.Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    opset: int = 17,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Path:
    """Writes what `model` computes in eval() as ONNX, and returns the path.

    A module of `prepare_qat` becomes a QDQ graph: int8 weights with one scale per output channel,
    int32 biases, activations in uint8. Any other becomes a float graph; operations unknown here
    go through torch.onnx, which needs opset 18. Axis 0 of every input is the batch, free with
    `dynamic_batch`. Inputs are named as the arguments of forward, outputs "output".
    `dynamic_axes` names free axes as torch.onnx.export does, {"input": {0: "n", 2: "height"}}: any
    axis of an input, and the outputs' axes that follow. Axes of one name have one extent. Where it
    frees more than axis 0 the file is compared with the model at other extents, and Error says
    where they differ.

    The file appears whole or not at all. Raises UnsupportedError naming all operations that have
    no ONNX form, or the layers of `quantize_weights(scheme="int8_dynamic")`.
    """
    _check_module(model, opset)
    if not isinstance(path, str | os.PathLike):
        raise DTypeError(f"[{_WHERE}] path must be a str or a path, got {type(path).__name__}")
    target = Path(path)
    if not target.parent.is_dir():
        raise Error(f"[{_WHERE}] path must be in an existing directory, got {os.fspath(path)!r}")
    if target.is_dir():
        raise Error(f"[{_WHERE}] path must be a file, got the directory {os.fspath(path)!r}")
    proto = _model_proto(
        model, example, opset, (input_names, output_names), dynamic_batch, dynamic_axes
    )
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(proto.SerializeToString())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def to_graph(
    model: nn.Module,
    example: Any,
    *,
    opset: int = 17,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Model:
    """What `export_onnx` would write, as a graph in memory: to optimize, count, cut or run.

    The arguments and errors are those of `export_onnx`. The weights are copied: training the module
    on does not change the graph.
    """
    with _reported_as("torch.to_graph"):
        _check_module(model, opset)
        proto = _model_proto(
            model, example, opset, (input_names, output_names), dynamic_batch, dynamic_axes
        )
    return load(proto.SerializeToString())


@contextmanager
def _reported_as(where: str) -> Iterator[None]:
    """Errors name the function that the caller has called."""
    try:
        yield
    except Error as error:
        text = str(error).replace(f"[{_WHERE}]", f"[{where}]")
        raise type(error)(text) from error.__cause__


def _check_module(model: nn.Module, opset: int) -> None:
    if not isinstance(model, nn.Module):
        raise DTypeError(f"[{_WHERE}] model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(opset, int):
        raise DTypeError(f"[{_WHERE}] opset must be an integer, got {opset!r}")
    if opset not in _OPSETS:
        raise Error(f"[{_WHERE}] opset must be in [{_OPSETS[0]}, {_OPSETS[-1]}], got {opset}")


def _model_proto(
    model: nn.Module,
    example: Any,
    opset: int,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    dynamic_batch: bool,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None,
) -> onnx.ModelProto:
    model = unwrapped(model)
    inputs = example_inputs(example, _WHERE)
    dynamic = [name for name, each in model.named_modules() if isinstance(each, DynamicLayer)]
    if dynamic:
        raise UnsupportedError(
            f"[{_WHERE}] layers with dynamic activations do not export; strip() first, or "
            f"prepare_qat or quantize_static for an int8 file, got {', '.join(dynamic)}"
        )
    free = FreeAxes(model, inputs, _argument_names(model, names[0]), dynamic_axes, dynamic_batch)

    def checked(proto: onnx.ModelProto) -> onnx.ModelProto:
        if not free or dynamic_axes is None:
            return proto
        _name_axes(proto, dynamic_axes)
        if fault := free.fault(proto):
            raise UnsupportedError(
                f"[{_WHERE}] dynamic_axes must name axes along which the exported model follows "
                f"the module, got one that {fault}: leave such an axis out, which fixes its size"
            )
        return proto

    more = free.others if free else None
    if isinstance(model, QuantizedModel):
        proto = checked(
            _Writer(model, model.program, inputs, opset, dynamic_batch, names, more).model()
        )
    else:
        try:
            program = capture(model, _WHERE)
            proto = checked(
                _Writer(model, program, inputs, opset, dynamic_batch, names, more).model()
            )
        except UnsupportedError as error:
            shapes = free.shapes(torch.export.Dim.DYNAMIC)
            proto = checked(_through_torch(model, inputs, opset, shapes, names, error))
    if dynamic_axes is not None and not free:
        _name_axes(proto, dynamic_axes)
    if proto.ByteSize() > _MAX_BYTES:
        raise UnsupportedError(
            f"[{_WHERE}] model must be at most 2 GiB as one file, got {proto.ByteSize()} bytes"
        )
    onnx.checker.check_model(proto)
    return proto


def unfolded(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> onnx.ModelProto:
    """The float graph whose initializers are the parameters of the model, under their names."""
    names = (None, None)
    try:
        program = capture(model, _WHERE)
        return _Writer(model, program, inputs, 17, True, names, fold=False).model()
    except UnsupportedError as error:
        shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
        return _through_torch(model, inputs, 18, shapes, names, error, optimize=False)


def _argument_names(model: nn.Module, given: Sequence[str] | None) -> list[str]:
    """As the inputs of the graph are named."""
    if given is not None:
        return list(given)
    if isinstance(model, QuantizedModel):
        return [str(step.target) for step in model.program.inputs]
    return list(inspect.signature(model.forward).parameters)


def _name_axes(proto: onnx.ModelProto, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Gives the free axes of inputs and outputs the names that the caller wants."""
    infos = {info.name: info for info in [*proto.graph.input, *proto.graph.output]}
    for name, labels in axes.items():
        if name not in infos:
            raise Error(
                f"[{_WHERE}] dynamic_axes must name inputs and outputs ({', '.join(infos)}), "
                f"got {name!r}"
            )
        dims = infos[name].type.tensor_type.shape.dim
        for axis, label in labels.items():
            if not isinstance(axis, int) or not isinstance(label, str) or not label:
                raise DTypeError(
                    f"[{_WHERE}] dynamic_axes must map axes to names, got {axis!r}: {label!r}"
                )
            if not -len(dims) <= axis < len(dims):
                raise Error(
                    f"[{_WHERE}] dynamic_axes of {name!r} must be in [{-len(dims)}, {len(dims)}), "
                    f"got {axis}"
                )
            if not dims[axis].dim_param:
                raise UnsupportedError(
                    f"[{_WHERE}] dynamic_axes must name axes of inputs (axis 0 with "
                    f"dynamic_batch=True), and of outputs those that follow from them, got "
                    f"axis {axis} of {name!r}, which has {dims[axis].dim_value}"
                )
            old = dims[axis].dim_param
            for info in infos.values():
                for dim in info.type.tensor_type.shape.dim:
                    if dim.dim_param == old:
                        dim.dim_param = label


def _through_torch(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    opset: int,
    shapes: tuple[dict[int, Any], ...] | None,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    reason: UnsupportedError,
    optimize: bool = True,
) -> onnx.ModelProto:
    try:
        with evaluating(model), warnings.catch_warnings():
            # The exporter calls what torch itself has deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                opset_version=max(opset, 18),
                dynamic_shapes=shapes,
                input_names=names[0],
                output_names=names[1],
                verbose=False,
                optimize=optimize,
            )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        first = str(cause).strip().partition("\n")[0]
        raise UnsupportedError(f"{reason}; torch.onnx: {type(cause).__name__}: {first}") from error
    if program is None:
        raise reason
    return program.model_proto


class _Writer:
    """Writes the steps of a program as ONNX nodes."""

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        inputs: tuple[torch.Tensor, ...],
        opset: int,
        dynamic_batch: bool,
        names: tuple[Sequence[str] | None, Sequence[str] | None],
        others: tuple[torch.Tensor, ...] | None = None,
        fold: bool = True,
    ) -> None:
        self._module = model
        self._fold = fold
        self._program = program
        self._opset = opset
        self._users = program.users
        self._steps = {step.name: step for step in program.steps}
        self._values = observe_values(program, model, inputs, _WHERE)
        self._others = self._values
        if dynamic_batch and any(each.dim() == 0 for each in inputs):
            raise Error(f"[{_WHERE}] example must have a batch axis, got a scalar")
        if others is None and dynamic_batch:
            others = tuple(torch.cat([each, each[:1]]) for each in inputs)
        if others is not None:
            # What differs between two sizes is what depends on the free axes.
            self._others = observe_values(program, model, others, _WHERE)
        self._parameters = {
            id(value): name
            for name, value in itertools.chain(
                model.named_parameters(remove_duplicate=False), model.named_buffers()
            )
        }
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._results = list(_leaves(program.steps[-1].args[0]))
        count = len(self._results)
        self._output_names = _named(
            "output_names",
            names[1],
            ["output"] if count == 1 else [f"output_{i}" for i in range(count)],
        )
        self._arguments = [s for s in program.inputs if self._is_tensor(s.name)]
        self._input_names = _named(
            "input_names", names[0], [str(step.target) for step in self._arguments]
        )
        if clash := set(self._input_names) & set(self._output_names):
            if names[1] is not None or names[0] is not None:
                raise Error(f"[{_WHERE}] input_names and output_names must differ, got {clash}")
            self._output_names = [f"{name}_result" for name in self._output_names]
        # Taken first, so that no value inside is called as the caller wants to call another.
        self._taken = {*self._input_names, *self._output_names}
        self._env: dict[str, str] = {}  # value -> its name in the graph
        self._parts: dict[str, list[str]] = {}  # value of several tensors -> their names
        self._grids: dict[str, tuple[str, str]] = {}  # value -> its scale and zero point
        self._absorbed: set[str] = set()

    def model(self) -> onnx.ModelProto:
        inputs = [
            self._input(*pair) for pair in zip(self._input_names, self._arguments, strict=True)
        ]
        missing: dict[str, None] = {}
        for step in self._program.steps:
            try:
                self._write(step)
            except _NoFormError as error:
                missing[str(error)] = None
        if missing:
            raise UnsupportedError(
                f"[{_WHERE}] model must hold operations with an ONNX form, got {', '.join(missing)}"
            )
        outputs = self._outputs()
        graph = helper.make_graph(
            self._nodes, "moptcore", inputs, outputs, list(self._initializers.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self._opset)],
            ir_version=_IR[self._opset],
            producer_name="moptcore",
            producer_version=__version__,
        )

    # Values

    def _input(self, name: str, step: Step) -> onnx.ValueInfoProto:
        self._env[step.name] = name
        return self._info(name, self._values[step.name], self._others[step.name])

    def _info(self, name: str, value: torch.Tensor, other: torch.Tensor) -> onnx.ValueInfoProto:
        dims: list[int | str] = [
            a if a == b else ("batch" if axis == 0 else f"{name}_{axis}")
            for axis, (a, b) in enumerate(zip(value.shape, other.shape, strict=True))
        ]
        return helper.make_tensor_value_info(name, _element_type(value.dtype), dims)

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        refs = self._results
        given = self._output_names
        infos = []
        for name, ref in zip(given, refs, strict=True):
            self._node("Identity", [self._env[ref.name]], name)
            infos.append(self._info(name, self._values[ref.name], self._others[ref.name]))
        self._rename_outputs(set(given))
        return infos

    def _rename_outputs(self, outputs: set[str]) -> None:
        """Takes out the Identity nodes of outputs where the value's own node can write them."""
        writers = {name: node for node in self._nodes for name in node.output}
        for last in [n for n in self._nodes if n.op_type == "Identity" and n.output[0] in outputs]:
            source, name = last.input[0], last.output[0]
            writer = writers.get(source)
            if writer is None or source in outputs:
                continue
            self._nodes.remove(last)
            for node in self._nodes:
                node.input[:] = [name if each == source else each for each in node.input]
                node.output[:] = [name if each == source else each for each in node.output]
            writers[name] = writers.pop(source)

    def _name(self, wish: str) -> str:
        for suffix in itertools.chain([""], (f"_{i}" for i in itertools.count(1))):
            if wish + suffix not in self._taken:
                self._taken.add(wish + suffix)
                return wish + suffix
        raise AssertionError

    def _constant(self, array: np.ndarray[Any, Any], wish: str, share: bool = False) -> str:
        """An initializer; with `share`, one for all uses of the name."""
        if share and wish in self._initializers:
            return wish
        name = self._name(wish)
        self._initializers[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def _integers(self, values: Sequence[int]) -> str:
        shown = "_".join(str(value) for value in values).replace("-", "m")
        return self._constant(np.array(values, np.int64), f"int64_{shown}", share=True)

    def _tensor(self, tensor: torch.Tensor, wish: str) -> str:
        _element_type(tensor.dtype)
        return self._constant(tensor.detach().cpu().numpy(), wish)

    def _parameter(self, tensor: torch.Tensor) -> str:
        name = self._parameters.get(id(tensor), "constant")
        return name if name in self._initializers else self._tensor(tensor, name)

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def _emit(self, step: Step, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """The node whose output is the step's value."""
        self._env[step.name] = self._node(op, inputs, self._name(step.name), **attributes)

    def _between(self, step: Step, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self._node(op, inputs, self._name(f"{step.name}_{op}"), **attributes)

    def _plain(self, value: Any, what: str = "an argument that depends on the batch") -> Any:
        """An argument that is no tensor: its value, where that is the same for every batch."""
        if type(value) is Ref:
            found, other = self._values[value.name], self._others[value.name]
            if isinstance(found, torch.Tensor) or found != other:
                raise _NoFormError(f"{what} ({value.name})")
            return found
        if isinstance(value, tuple | list):
            return type(value)(self._plain(item) for item in value)
        if isinstance(value, slice):
            return slice(*(self._plain(x) for x in (value.start, value.stop, value.step)))
        return value

    def _shape(self, name: str) -> list[int]:
        """The shape for Reshape: -1 where it depends on the batch."""
        pairs = zip(self._values[name].shape, self._others[name].shape, strict=True)
        shape = [a if a == b else -1 for a, b in pairs]
        if shape.count(-1) > 1:
            raise _NoFormError(f"{name} with two axes that depend on the batch")
        return shape

    # Steps

    def _write(self, step: Step) -> None:
        if step.op in ("input", "output") or step.name in self._absorbed:
            return
        value = self._values[step.name]
        if step.kind in ("split", "unbind"):
            return self._split(step)
        if not isinstance(value, torch.Tensor):
            if step.kind in ("size", "getattr", "getitem") or not isinstance(value, tuple | list):
                return None  # numbers are folded where they are used
            raise _NoFormError(_described(step))
        write: Callable[[Step], None] | None = getattr(self, f"_write_{step.kind}", None)
        if write is None:
            if step.kind not in _UNARY:
                raise _NoFormError(_described(step))
            write = self._unary
        missing = [
            name
            for name in step.inputs
            if name not in self._env
            and self._is_tensor(name)
            and self._steps[name].op != "attribute"
        ]
        if missing:
            # Its input has no ONNX form, which is what the error names.
            self._env[step.name] = self._name(step.name)
            return None
        write(step)
        self._same_grid(step)
        return None

    def _is_tensor(self, name: str) -> bool:
        return isinstance(self._values[name], torch.Tensor)

    def _same_grid(self, step: Step) -> None:
        """Integers in, integers out: runtimes recognise it by the same grid on both sides."""
        if step.kind not in _SAME_SCALE or not step.inputs or step.inputs[0] not in self._grids:
            return
        grid = self._grids[step.inputs[0]]
        users = self._users[step.name]
        if step.kind != "identity" and any(user.op != "output" for user in users):
            self._env[step.name] = self._round(step.name, self._env[step.name], grid)
        self._grids[step.name] = grid

    def _round(self, name: str, value: str, grid: tuple[str, str]) -> str:
        q = self._node("QuantizeLinear", [value, *grid], self._name(f"{name}_uint8"))
        return self._node("DequantizeLinear", [q, *grid], self._name(f"{name}_rounded"))

    def _source(self, step: Step, which: Any = None) -> str:
        """The graph's name of a tensor argument, the first by default."""
        ref = (step.args[0] if step.args else step.attrs["input"]) if which is None else which
        if type(ref) is Ref and ref.name in self._env:
            return self._env[ref.name]
        raise _NoFormError(_described(step))

    def _operand(self, step: Step, value: Any) -> str:
        """A tensor argument or a number."""
        if type(value) is Ref and self._is_tensor(value.name):
            return self._source(step, value)
        number = self._plain(value)
        dtype = _numpy_dtype(self._values[step.name].dtype)
        return self._constant(np.array(number, dtype), f"{step.name}_constant")

    def _write_attribute(self, step: Step) -> None:
        (owner,), name = step.target
        # Weights of functional layers are written by the layer that uses them.
        if all(
            user.kind in ("conv", "linear")
            and user.op == "function"
            and user.attrs.get("input") != Ref(step.name)
            for user in self._users[step.name]
        ):
            return
        self._env[step.name] = self._parameter(getattr(owner, name))

    def _write_quantize(self, step: Step) -> None:
        quantizer: ActivationQuantizer = step.target[0]
        name = step.inputs[0]
        scale = self._tensor(quantizer.scale, f"{name}_scale")
        zero = int(quantizer.zero_point.item())
        zero_point = self._constant(np.array(zero, np.uint8), f"zero_point_{zero}", share=True)
        grid = self._grids[step.name] = (scale, zero_point)
        self._env[step.name] = self._round(name, self._env[name], grid)

    def _write_layer(self, step: Step) -> None:
        layer: QuantizedLayer = step.target[0]
        folded = layer.folded()
        name = self._parameters[id(layer.weight)]
        stem = name.removesuffix("weight").rstrip(".") or "model"
        transposed = layer.kind == "linear" and self._values[step.inputs[0]].dim() != 2
        weight, axis = folded.weight, 0
        if transposed:
            weight, axis = weight.t(), 1
        count = folded.scale.numel()
        q = self._tensor(weight, name)
        scale = self._tensor(folded.scale, f"{name}_scale")
        zeros = self._constant(np.zeros(count, np.int8), f"zero_points_{count}", share=True)
        inputs = [
            self._source(step),
            self._between(step, "DequantizeLinear", [q, scale, zeros], axis=axis),
        ]
        bias = None
        if folded.bias is not None:
            integers = self._tensor(folded.bias, f"{stem}.bias")
            scales = self._tensor(folded.bias_scale, f"{stem}.bias_scale")
            bias = self._between(step, "DequantizeLinear", [integers, scales], axis=0)
        kernel = list(folded.weight.shape[2:])
        self._affine(step, layer.kind, inputs, bias, layer.options, transposed, kernel)
        if folded.sign is not None:
            signs = self._tensor(folded.sign.reshape(-1, *[1] * len(kernel)), f"{stem}.sign")
            self._env[step.name] = self._between(step, "Mul", [self._env[step.name], signs])
        if layer.activation is not None:
            low, high = layer.activation
            top = high if math.isfinite(high) else None
            self._env[step.name] = self._clip(step, self._env[step.name], low, top)

    def _affine(
        self,
        step: Step,
        kind: str,
        inputs: list[str],
        bias: str | None,
        options: dict[str, Any],
        transposed: bool,
        kernel: list[int],
    ) -> None:
        extra = [] if bias is None else [bias]
        if kind == "conv":
            self._emit(step, "Conv", inputs + extra, **self._conv_attributes(options, kernel))
        elif not transposed:
            self._emit(step, "Gemm", inputs + extra, transB=1)
        elif bias is None:
            self._emit(step, "MatMul", inputs)
        else:
            self._emit(step, "Add", [self._between(step, "MatMul", inputs), bias])

    def _conv_attributes(self, options: dict[str, Any], kernel: list[int]) -> dict[str, Any]:
        dims = len(kernel)
        strides, dilations = _each(options["stride"], dims), _each(options["dilation"], dims)
        attributes = {"strides": strides, "dilations": dilations, "group": options["groups"]}
        padding = options["padding"]
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
            return attributes | {"pads": [t // 2 for t in total] + [t - t // 2 for t in total]}
        return attributes | {"pads": _each(0 if padding == "valid" else padding, dims) * 2}

    def _write_conv(self, step: Step) -> None:
        self._float_layer(step)

    def _write_linear(self, step: Step) -> None:
        self._float_layer(step)

    def _float_layer(self, step: Step) -> None:
        """A layer in float, with the BatchNorm behind it folded into its weights."""
        weight, bias = self._float_operand(step, "weight"), self._float_operand(step, "bias")
        if not isinstance(weight, torch.Tensor):
            raise _NoFormError(f"{_described(step)} with a computed weight")
        if weight.dim() - 2 != self._values[step.name].dim() - 2 and step.kind == "conv":
            raise _NoFormError(f"{_described(step)} without a batch axis")
        transposed = step.kind == "linear" and self._values[step.inputs[0]].dim() != 2
        users = self._users[step.name]
        name = self._parameters.get(id(weight), step.name)
        stem = name.removesuffix("weight").rstrip(".") or "model"
        norm = users[0] if len(users) == 1 and users[0].kind == "batch_norm" else None
        if not self._fold:
            norm = None
        if norm is not None and not transposed and norm.target[0].running_mean is not None:
            factor, shift = fold_norm(norm.target[0], bias)
            shape = (-1, *[1] * (weight.dim() - 1))
            folded = (weight.detach().double() * factor.reshape(shape)).to(weight.dtype)
            inputs = [self._padded(step), self._tensor(folded, name)]
            bias_name: str | None = self._tensor(shift.to(weight.dtype), f"{stem}.bias")
            self._absorbed.add(norm.name)
        else:
            tensor = weight.t() if transposed else weight
            whole = self._tensor(tensor, name) if transposed else self._parameter(weight)
            inputs = [self._padded(step), whole]
            bias_name = None if bias is None else self._parameter(bias)
            norm = None
        options = dict(step.attrs)
        if options.get("padding_mode", "zeros") != "zeros":
            options["padding"] = 0
        kernel = list(weight.shape[2:])
        self._affine(step, step.kind, inputs, bias_name, options, transposed, kernel)
        if norm is not None:
            self._env[norm.name] = self._env[step.name]

    def _padded(self, step: Step) -> str:
        """The input of a layer, padded where the layer pads with other than zeros."""
        mode = step.attrs.get("padding_mode", "zeros")
        if mode == "zeros":
            return self._source(step)
        # As functional.pad takes them: the last axis first, before and behind it.
        padding = step.target[0]._reversed_padding_repeated_twice
        before, behind = padding[-2::-2], padding[::-2]
        source = self._source(step)
        if mode == "circular":
            # Pad has this mode from opset 19 on only.
            for axis, (first, last) in enumerate(zip(before, behind, strict=True), 2):
                source = self._wrapped(step, source, axis, first, last)
            return source
        pads = self._integers([0, 0, *before, 0, 0, *behind])
        modes = {"reflect": "reflect", "replicate": "edge"}
        return self._between(step, "Pad", [source, pads], mode=modes[mode])

    def _wrapped(self, step: Step, source: str, axis: int, first: int, last: int) -> str:
        """`source` with its own end before it and its own beginning behind it."""
        size = 2**31 - 1
        parts = [source]
        if first:
            limits = [self._integers([each]) for each in (-first, size, axis)]
            parts.insert(0, self._between(step, "Slice", [source, *limits]))
        if last:
            limits = [self._integers([each]) for each in (0, last, axis)]
            parts.append(self._between(step, "Slice", [source, *limits]))
        return self._between(step, "Concat", parts, axis=axis)

    def _write_conv_transpose(self, step: Step) -> None:
        module, value = step.target[0], self._values[step.name]
        weight, bias = module.weight, module.bias
        if len(step.args) + len(step.kwargs) != 1:
            raise _NoFormError(f"{_described(step)} with output_size")
        if value.dim() != weight.dim():
            raise _NoFormError(f"{_described(step)} without a batch axis")
        dims = weight.dim() - 2
        a = step.attrs
        inputs = [self._source(step), self._parameter(weight)]
        self._emit(
            step,
            "ConvTranspose",
            inputs if bias is None else [*inputs, self._parameter(bias)],
            strides=_each(a["stride"], dims),
            pads=_each(a["padding"], dims) * 2,
            output_padding=_each(a["output_padding"], dims),
            dilations=_each(a["dilation"], dims),
            group=a["groups"],
        )

    def _float_operand(self, step: Step, which: str) -> Any:
        if step.op == "module":
            return getattr(step.target[0], which)
        ref = step.attrs.get(which)
        if type(ref) is Ref and self._steps[ref.name].op == "attribute":
            (owner,), name = self._steps[ref.name].target
            return getattr(owner, name)
        if ref is not None:
            raise _NoFormError(f"{_described(step)} with a computed {which}")
        return None

    def _write_batch_norm(self, step: Step) -> None:
        norm = step.target[0]
        if norm.running_mean is None:
            raise _NoFormError(f"{_described(step)} without running statistics")
        ones = torch.ones_like(norm.running_mean)
        path = step.attrs["path"]
        weight = norm.weight if norm.weight is not None else ones
        bias = norm.bias if norm.bias is not None else torch.zeros_like(ones)
        tensors = {"weight": weight, "bias": bias}
        tensors |= {"running_mean": norm.running_mean, "running_var": norm.running_var}
        inputs = [self._tensor(tensor, f"{path}.{name}") for name, tensor in tensors.items()]
        self._emit(
            step, "BatchNormalization", [self._source(step), *inputs], epsilon=float(norm.eps)
        )

    def _unary(self, step: Step) -> None:
        op, translate = _UNARY[step.kind]
        attributes = translate(step.attrs)
        self._emit(step, op, [self._source(step)], **attributes)

    def _write_relu(self, step: Step) -> None:
        self._emit(step, "Relu", [self._source(step)])

    def _write_clip(self, step: Step) -> None:
        low, high = (self._plain(step.attrs[bound]) for bound in ("min", "max"))
        self._env[step.name] = self._clip(step, self._source(step), low, high)

    def _clip(self, step: Step, source: str, low: Any, high: Any) -> str:
        if (low, high) == (0, None):
            return self._between(step, "Relu", [source])
        dtype = _numpy_dtype(self._values[step.name].dtype)
        bounds = [
            "" if bound is None else self._constant(np.array(bound, dtype), f"clip_{bound}", True)
            for bound in (low, high)
        ]
        return self._between(step, "Clip", [source, *bounds])

    def _write_identity(self, step: Step) -> None:
        self._env[step.name] = self._source(step)

    def _write_softplus(self, step: Step) -> None:
        if step.attrs["beta"] != 1:
            raise _NoFormError(f"{_described(step)} with beta={step.attrs['beta']}")
        self._emit(step, "Softplus", [self._source(step)])

    def _write_silu(self, step: Step) -> None:
        source = self._source(step)
        self._emit(step, "Mul", [source, self._between(step, "Sigmoid", [source])])

    def _write_hardswish(self, step: Step) -> None:
        source = self._source(step)
        gate = self._between(step, "HardSigmoid", [source], alpha=1.0 / 6.0, beta=0.5)
        self._emit(step, "Mul", [source, gate])

    def _write_gelu(self, step: Step) -> None:
        if step.attrs.get("approximate", "none") != "none":
            raise _NoFormError(f"{_described(step)} with approximate={step.attrs['approximate']!r}")
        source = self._source(step)
        dtype = _numpy_dtype(self._values[step.name].dtype)
        root = self._constant(np.array(2.0**0.5, dtype), "sqrt_2", share=True)
        one = self._constant(np.array(1.0, dtype), "one", share=True)
        half = self._constant(np.array(0.5, dtype), "half", share=True)
        erf = self._between(step, "Erf", [self._between(step, "Div", [source, root])])
        whole = self._between(step, "Mul", [source, self._between(step, "Add", [erf, one])])
        self._emit(step, "Mul", [whole, half])

    def _write_prelu(self, step: Step) -> None:
        slope = step.target[0].weight
        dims = self._values[step.inputs[0]].dim()
        shaped = slope.detach().reshape(-1, *[1] * max(dims - 2, 0))
        name = self._tensor(shaped, f"{step.attrs['path']}.weight")
        self._emit(step, "PRelu", [self._source(step), name])

    def _write_softmax(self, step: Step) -> None:
        self._emit(step, "Softmax", [self._source(step)], axis=self._softmax_axis(step))

    def _write_log_softmax(self, step: Step) -> None:
        self._emit(step, "LogSoftmax", [self._source(step)], axis=self._softmax_axis(step))

    def _softmax_axis(self, step: Step) -> int:
        axis = self._plain(step.attrs["dim"])
        # Without dim torch takes axis 0 of 0, 1 and 3 dimensions, else 1.
        return (0 if self._values[step.name].dim() in (0, 1, 3) else 1) if axis is None else axis

    def _write_layer_norm(self, step: Step) -> None:
        norm = step.target[0]
        if self._opset < 17:
            raise _NoFormError(f"{_described(step)} below opset 17")
        shape = torch.Size(norm.normalized_shape)
        like = self._values[step.name].dtype
        weight = norm.weight if norm.weight is not None else torch.ones(shape, dtype=like)
        inputs = [self._source(step), self._tensor(weight, f"{step.attrs['path']}.weight")]
        if norm.bias is not None:
            inputs.append(self._tensor(norm.bias, f"{step.attrs['path']}.bias"))
        self._emit(step, "LayerNormalization", inputs, axis=-len(shape), epsilon=float(norm.eps))

    def _write_group_norm(self, step: Step) -> None:
        norm, dims = step.target[0], self._values[step.name].dim()
        # Every group as one channel of a normalization per sample.
        grouped = self._integers([0, norm.num_groups, -1])
        rows = self._between(step, "Reshape", [self._source(step), grouped])
        like = torch.ones(norm.num_groups, dtype=self._values[step.name].dtype)
        ones = self._tensor(like, f"{step.name}_ones")
        zeros = self._tensor(torch.zeros_like(like), f"{step.name}_zeros")
        normal = self._between(
            step, "InstanceNormalization", [rows, ones, zeros], epsilon=float(norm.eps)
        )
        shape = self._integers(self._shape(step.name))
        value = self._between(step, "Reshape", [normal, shape])
        for op, name in (("Mul", "weight"), ("Add", "bias")):
            tensor = getattr(norm, name)
            if tensor is not None:
                column = tensor.detach().reshape(-1, *[1] * (dims - 2))
                factor = self._tensor(column, f"{step.attrs['path']}.{name}")
                value = self._between(step, op, [value, factor])
        self._env[step.name] = value

    def _write_embedding(self, step: Step) -> None:
        self._emit(step, "Gather", [self._parameter(step.target[0].weight), self._source(step)])

    def _write_max_pool(self, step: Step) -> None:
        a, dims = step.attrs, self._pooled(step)
        self._emit(
            step,
            "MaxPool",
            [self._source(step)],
            kernel_shape=_each(self._plain(a["kernel_size"]), dims),
            strides=_each(self._plain(a["stride"] or a["kernel_size"]), dims),
            pads=_each(self._plain(a["padding"]), dims) * 2,
            dilations=_each(self._plain(a["dilation"]), dims),
            ceil_mode=int(self._ceils(step, dims, a["dilation"])),
        )

    def _write_avg_pool(self, step: Step) -> None:
        a, dims = step.attrs, self._pooled(step)
        if a["divisor_override"] is not None or self._ceils(step, dims, 1):
            raise _NoFormError(f"{_described(step)} with divisor_override or a partial last window")
        self._emit(
            step,
            "AveragePool",
            [self._source(step)],
            kernel_shape=_each(self._plain(a["kernel_size"]), dims),
            strides=_each(self._plain(a["stride"] or a["kernel_size"]), dims),
            pads=_each(self._plain(a["padding"]), dims) * 2,
            count_include_pad=int(a["count_include_pad"]),
        )

    def _pooled(self, step: Step) -> int:
        """Spatial axes of a pooling step."""
        name = getattr(step.target, "__name__", "") or type(step.target[0]).__name__.lower()
        dims = int(name.rstrip("d")[-1])
        if self._values[step.name].dim() != dims + 2:
            raise _NoFormError(f"{_described(step)} without a batch axis")
        return dims

    def _ceils(self, step: Step, dims: int, dilation: Any) -> bool:
        """True where ceil_mode gives another size than flooring would."""
        a = step.attrs
        if not a["ceil_mode"]:
            return False
        kernel, padding = _each(a["kernel_size"], dims), _each(a["padding"], dims)
        stride, dilations = _each(a["stride"] or a["kernel_size"], dims), _each(dilation, dims)
        source = self._values[step.inputs[0]].shape[2:]
        floored = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, p, s, d in zip(source, kernel, padding, stride, dilations, strict=True)
        ]
        return floored != list(self._values[step.name].shape[2:])

    def _write_adaptive_avg_pool(self, step: Step) -> None:
        self._adaptive(step, "GlobalAveragePool", "AveragePool")

    def _write_adaptive_max_pool(self, step: Step) -> None:
        self._adaptive(step, "GlobalMaxPool", "MaxPool")

    def _adaptive(self, step: Step, whole: str, windows: str) -> None:
        dims = self._pooled(step)
        sizes, results = (
            list(self._values[name].shape[2:]) for name in (step.inputs[0], step.name)
        )
        if all(size == 1 for size in results):
            self._emit(step, whole, [self._source(step)])
            return
        if len(sizes) != dims or any(n % m for n, m in zip(sizes, results, strict=True)):
            raise _NoFormError(f"{_described(step)} from {sizes} to {results}, no whole multiple")
        kernel = [n // m for n, m in zip(sizes, results, strict=True)]
        self._emit(step, windows, [self._source(step)], kernel_shape=kernel, strides=kernel)

    def _write_mean(self, step: Step) -> None:
        a = step.attrs
        rank = self._values[step.inputs[0]].dim()
        given = self._plain(a["dim"])
        axes = list(range(rank)) if given is None else _each(given, 0)
        axes = sorted(axis % rank for axis in axes)
        source, keep = self._source(step), int(bool(a["keepdim"]))
        if rank > 2 and axes == list(range(2, rank)):
            # Runtimes have an integer form of this one.
            if keep:
                self._emit(step, "GlobalAveragePool", [source])
                return
            pooled = self._between(step, "GlobalAveragePool", [source])
            self._emit(step, "Flatten", [pooled], axis=1)
        elif self._opset >= 18:
            self._emit(step, "ReduceMean", [source, self._integers(axes)], keepdims=keep)
        else:
            self._emit(step, "ReduceMean", [source], axes=axes, keepdims=keep)

    def _write_reshape(self, step: Step) -> None:
        shape = self._shape(step.name)
        self._emit(step, "Reshape", [self._source(step), self._integers(shape)])

    def _write_transpose(self, step: Step) -> None:
        rank = self._values[step.name].dim()
        order = list(range(rank))
        a, b = (self._plain(step.attrs[dim]) % rank for dim in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
        self._emit(step, "Transpose", [self._source(step)], perm=order)

    def _write_permute(self, step: Step) -> None:
        rank = self._values[step.name].dim()
        order = [axis % rank for axis in self._plain(list(step.attrs["dims"]))]
        self._emit(step, "Transpose", [self._source(step)], perm=order)

    def _write_concat(self, step: Step) -> None:
        tensors = step.attrs["tensors"] if step.op == "function" else step.args[0]
        if type(tensors) is Ref:
            names = self._parts[tensors.name]
        else:
            names = [self._source(step, ref) for ref in tensors]
        self._emit(step, "Concat", names, axis=self._plain(step.attrs["dim"]))

    def _write_add(self, step: Step) -> None:
        self._binary(step, "Add")

    def _write_sub(self, step: Step) -> None:
        self._binary(step, "Sub")

    def _write_mul(self, step: Step) -> None:
        self._binary(step, "Mul")

    def _write_div(self, step: Step) -> None:
        if step.attrs.get("rounding_mode") is not None:
            raise _NoFormError(f"{_described(step)} with rounding_mode")
        self._binary(step, "Div")

    def _write_matmul(self, step: Step) -> None:
        self._binary(step, "MatMul")

    def _binary(self, step: Step, op: str) -> None:
        if step.attrs.get("alpha", 1) != 1:
            raise _NoFormError(f"{_described(step)} with alpha")
        dtype = self._values[step.name].dtype
        operands = [step.attrs[which] for which in ("input", "other")]
        for value in operands:
            tensor = self._values[value.name] if type(value) is Ref else None
            if isinstance(tensor, torch.Tensor) and tensor.dtype != dtype:
                raise _NoFormError(f"{_described(step)} of mixed dtypes")
        self._emit(step, op, [self._operand(step, value) for value in operands])

    def _write_pad(self, step: Step) -> None:
        a = step.attrs
        if a["mode"] != "constant":
            raise _NoFormError(f"{_described(step)} with mode={a['mode']!r}")
        source = self._values[step.inputs[0]]
        given = self._plain(a["pad"] if "pad" in a else a["padding"])
        rank = source.dim()
        before, after = [0] * rank, [0] * rank
        for i in range(len(given) // 2):
            before[rank - 1 - i], after[rank - 1 - i] = given[2 * i], given[2 * i + 1]
        value = np.array(a["value"] or 0.0, _numpy_dtype(source.dtype))
        fill = self._constant(value, f"{step.name}_value")
        self._emit(step, "Pad", [self._source(step), self._integers(before + after), fill])

    def _write_pixel_shuffle(self, step: Step) -> None:
        factor = self._plain(step.attrs["upscale_factor"])
        self._emit(step, "DepthToSpace", [self._source(step)], blocksize=factor, mode="CRD")

    def _write_upsample(self, step: Step) -> None:
        source, result = self._values[step.inputs[0]], self._values[step.name]
        scales = [b / a for a, b in zip(source.shape[2:], result.shape[2:], strict=True)]
        if step.attrs["mode"] != "nearest" or any(scale != int(scale) for scale in scales):
            raise _NoFormError(f"{_described(step)} other than nearest by a whole factor")
        factors = np.array([1.0, 1.0, *scales], np.float32)
        self._emit(
            step,
            "Resize",
            [self._source(step), "", self._constant(factors, f"{step.name}_scales")],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def _split(self, step: Step) -> None:
        value, other = self._values[step.name], self._others[step.name]
        source = self._values[step.inputs[0]]
        axis = self._plain(step.attrs["dim"]) % source.dim()
        whole = step.kind == "split"
        sizes = [part.shape[axis] if whole else 1 for part in value]
        if sizes != [part.shape[axis] if whole else 1 for part in other]:
            raise _NoFormError(f"{_described(step)} along the batch")
        outputs = [self._name(f"{step.name}_{i}") for i in range(len(sizes))]
        inputs = [self._source(step), self._integers(sizes)]
        self._nodes.append(helper.make_node("Split", inputs, outputs, axis=axis))
        grid = self._grids.get(step.inputs[0])
        if grid is not None:
            outputs = [self._round(f"{step.name}_{i}", o, grid) for i, o in enumerate(outputs)]
            self._grids[step.name] = grid
        if not whole:
            pairs = zip(value[0].shape, other[0].shape, strict=True)
            shape = self._integers([a if a == b else -1 for a, b in pairs])
            outputs = [self._between(step, "Reshape", [name, shape]) for name in outputs]
        self._parts[step.name] = outputs

    def _write_getitem(self, step: Step) -> None:
        ref, index = step.args[0], self._plain(step.args[1])
        if ref.name in self._parts:
            self._env[step.name] = self._parts[ref.name][index]
            return
        source = self._values[ref.name]
        indices = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in indices:
            at = indices.index(Ellipsis)
            gap = source.dim() - (len(indices) - 1)
            indices[at : at + 1] = [slice(None)] * gap
        starts, ends, axes, steps = [], [], [], []
        for axis, item in enumerate(indices):
            if isinstance(item, int):
                item = slice(item, item + 1 if item != -1 else None)
            if not isinstance(item, slice) or (item.step or 1) < 1:
                raise _NoFormError(f"{_described(step)} by {index!r}")
            if item != slice(None):
                starts.append(item.start or 0)
                ends.append(2**31 - 1 if item.stop is None else item.stop)
                axes.append(axis)
                steps.append(item.step or 1)
        sliced = self._source(step, ref)
        if axes:
            ranges = [self._integers(each) for each in (starts, ends, axes, steps)]
            sliced = self._between(step, "Slice", [sliced, *ranges])
        if any(isinstance(item, int) for item in indices):
            shape = self._integers(self._shape(step.name))
            self._emit(step, "Reshape", [sliced, shape])
        else:
            self._env[step.name] = sliced


class _NoFormError(Exception):
    """An operation that this exporter cannot write."""


def _nothing(attrs: dict[str, Any]) -> dict[str, Any]:
    return {}


_UNARY: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "sigmoid": ("Sigmoid", _nothing),
    "tanh": ("Tanh", _nothing),
    "exp": ("Exp", _nothing),
    "sqrt": ("Sqrt", _nothing),
    "abs": ("Abs", _nothing),
    "neg": ("Neg", _nothing),
    "hardsigmoid": ("HardSigmoid", lambda attrs: {"alpha": 1.0 / 6.0, "beta": 0.5}),
    "leaky_relu": ("LeakyRelu", lambda attrs: {"alpha": float(attrs["negative_slope"])}),
    "elu": ("Elu", lambda attrs: {"alpha": float(attrs["alpha"])}),
}

_SAME_SCALE = {
    "max_pool",
    "adaptive_max_pool",
    "reshape",
    "transpose",
    "permute",
    "identity",
    "getitem",
    "pixel_shuffle",
    "relu",
}


def _described(step: Step) -> str:
    if step.op == "module":
        return f"{type(step.target[0]).__name__} ({step.attrs.get('path') or step.name})"
    name = step.target if step.op == "method" else getattr(step.target, "__name__", step.target)
    return f"{name} ({step.name})"


def _named(argument: str, given: Sequence[str] | None, default: list[str]) -> list[str]:
    names = default if given is None else list(given)
    if isinstance(given, str) or len(names) != len(default) or len(set(names)) != len(names):
        raise Error(
            f"[{_WHERE}] {argument} must be {len(default)} names that differ, got {given!r}"
        )
    return names


def _leaves(value: Any) -> Iterator[Ref]:
    if type(value) is Ref:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        raise UnsupportedError(f"[{_WHERE}] model must return tensors, got {value!r}")


def _each(value: Any, count: int) -> list[int]:
    """A setting for every axis."""
    if isinstance(value, tuple | list):
        values = [int(each) for each in value]
        return values * count if len(values) == 1 and count > 1 else values
    return [int(value)] * max(count, 1)


def _numpy_dtype(dtype: torch.dtype) -> Any:
    return helper.tensor_dtype_to_np_dtype(_element_type(dtype))


def _element_type(dtype: torch.dtype) -> int:
    types = {
        torch.float32: TensorProto.FLOAT,
        torch.float64: TensorProto.DOUBLE,
        torch.float16: TensorProto.FLOAT16,
        torch.int64: TensorProto.INT64,
        torch.int32: TensorProto.INT32,
        torch.int8: TensorProto.INT8,
        torch.uint8: TensorProto.UINT8,
        torch.bool: TensorProto.BOOL,
    }
    if dtype not in types:
        raise UnsupportedError(
            f"[{_WHERE}] model must be in float32, float16 or float64, got {dtype}"
        )
    return int(types[dtype])
