# SPDX-License-Identifier: Apache-2.0
# Written by scripts/stubs.
"""
The compiled core of moptcore.
"""

from __future__ import annotations
import typing

ArrayLike = typing.Any

class Error(ValueError): ...
class CoverageError(Error): ...
class FormatError(Error): ...
class NonFiniteError(Error): ...
class UnsupportedError(Error): ...
class DTypeError(Error, TypeError): ...

from . import cluster
from . import prune
from . import quant
from . import distill
from . import pack
from . import graph

__all__: list[str] = [
    "CoverageError",
    "DTypeError",
    "Error",
    "FormatError",
    "NonFiniteError",
    "UnsupportedError",
    "available_isas",
    "cluster",
    "copy",
    "current_isa",
    "describe",
    "distill",
    "get_num_threads",
    "graph",
    "pack",
    "pool_statistics",
    "prune",
    "quant",
    "set_max_isa",
    "set_num_threads",
    "thread_backend",
    "trim",
]

def available_isas() -> list[str]:
    """
    Instruction sets of this CPU, best first.
    """

def copy(array: ArrayLike, *, out: typing.Any = None) -> typing.Any:
    """
    The same elements, row-major, as the caller's kind of array or in `out`.
    """

def current_isa() -> str:
    """
    The instruction set that the kernels use.
    """

def describe(array: ArrayLike) -> dict[str, typing.Any]:
    """
    How moptcore sees an array: dtype, shape, strides in elements, address, kind, writable.
    """

def get_num_threads() -> int:
    """
    Threads that a call may use.
    """

def pool_statistics() -> dict[str, typing.Any]:
    """
    Bytes in use, bytes cached and reused blocks of the memory pool.
    """

def set_max_isa(name: str) -> None:
    """
    Uses no instruction set better than `name`; an empty name lifts the limit.
    """

def set_num_threads(count: int) -> None:
    """
    Lets calls use at most `count` threads. Results do not depend on it.
    """

def thread_backend() -> str:
    """
    openmp or std.
    """

def trim() -> None:
    """
    Gives the unused blocks of the memory pool back to the system.
    """

__version__: str = "0.1.0"
