# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing of several ways to compute the same thing, as ratios within one run.

Absolute times of a shared machine mean little, so every table shows the ratio to moptcore's
median, and callers compare the answers before they time anything.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one way: median, fastest, and the number of rounds."""

    median: float
    best: float
    rounds: int


def interleave(
    ways: Mapping[str, Callable[[], object]], *, seconds: float = 4.0, max_rounds: int = 200
) -> dict[str, Timing]:
    """Runs all ways in turn until `seconds` have passed: two rounds at least, one to warm up."""
    for way in ways.values():
        way()
    samples: dict[str, list[float]] = {name: [] for name in ways}
    start = time.perf_counter()
    for count in range(max_rounds):
        if count >= 2 and time.perf_counter() - start > seconds:
            break
        for name, way in ways.items():
            before = time.perf_counter()
            way()
            samples[name].append((time.perf_counter() - before) * 1e3)
    return {
        name: Timing(statistics.median(times), min(times), len(times))
        for name, times in samples.items()
    }


def per_call(way: Callable[[], object], *, calls: int = 20_000, repeats: int = 7) -> float:
    """Microseconds of one call: the median over `repeats` loops of `calls` calls."""
    loops = []
    for _ in range(repeats):
        before = time.perf_counter()
        for _ in range(calls):
            way()
        loops.append((time.perf_counter() - before) / calls * 1e6)
    return statistics.median(loops)


def show(title: str, timings: Mapping[str, Timing], ours: str) -> None:
    """Prints medians and how many times as long as `ours` each way takes."""
    print(f"\n{title}")
    reference = timings[ours].median
    for name, timing in timings.items():
        print(
            f"  {name:<44} {timing.median:10.3f} ms   {timing.median / reference:8.2f} x"
            f"   (best {timing.best:.3f}, {timing.rounds} rounds)"
        )
