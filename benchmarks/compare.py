# SPDX-License-Identifier: Apache-2.0
"""Times two commits against each other: is the change faster?

usage: python benchmarks/compare.py BEFORE AFTER [CASE ...] [--rounds N] [--threads N]

Builds both commits below build/compare/ and runs the cases of this checkout with either extension
in turn, each run a process of its own. Prints, per case, the medians and how many times as fast
AFTER is; a ratio within the spread of BEFORE's own runs is noise, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from run import HERE, case_operations, environment_of

ROOT = HERE.parent


def built(commit: str) -> Path:
    """The folder of a built checkout of `commit`."""
    found = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{commit}^{{commit}}"],
        capture_output=True,
        text=True,
    )
    if found.returncode != 0:
        sys.exit(f"compare: {commit} must be a commit of this repository")
    folder = ROOT / "build" / "compare" / found.stdout.strip()[:12]
    if not folder.exists():
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(folder), commit],
            check=True,
            stdout=sys.stderr,
        )
    for command in (["cmake", "--preset", "python"], ["cmake", "--build", "--preset", "python"]):
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    return folder


def median_of(folder: Path, case: str, threads: int, seconds: float) -> float | str:
    """Milliseconds of our way in one process, or the last line of its error."""
    done = subprocess.run(
        [sys.executable, str(HERE / "measure.py"), case, "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        env=environment_of(threads, folder),
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads]),
    )
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    return float(json.loads(done.stdout.splitlines()[-1])["median_ms"]["moptcore"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("cases", nargs="*", help="names of benchmarks/cases.py; none: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    folders = [built(options.before), built(options.after)]
    print("| case | before, ms | after, ms | times as fast |")
    print("| --- | --- | --- | --- |")
    for case in options.cases or case_operations():
        samples: tuple[list[float], list[float]] = ([], [])
        failures = []
        for _ in range(options.rounds):
            for folder, kept in zip(folders, samples, strict=True):
                value = median_of(folder, case, options.threads, options.seconds)
                if isinstance(value, str):
                    failures.append(f"{folder.name}: {value}")
                else:
                    kept.append(value)
            if failures:
                break
        if failures:
            print(f"| {case} | | | failed: {failures[0]} |", flush=True)
            continue
        before, after = (statistics.median(kept) for kept in samples)
        noise = max(samples[0]) / min(samples[0])
        ratio = before / after
        verdict = f"{ratio:.2f}" + (" (noise)" if 1 / noise <= ratio <= noise else "")
        print(f"| {case} | {before:.4g} | {after:.4g} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
