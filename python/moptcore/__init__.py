# SPDX-License-Identifier: Apache-2.0
"""Neural-network compression: pruning, quantization, clustering, low rank, distillation, packing.

Rooms are loaded on first use, so importing moptcore imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moptcore.waiting import short_waits

with short_waits():
    from moptcore._core import (
        CoverageError,
        DTypeError,
        Error,
        FormatError,
        NonFiniteError,
        UnsupportedError,
        __version__,
        get_num_threads,
        set_num_threads,
        trim,
    )

if TYPE_CHECKING:
    from moptcore import cluster, distill, graph, pack, prune, quant
    from moptcore import lowrank as lowrank
    from moptcore.evaluation import evaluate
    from moptcore.reporting import report
    from moptcore.runtime import Session

_ROOMS = frozenset(
    {
        "cluster",
        "core",
        "distill",
        "evaluation",
        "graph",
        "lowrank",
        "pack",
        "prune",
        "quant",
        "reporting",
        "runtime",
        "torch",
    }
)
_FUNCTIONS = {"Session": "runtime", "evaluate": "evaluation", "report": "reporting"}

__all__ = [
    "CoverageError",
    "DTypeError",
    "Error",
    "FormatError",
    "NonFiniteError",
    "Session",
    "UnsupportedError",
    "__version__",
    "cluster",
    "distill",
    "evaluate",
    "get_num_threads",
    "graph",
    "pack",
    "prune",
    "quant",
    "report",
    "set_num_threads",
    "trim",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"moptcore.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"moptcore.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'moptcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | _ROOMS | set(_FUNCTIONS))
