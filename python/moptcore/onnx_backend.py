# SPDX-License-Identifier: Apache-2.0
"""moptcore as a backend of the onnx package: what its test suite, and programs written to it, use.

from moptcore.onnx_backend import Backend

outputs = Backend.run_model(onnx.load("model.onnx"), [x])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moptcore import graph
from moptcore._core import UnsupportedError

try:
    import onnx
    import onnx.backend.base as base
except ImportError as error:
    raise ImportError("moptcore.onnx_backend needs the onnx package: pip install onnx") from error

__all__ = ["Backend", "Prepared", "prepare", "run_model", "run_node", "supports_device"]


class Prepared(base.BackendRep):
    """A model that is ready to run, by a loop for each operator or by a Session."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._run = model.evaluate if isinstance(model, graph.Model) else model.run

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the model's order, of a list of inputs in its order or inputs by name."""
        names = [info.name for info in self.model.inputs]
        if isinstance(inputs, Mapping):
            values = dict(inputs)
        else:
            given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(given) > len(names):
                raise ValueError(
                    f"[onnx_backend.run] inputs must be at most {len(names)}, got {len(given)}"
                )
            values = dict(zip(names, given, strict=False))
        found = self._run(values, **kwargs)
        return tuple(found[info.name] for info in self.model.outputs)


class Backend(base.Backend):
    """Runs ONNX models with moptcore, on the CPU."""

    @classmethod
    def prepare(
        cls, model: Any, device: str = "CPU", *, engine: str = "evaluate", **kwargs: Any
    ) -> Prepared:
        """Reads a ModelProto, a path or the bytes of a file.

        Raises UnsupportedError that names the operators it lacks.
        `engine` is "evaluate" for the plain loops of `graph`, "session" for moptcore.Session, which
        gets the other arguments.
        """
        if not cls.supports_device(device):
            raise UnsupportedError(f"[onnx_backend.prepare] device must be CPU, got {device!r}")
        source = model.SerializeToString() if hasattr(model, "SerializeToString") else model
        if engine == "session":
            from moptcore.runtime import Session

            return Prepared(Session(source, **kwargs))
        if engine != "evaluate":
            raise ValueError(
                f"[onnx_backend.prepare] engine must be evaluate or session, got {engine!r}"
            )
        return Prepared(graph.load(source, **kwargs))

    @classmethod
    def run_model(
        cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """`prepare` and `run` in one."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: Any,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one node; `opset_version` is the version of its domain, the newest by default."""
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        given = [name for name in node.input if name]
        unknown = onnx.TypeProto()
        model = onnx.helper.make_model(
            onnx.helper.make_graph(
                [node],
                "node",
                [onnx.helper.make_value_info(name, unknown) for name in given],
                [onnx.helper.make_value_info(name, unknown) for name in node.output if name],
            ),
            opset_imports=[onnx.helper.make_opsetid(node.domain, version)],
        )
        return cls.run_model(model, inputs, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for the CPU."""
        return device.upper().split(":")[0] == "CPU"


prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
