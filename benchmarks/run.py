# SPDX-License-Identifier: Apache-2.0
"""Times moptcore against its peers and prints the Markdown table that the README quotes.

usage: python benchmarks/run.py [CASE ...] [--peers P,Q] [--threads N] [--seconds S] [--json FILE]

Each pair of a case and a peer is a process of its own, because the thread pools of two frameworks
disturb each other. Within it the answers are compared first; then ours, the peer's ways and one
pass over the same memory take turns, so that every ratio is one of medians of the same minutes. A
peer that is not installed is named below the table.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "pytorch": "torch",
    "torch_compile": "torch",
    "tensorflow": "tensorflow",
    "tfmot": "tensorflow-model-optimization",
    "jax": "jax",
    "scikit_learn": "scikit-learn",
    "kmeans1d": "kmeans1d",
    "onnxruntime": "onnxruntime",
    "coremltools": "coremltools",
}


def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def installed(package: str) -> str | None:
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def environment_of(threads: int, checkout: Path) -> dict[str, str]:
    """That of a process which times the extension built in `checkout`."""
    pools = ("MOPTCORE_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(pools, str(threads)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(checkout / "python"), str(HERE)]),
    }


def measure(case: str, peer: str | None, threads: int, seconds: float) -> dict[str, Any]:
    """The line that measure.py prints, or {"error": text}."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    done = subprocess.run(
        [
            sys.executable,
            str(HERE / "measure.py"),
            case,
            *filter(None, [peer]),
            "--seconds",
            str(seconds),
        ],
        capture_output=True,
        text=True,
        env=environment_of(threads, HERE.parent),
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"error": f"{case} against {peer}: {last[:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def row_of(results: list[dict[str, Any]]) -> str:
    """One line of the table, from all peers of one case."""
    ratios: dict[str, tuple[str, float]] = {}
    passes, ours = [], []
    for result in results:
        times = dict(result["median_ms"])
        mine = times.pop("moptcore")
        ours.append(mine)
        if "one memory pass" in times:
            passes.append(mine / times.pop("one memory pass"))
        for way, time in times.items():
            ratios[way] = (result["peer"], time / mine)
    ranked = sorted(ratios.items(), key=lambda item: item[1][1])
    faster = ", ".join(f"{ratio:.3g} x {way}" for way, (_, ratio) in ranked)
    missed = []
    for peer, goal in results[0]["goals"].items():
        sign, figure = goal.split()[:2]
        if peer == "memory":
            found = [statistics.median(passes)]
        else:
            # The first way of a peer is the one that its users take.
            found = [
                ratio
                for result in results
                if result["peer"] == peer
                for ratio in [ratios[list(result["median_ms"])[1]][1]]
            ]
        for value in found:
            if not (value >= float(figure) if sign == ">=" else value <= float(figure)):
                missed.append(f"{peer} {goal} (got {value:.3g})")
    memory = f"{statistics.median(passes):.2g}" if passes else ""
    verdict = "missed: " + "; ".join(missed) if missed else "met" if results[0]["goals"] else ""
    title = results[0]["title"]
    return f"| {title} | {statistics.median(ours):.3g} | {memory} | {faster} | {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help="names of benchmarks/cases.py; none: all")
    parser.add_argument("--peers", default=",".join(PACKAGES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", type=Path, help="writes every median there as well")
    options = parser.parse_args()

    operations = {
        name: operation
        for name, operation in case_operations().items()
        if not options.cases or name in options.cases
    }
    unknown = set(options.cases) - set(operations)
    if unknown:
        parser.error(
            f"cases must be among {', '.join(case_operations())}, got {', '.join(unknown)}"
        )
    peers = {peer: installed(PACKAGES[peer]) for peer in options.peers.split(",")}
    offers = {peer: functions_of(HERE / "peers" / f"{peer}.py") for peer in peers}
    versions = ", ".join(
        f"{PACKAGES[peer]} {version}" for peer, version in peers.items() if version
    )
    print(f"{cpu_name()}, {options.threads} thread(s), {datetime.date.today()}; {versions}\n")
    print("| what | ms | memory passes | times as fast as | goals |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    errors, raw = [], []
    for case, operation in operations.items():
        results = []
        able = [peer for peer in peers if peers[peer] and f"ways_{operation}" in offers[peer]]
        for peer in able or [None]:
            print(f"{case}, {peer} ...", file=sys.stderr, flush=True)
            result = measure(case, peer, options.threads, options.seconds)
            if "error" in result:
                errors.append(result["error"])
            else:
                results.append(result)
                raw.append(result)
        if results:
            print(row_of(results), flush=True)
    absent = [PACKAGES[peer] for peer, version in peers.items() if version is None]
    if absent:
        print(f"\nNot installed, so not compared: {', '.join(absent)}.")
    for error in errors:
        print(f"\nFailed: {error}")
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))
    sys.exit(1 if errors else 0)


def case_operations() -> dict[str, str]:
    """Case by case, the operation: asked in a process of its own, so that this one stays light."""
    code = "import json, cases; print(json.dumps(cases.OPERATIONS))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment_of(1, HERE.parent),
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
