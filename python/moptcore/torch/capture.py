# SPDX-License-Identifier: Apache-2.0
"""A module's forward as a flat list of steps: what quantization rewrites and ONNX is written from.

The module is traced symbolically, so its own Python code says what is called in which order; the
leaves are the modules of torch.nn.
"""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from moptcore import DTypeError, Error, UnsupportedError

__all__ = [
    "MODE",
    "Program",
    "Ref",
    "Step",
    "capture",
    "evaluating",
    "example_inputs",
    "map_refs",
    "observe_values",
    "refs",
]


class Ref(NamedTuple):
    """The value that the step of that name computes."""

    name: str


class _Mode:
    """Stands for `self.training` in an argument, so that dropout follows train() and eval()."""

    def __reduce__(self) -> str:
        return "MODE"


MODE = _Mode()


@dataclass(slots=True)
class Step:
    """One call. `kind` is the canonical operation ("conv", "relu", ...), "" where unknown."""

    name: str
    op: str  # input, attribute, module, function, method, output
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)
    dead: tuple[str, ...] = ()  # values that no later step reads
    flat: bool = True  # every argument is a Ref or a constant
    uses_mode: bool = False

    def __getstate__(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.__slots__}
        if self.op == "function":
            state["target"] = _name_of(self.target)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        if self.op == "function" and isinstance(self.target, str):
            self.target = _resolve(self.target)

    @property
    def inputs(self) -> list[str]:
        return [ref.name for ref in refs((self.args, self.kwargs))]


class Program:
    """Steps in the order of execution."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        last = {name: step for step in self.steps for name in step.inputs}
        for step in self.steps:
            step.dead = tuple(name for name in dict.fromkeys(step.inputs) if last[name] is step)
            values = (*step.args, *step.kwargs.values())
            step.flat = all(
                not isinstance(v, tuple | list | dict | slice) or type(v) is Ref for v in values
            )
            step.uses_mode = any(value is MODE for value in values)

    @property
    def inputs(self) -> list[Step]:
        return [step for step in self.steps if step.op == "input"]

    @property
    def users(self) -> dict[str, list[Step]]:
        users: dict[str, list[Step]] = {step.name: [] for step in self.steps}
        for step in self.steps:
            for name in dict.fromkeys(step.inputs):
                users[name].append(step)
        return users

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The values of the input steps for a call."""
        inputs = self.inputs
        if len(args) > len(inputs):
            raise Error(f"[{where}] inputs must be at most {len(inputs)}, got {len(args)}")
        values = {step.name: value for step, value in zip(inputs, args, strict=False)}
        for step in inputs:
            if step.target in kwargs and step.name not in values:
                values[step.name] = kwargs[step.target]
            elif step.name not in values:
                if "default" not in step.attrs:
                    raise Error(f"[{where}] inputs must hold {step.target!r}, got {len(args)}")
                values[step.name] = step.attrs["default"]
        unknown = set(kwargs) - {step.target for step in inputs}
        if unknown:
            raise Error(f"[{where}] inputs must be {[s.target for s in inputs]}, got {unknown}")
        return values

    def run(
        self,
        env: dict[str, Any],
        training: bool,
        seen: Callable[[Step, Any], None] | None = None,
    ) -> Any:
        """Executes all steps on the bound inputs; `seen` gets every step's value."""
        for step in self.steps:
            if step.op == "input":
                value = env[step.name]
            else:
                value = _execute(step, env, training)
                for name in step.dead:
                    del env[name]
                if step.op == "output":
                    return value
                env[step.name] = value
            if seen is not None:
                seen(step, value)
        raise AssertionError("a program ends with its output")


def _execute(step: Step, env: Mapping[str, Any], training: bool) -> Any:
    if step.op == "attribute":
        owner, name = step.target
        return getattr(owner[0], name)
    if step.flat:
        args: Any = [env[a.name] if type(a) is Ref else a for a in step.args]
        kwargs = step.kwargs
        if kwargs:
            kwargs = {k: env[a.name] if type(a) is Ref else a for k, a in kwargs.items()}
    else:
        args, kwargs = map_refs((step.args, step.kwargs), lambda ref: env[ref.name])
    if step.uses_mode:
        args = [training if value is MODE else value for value in args]
        kwargs = {key: training if value is MODE else value for key, value in kwargs.items()}
    if step.op == "module":
        return step.target[0](*args, **kwargs)
    if step.op == "function":
        return step.target(*args, **kwargs)
    if step.op == "method":
        return getattr(args[0], step.target)(*args[1:], **kwargs)
    return args[0]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """eval() inside, and every module's own mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def observe_values(
    program: Program, model: nn.Module, inputs: Sequence[torch.Tensor], where: str
) -> dict[str, Any]:
    """What every step of the program gives in eval(): tensors without data, other values whole."""
    values: dict[str, Any] = {}

    def see(step: Step, value: Any) -> None:
        values[step.name] = _shell(value)

    env = program.bind(inputs, {}, where)
    try:
        with evaluating(model), torch.no_grad():
            program.run(env, False, see)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = [tuple(each.shape) for each in inputs]
        raise Error(f"[{where}] example must fit the model, got {shapes}: {error}") from error
    return values


def _shell(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("meta")
    if type(value) in (tuple, list):
        return type(value)(_shell(item) for item in value)
    return value


def refs(value: Any) -> Iterator[Ref]:
    """All references inside nested arguments."""
    if type(value) is Ref:
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from refs(item)
    elif isinstance(value, dict):
        yield from refs(list(value.values()))
    elif isinstance(value, slice):
        yield from refs((value.start, value.stop, value.step))


def map_refs(value: Any, change: Callable[[Ref], Any]) -> Any:
    """Nested arguments with every reference replaced."""
    if type(value) is Ref:
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(map_refs(item, change) for item in value)
    if isinstance(value, dict):
        return {key: map_refs(item, change) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_refs(x, change) for x in (value.start, value.stop, value.step)))
    return value


def example_inputs(example: Any, where: str) -> tuple[torch.Tensor, ...]:
    """The example as a tuple of tensors."""
    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    for each in inputs:
        if not isinstance(each, torch.Tensor):
            raise DTypeError(
                f"[{where}] example must be a tensor or a tuple of tensors, "
                f"got {type(each).__name__}"
            )
        if each.numel() == 0:
            raise Error(f"[{where}] example must not be empty, got shape {tuple(each.shape)}")
    if not inputs:
        raise Error(f"[{where}] example must hold at least one tensor, got ()")
    return inputs


def capture(model: nn.Module, where: str) -> Program:
    """The steps of `model.forward`, whose modules stay those of `model`.

    Raises UnsupportedError with the source line for control flow that depends on the data, and
    where train() and eval() call different operations.
    """
    graphs = []
    with evaluating(model):
        for training in (True, False):
            model.train(training)
            graphs.append(_trace(model, where))
    trained, evaluated = (list(graph.nodes) for graph in graphs)
    if [(n.op, n.name) for n in trained] != [(n.op, n.name) for n in evaluated]:
        raise UnsupportedError(
            f"[{where}] model must call the same operations in train() and eval(), "
            f"got {len(trained)} and {len(evaluated)}"
        )
    return Program([_step(a, b, model, where) for a, b in zip(trained, evaluated, strict=True)])


class _Tracer(fx.Tracer):
    """Knows inside which module it is when something fails."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ""

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        before, self.inside = self.inside, f"{self.path_of_module(m)} ({type(m).__name__})"
        # Not put back after an error, whose place it is.
        result = super().call_module(m, forward, args, kwargs)
        self.inside = before
        return result


def _trace(model: nn.Module, where: str) -> fx.Graph:
    tracer = _Tracer()
    try:
        return tracer.trace(model)
    except Exception as error:
        inside = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith((*inside, "<"))
        ]
        place = tracer.inside or f"the model itself ({type(model).__name__})"
        if frames:
            place += f", {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"
        raise UnsupportedError(
            f"[{where}] model must have no control flow that depends on its inputs and call "
            f"torch operations only, got {type(error).__name__} at {place} ({error})"
        ) from error


def _step(node: fx.Node, other: fx.Node, model: nn.Module, where: str) -> Step:
    """`node` as traced in train(), `other` in eval()."""
    args, kwargs = _arguments(node.args), _arguments(node.kwargs)
    others = (_arguments(other.args), _arguments(other.kwargs))
    if (args, kwargs) != others:
        args = tuple(_merge(a, b, node, where) for a, b in zip(args, others[0], strict=True))
        kwargs = {key: _merge(kwargs[key], others[1][key], node, where) for key in kwargs}
    if node.op == "placeholder":
        attrs: dict[str, Any] = {"default": node.args[0]} if node.args else {}
        return Step(node.name, "input", node.target, kind="input", attrs=attrs)
    if node.op == "output":
        return Step(node.name, "output", None, args, kind="output")
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        attrs = {"parameter": node.target, "path": path}
        owner = (model.get_submodule(path),)
        return Step(node.name, "attribute", (owner, name), kind="attribute", attrs=attrs)
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        kind, attrs = _of_module(module)
        if attrs.get("return_indices"):
            kind = ""
        attrs["path"] = str(node.target)
        return Step(node.name, "module", (module,), args, kwargs, kind, attrs)
    called = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    kind, attrs = _of_call(str(called), args, kwargs)
    op = node.op.removeprefix("call_")
    return Step(node.name, op, node.target, args, kwargs, kind, attrs)


def _merge(trained: Any, evaluated: Any, node: fx.Node, where: str) -> Any:
    if trained == evaluated:
        return trained
    if trained is True and evaluated is False:
        return MODE
    raise UnsupportedError(
        f"[{where}] model must pass the same arguments in train() and eval(), "
        f"got {trained!r} and {evaluated!r} in {node.name}"
    )


def _arguments(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return Ref(value.name)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return tuple(_arguments(item) for item in value)
    if isinstance(value, tuple | list):
        # fx's own immutable containers become plain ones.
        plain = tuple if isinstance(value, tuple) else list
        return plain(_arguments(item) for item in value)
    if isinstance(value, dict):
        return {key: _arguments(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_arguments(x) for x in (value.start, value.stop, value.step)))
    return value


# Operations by the name of the function or method, whichever namespace it comes from: the
# canonical kind, and the parameters in order with their defaults (... marks a required one).
_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"conv{d}d": (
            "conv",
            {
                "input": ...,
                "weight": ...,
                "bias": None,
                "stride": 1,
                "padding": 0,
                "dilation": 1,
                "groups": 1,
            },
        )
        for d in (1, 2, 3)
    },
    "linear": ("linear", {"input": ..., "weight": ..., "bias": None}),
    "relu": ("relu", {"input": ...}),
    "relu6": ("clip", {"input": ..., "min": 0.0, "max": 6.0}),
    "hardtanh": ("clip", {"input": ..., "min": -1.0, "max": 1.0}),
    "clamp": ("clip", {"input": ..., "min": None, "max": None}),
    "sigmoid": ("sigmoid", {"input": ...}),
    "tanh": ("tanh", {"input": ...}),
    "silu": ("silu", {"input": ...}),
    "hardswish": ("hardswish", {"input": ...}),
    "hardsigmoid": ("hardsigmoid", {"input": ...}),
    "gelu": ("gelu", {"input": ..., "approximate": "none"}),
    "leaky_relu": ("leaky_relu", {"input": ..., "negative_slope": 0.01}),
    "elu": ("elu", {"input": ..., "alpha": 1.0}),
    "softplus": ("softplus", {"input": ..., "beta": 1.0, "threshold": 20.0}),
    "exp": ("exp", {"input": ...}),
    "sqrt": ("sqrt", {"input": ...}),
    "abs": ("abs", {"input": ...}),
    "neg": ("neg", {"input": ...}),
    "softmax": ("softmax", {"input": ..., "dim": None}),
    "log_softmax": ("log_softmax", {"input": ..., "dim": None}),
    **{
        f"max_pool{d}d": (
            "max_pool",
            {
                "input": ...,
                "kernel_size": ...,
                "stride": None,
                "padding": 0,
                "dilation": 1,
                "ceil_mode": False,
                "return_indices": False,
            },
        )
        for d in (1, 2, 3)
    },
    **{
        f"avg_pool{d}d": (
            "avg_pool",
            {
                "input": ...,
                "kernel_size": ...,
                "stride": None,
                "padding": 0,
                "ceil_mode": False,
                "count_include_pad": True,
                "divisor_override": None,
            },
        )
        for d in (1, 2, 3)
    },
    **{
        f"adaptive_avg_pool{d}d": ("adaptive_avg_pool", {"input": ..., "output_size": ...})
        for d in (1, 2, 3)
    },
    **{
        f"adaptive_max_pool{d}d": (
            "adaptive_max_pool",
            {"input": ..., "output_size": ..., "return_indices": False},
        )
        for d in (1, 2, 3)
    },
    "flatten": ("reshape", {"input": ...}),
    "view": ("reshape", {"input": ...}),
    "reshape": ("reshape", {"input": ...}),
    "unflatten": ("reshape", {"input": ...}),
    "squeeze": ("reshape", {"input": ...}),
    "unsqueeze": ("reshape", {"input": ...}),
    "transpose": ("transpose", {"input": ..., "dim0": ..., "dim1": ...}),
    "permute": ("permute", {"input": ...}),
    "contiguous": ("identity", {"input": ...}),
    "clone": ("identity", {"input": ...}),
    "float": ("identity", {"input": ...}),
    "dropout": ("identity", {"input": ...}),
    "dropout2d": ("identity", {"input": ...}),
    "dropout3d": ("identity", {"input": ...}),
    "alpha_dropout": ("identity", {"input": ...}),
    "cat": ("concat", {"tensors": ..., "dim": 0}),
    "concat": ("concat", {"tensors": ..., "dim": 0}),
    "add": ("add", {"input": ..., "other": ..., "alpha": 1}),
    "sub": ("sub", {"input": ..., "other": ..., "alpha": 1}),
    "mul": ("mul", {"input": ..., "other": ...}),
    "truediv": ("div", {"input": ..., "other": ...}),
    "div": ("div", {"input": ..., "other": ..., "rounding_mode": None}),
    "matmul": ("matmul", {"input": ..., "other": ...}),
    "bmm": ("matmul", {"input": ..., "other": ...}),
    "mean": ("mean", {"input": ..., "dim": None, "keepdim": False, "dtype": None}),
    "pad": ("pad", {"input": ..., "pad": ..., "mode": "constant", "value": None}),
    "chunk": ("split", {"input": ..., "chunks": ..., "dim": 0}),
    "split": ("split", {"input": ..., "size": ..., "dim": 0}),
    "unbind": ("unbind", {"input": ..., "dim": 0}),
    "getitem": ("getitem", {"input": ..., "index": ...}),
    "pixel_shuffle": ("pixel_shuffle", {"input": ..., "upscale_factor": ...}),
    "interpolate": (
        "upsample",
        {
            "input": ...,
            "size": None,
            "scale_factor": None,
            "mode": "nearest",
            "align_corners": None,
        },
    ),
    "getattr": ("getattr", {"input": ..., "name": ...}),
    "size": ("size", {"input": ..., "dim": None}),
    "dim": ("size", {"input": ...}),
    "numel": ("size", {"input": ...}),
}
_RENAMED = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "itruediv": "truediv",
    "add_": "add",
    "sub_": "sub",
    "mul_": "mul",
    "div_": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "relu_": "relu",
    "clamp_": "clamp",
    "clip": "clamp",
    "sigmoid_": "sigmoid",
    "silu_": "silu",
    "hardswish_": "hardswish",
    "tanh_": "tanh",
    "leaky_relu_": "leaky_relu",
    "_max_pool2d": "max_pool2d",
    "view_as": "",
    "concatenate": "concat",
    "swapaxes": "transpose",
    "negative": "neg",
}


def _of_call(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    known = _CALLS.get(_RENAMED.get(name, name))
    if known is None or kwargs.get("out") is not None:
        return "", {}
    kind, defaults = known
    attrs = dict(defaults)
    attrs.update(zip(attrs, args, strict=False))
    aliases = {
        "self": "input",
        "x": "input",
        "min_val": "min",
        "max_val": "max",
        "split_size_or_sections": "size",
        "axis": "dim",
        "mat2": "other",
    }
    attrs.update((aliases.get(key, key), value) for key, value in kwargs.items())
    if kind == "permute":
        order = args[1:] or (kwargs.get("dims"),)
        attrs["dims"] = order[0] if isinstance(order[0], tuple | list) else order
    if attrs.get("return_indices"):
        return "", {}
    if any(value is ... and key != "index" for key, value in attrs.items()):
        return "", {}
    return kind, attrs


def _of_module(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """The canonical operation of a leaf of torch.nn; ("", {}) for others."""
    convs = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
    for cls in type(module).__mro__:
        if cls in convs:
            keys = ("stride", "padding", "dilation", "groups", "padding_mode")
            return "conv", {"weight": "weight", "bias": "bias"} | _taken(module, keys)
        if cls is nn.Hardtanh:
            return "clip", {"min": module.min_val, "max": module.max_val}
        if cls in _MODULES:
            kind, names, extra = _MODULES[cls]
            return kind, _taken(module, names) | extra
    return "", {}


def _taken(module: nn.Module, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_TRANSPOSED = ("stride", "padding", "output_padding", "dilation", "groups")
_MODULES: dict[type, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    nn.Linear: ("linear", (), {"weight": "weight", "bias": "bias"}),
    **{
        cls: ("conv_transpose", _TRANSPOSED, {})
        for cls in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    },
    nn.BatchNorm1d: ("batch_norm", (), {}),
    nn.BatchNorm2d: ("batch_norm", (), {}),
    nn.BatchNorm3d: ("batch_norm", (), {}),
    nn.ReLU: ("relu", (), {}),
    nn.ReLU6: ("clip", (), {"min": 0.0, "max": 6.0}),
    nn.Sigmoid: ("sigmoid", (), {}),
    nn.Tanh: ("tanh", (), {}),
    nn.SiLU: ("silu", (), {}),
    nn.Hardswish: ("hardswish", (), {}),
    nn.Hardsigmoid: ("hardsigmoid", (), {}),
    nn.GELU: ("gelu", ("approximate",), {}),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",), {}),
    nn.ELU: ("elu", ("alpha",), {}),
    nn.PReLU: ("prelu", (), {}),
    nn.Softplus: ("softplus", ("beta", "threshold"), {}),
    nn.Softmax: ("softmax", ("dim",), {}),
    nn.LogSoftmax: ("log_softmax", ("dim",), {}),
    **{cls: ("max_pool", _POOL, {}) for cls in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)},
    nn.AvgPool1d: ("avg_pool", _MEAN, {"divisor_override": None}),
    nn.AvgPool2d: ("avg_pool", (*_MEAN, "divisor_override"), {}),
    nn.AvgPool3d: ("avg_pool", (*_MEAN, "divisor_override"), {}),
    **{
        cls: ("adaptive_avg_pool", ("output_size",), {})
        for cls in (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    },
    **{
        cls: ("adaptive_max_pool", ("output_size", "return_indices"), {})
        for cls in (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
    },
    nn.Flatten: ("reshape", (), {}),
    nn.Unflatten: ("reshape", (), {}),
    **{
        cls: ("identity", (), {})
        for cls in (
            nn.Identity,
            nn.Dropout,
            nn.Dropout1d,
            nn.Dropout2d,
            nn.Dropout3d,
            nn.AlphaDropout,
        )
    },
    **{
        cls: ("pad", ("padding",), {"mode": "constant", "value": 0.0})
        for cls in (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
    },
    nn.LayerNorm: ("layer_norm", ("normalized_shape", "eps"), {}),
    nn.GroupNorm: ("group_norm", ("num_groups", "eps"), {}),
    nn.PixelShuffle: ("pixel_shuffle", ("upscale_factor",), {}),
    nn.Upsample: ("upsample", ("size", "scale_factor", "mode", "align_corners"), {}),
    nn.Embedding: ("embedding", (), {}),
}


def _name_of(function: Callable[..., Any]) -> str:
    """A name by which `_resolve` finds a function again, also in another process."""
    name = getattr(function, "__name__", "")
    for module in (
        "torch.nn.functional",
        "torch",
        "torch._C._nn",
        "_operator",
        "builtins",
        getattr(function, "__module__", None) or "",
    ):
        if module and getattr(importlib.import_module(module), name, None) is function:
            return f"{module}:{name}"
    raise UnsupportedError(
        f"[torch.capture] model must call functions of importable modules, got {function!r}"
    )


def _resolve(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
