# SPDX-License-Identifier: Apache-2.0
"""Train with less memory, and see how much is in use."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from moptcore import DTypeError, Error, _core

__all__ = ["CheckpointedSequential", "MemoryUsage", "data_loader", "memory_usage"]

_MAX_WORKERS = 4


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes in use now. `gpu_allocated` and `gpu_reserved` are None without a CUDA device."""

    resident: int  # of this process, on the CPU
    peak_resident: int
    pool_in_use: int  # of moptcore's pool, part of `resident`
    pool_cached: int
    gpu_allocated: int | None = None
    gpu_reserved: int | None = None

    def __str__(self) -> str:
        def mib(size: int) -> str:
            return f"{size / 2**20:.1f} MiB"

        lines = [
            f"process {mib(self.resident)} (peak {mib(self.peak_resident)})",
            f"pool {mib(self.pool_in_use)} in use, {mib(self.pool_cached)} cached",
        ]
        if self.gpu_allocated is not None and self.gpu_reserved is not None:
            lines.append(
                f"GPU {mib(self.gpu_allocated)} allocated, {mib(self.gpu_reserved)} cached"
            )
        else:
            lines.append("GPU none")
        return "; ".join(lines)


def memory_usage(device: torch.device | str | int | None = None) -> MemoryUsage:
    """What this process, moptcore's pool and the GPU (`device`; None: the current one) hold."""
    pool = _core.pool_statistics()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    allocated = reserved = None
    if torch.cuda.is_available():
        allocated = torch.cuda.memory_allocated(device)
        reserved = torch.cuda.memory_reserved(device)
    resident = _resident(peak)
    # The kernel counts the two at different moments.
    peak = max(peak, resident)
    return MemoryUsage(
        resident, peak, pool["bytes_in_use"], pool["bytes_cached"], allocated, reserved
    )


def _resident(peak: int) -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak  # the closest that getrusage knows where there is no /proc
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class CheckpointedSequential(torch.nn.Sequential):
    """torch.nn.Sequential that keeps only the activations between `segments` groups of layers.

    The others are computed again in the backward pass, with the same random numbers: values and
    gradients are those of Sequential. Parameters have the same names. With n layers and sqrt(n)
    segments (the default, None) memory grows with sqrt(n): Chen et al., "Training deep nets with
    sublinear memory cost", arXiv:1604.06174, section 3.1.

    Without gradients (eval under no_grad) nothing is kept anyway and layers simply run.
    """

    def __init__(self, *layers: Any, segments: int | None = None) -> None:
        if len(layers) == 1 and isinstance(layers[0], Sequence):
            layers = tuple(layers[0])
        super().__init__(*layers)
        where = "torch.CheckpointedSequential"
        if segments is not None and (not isinstance(segments, int) or segments < 1):
            raise Error(f"[{where}] segments must be an integer >= 1 or None, got {segments!r}")
        self.segments = segments

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = list(self)
        if not torch.is_grad_enabled() or not layers:
            y: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y
        count = self.segments or max(1, round(len(layers) ** 0.5))
        count = min(count, len(layers))
        borders = [len(layers) * index // count for index in range(count + 1)]
        for first, last in pairwise(borders):
            x = checkpoint(torch.nn.Sequential(*layers[first:last]), x, use_reentrant=False)
        return x


def data_loader(
    dataset: Dataset[Any],
    batch_size: int = 32,
    num_workers: int | None = None,
    *,
    prefetch: int = 2,
    **options: Any,
) -> DataLoader[Any]:
    """A DataLoader that holds at most `num_workers * prefetch` batches ahead.

    num_workers: processes that stay alive between epochs; None: one less than there are cores, 4 at
        most; 0: none, batches are made where they are used.
    prefetch: batches that each worker makes ahead.
    options: the others of torch.utils.data.DataLoader (shuffle, drop_last, collate_fn ...).

    Batches lie in pinned memory where there is a GPU for which that pays, unless `pin_memory` says
    otherwise.
    """
    where = "torch.data_loader"
    if not hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
        raise DTypeError(f"[{where}] dataset must be a Dataset, got {type(dataset).__name__}")
    for name, value, least in (("batch_size", batch_size, 1), ("prefetch", prefetch, 1)):
        if not isinstance(value, int) or value < least:
            raise Error(f"[{where}] {name} must be an integer >= {least}, got {value!r}")
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        num_workers = min(max(cores - 1, 0), _MAX_WORKERS)
    if not isinstance(num_workers, int) or num_workers < 0:
        raise Error(f"[{where}] num_workers must be an integer >= 0 or None, got {num_workers!r}")
    if num_workers:
        options = {"persistent_workers": True, "prefetch_factor": prefetch, **options}
    options.setdefault("pin_memory", torch.cuda.is_available())
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, **options)
