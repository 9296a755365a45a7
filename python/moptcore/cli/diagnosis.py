# SPDX-License-Identifier: Apache-2.0
"""What moptcore finds on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path

import moptcore
from moptcore import _core
from moptcore.waiting import SPINS

__all__ = ["diagnosis", "openmp_copies"]

_PEERS = ("numpy", "torch", "onnx", "onnxruntime", "jax", "tensorflow", "keras", "ml_dtypes")


def diagnosis() -> dict[str, str]:
    """Findings by name, in the order to show them."""
    limit = os.environ.get("MOPTCORE_MAX_ISA")
    runtime = importlib.util.find_spec("moptcore._runtime") is not None
    found = {
        "moptcore": f"{moptcore.__version__}, {Path(moptcore.__file__).parent}",
        "Python": f"{platform.python_version()}, {platform.machine()}",
        "instruction set": f"{_core.current_isa()} of {', '.join(_core.available_isas())}"
        + (f" (MOPTCORE_MAX_ISA={limit})" if limit else ""),
        "threads": f"{moptcore.get_num_threads()} of {len(os.sched_getaffinity(0))} cores, "
        f"{_core.thread_backend()}",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", f"not set, {SPINS} where it can be"),
        "back ends": "kernels of moptcore" + (", oneDNN" if runtime else ""),
    }
    found |= {name: _version(name) for name in _PEERS}
    copies = openmp_copies()
    found["OpenMP libraries"] = "\n".join(copies) or "none loaded"
    if len(copies) > 1:
        found["advice"] = (
            f"{len(copies)} OpenMP libraries in one process keep each other waiting: "
            "install builds that share one libgomp.so.1"
        )
    return found


def openmp_copies(maps: str | None = None) -> list[str]:
    """Paths of the OpenMP libraries in this process; `maps` is the text of /proc/self/maps."""
    if maps is None:
        source = Path("/proc/self/maps")
        maps = source.read_text() if source.exists() else ""
    pattern = re.compile(r"lib(gomp|iomp5|omp)(-[0-9a-f]+)?\.so")
    fields = (line.split(maxsplit=5) for line in maps.splitlines())
    paths = {each[5] for each in fields if len(each) == 6}
    return sorted(path for path in paths if pattern.match(Path(path).name))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
