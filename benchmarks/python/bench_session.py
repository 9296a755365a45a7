# SPDX-License-Identifier: Apache-2.0
"""Float32 latency, load time and memory of models, each runtime in processes of its own.

usage: PYTHONPATH=python python benchmarks/python/bench_session.py MODEL.onnx... [--batch 1 32]
       [--threads 1 2] [--rounds 3] [--size symbol=extent] [--openvino PYTHON]

Answers are compared with the first runtime's before anything is timed. Runtimes take turns, so that
what else the machine does hits all alike; a cell is the median over the rounds of each process's
median, with its ratio to the fastest peer. `--openvino` is the interpreter of an environment that
has openvino. `--cpu-time` counts the process's processor time instead of the clock, for machines
that are busy; divide by the threads that worked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ("onnxruntime", "openvino")
# Activations are sums of some thousand products in any order; classifiers end in numbers near 1.
TOLERANCE = 1e-3


def input_arrays(model: Path, batch: int, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Random inputs; the first open extent is the batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    arrays = {}
    for each in session.get_inputs():
        shape = [
            extent if isinstance(extent, int) else sizes.get(extent, batch if axis == 0 else 1)
            for axis, extent in enumerate(each.shape)
        ]
        if each.type == "tensor(float)":
            arrays[each.name] = random.standard_normal(shape).astype(np.float32)
        else:
            dtype = np.int64 if each.type == "tensor(int64)" else np.int32
            arrays[each.name] = random.integers(0, 256, shape).astype(dtype)
    return arrays


def peak_megabytes() -> float:
    text = Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def opened(runtime: str, model: str, inputs: dict[str, np.ndarray], threads: int) -> Any:
    """A function that runs the model once and returns its first output."""
    if runtime == "moptcore":
        import moptcore

        session = moptcore.Session(model, threads=threads)
        first = session.outputs[0].name
        return lambda: session.run(inputs)[first]
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        peer = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = peer.get_outputs()[0].name
        return lambda: peer.run([name], inputs)[0]
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    network.reshape({name: list(array.shape) for name, array in inputs.items()})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda: request.infer(inputs)[0]


def child(job: dict[str, Any]) -> None:
    """One runtime, one model: prints its figures as JSON and saves its answer."""
    with np.load(job["inputs"]) as stored:
        inputs = {name: stored[name] for name in stored.files}
    if job["runtime"] == "moptcore":
        import moptcore

        moptcore.Session  # noqa: B018 - the library is loaded before the clock starts
    else:
        __import__(job["runtime"])
    clock = time.process_time if job["cpu_time"] else time.perf_counter
    before = peak_megabytes()
    start = clock()
    run = opened(job["runtime"], job["model"], inputs, job["threads"])
    answer = run()
    first = clock() - start
    if job["answer"]:
        np.save(job["answer"], answer)
    run()
    times = []
    begin = time.perf_counter()
    while len(times) < job["most"] and (
        len(times) < 3 or time.perf_counter() - begin < job["seconds"]
    ):
        start = clock()
        run()
        times.append(clock() - start)
    median = statistics.median(times)
    result = {
        "milliseconds": 1e3 * median,
        "load": 1e3 * (first - median),
        "megabytes": peak_megabytes() - before,
    }
    print(json.dumps(result))


def measured(job: dict[str, Any], python: str) -> dict[str, float]:
    environment = dict(os.environ, OMP_NUM_THREADS=str(job["threads"]))
    command = [python, __file__, "--child", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{job['runtime']} on {job['model']}:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--size", action="append", default=[], metavar="symbol=extent")
    parser.add_argument("--openvino", metavar="PYTHON")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    sizes = {name: int(extent) for name, extent in (each.split("=") for each in arguments.size)}
    runtimes = {"moptcore": sys.executable, "onnxruntime": sys.executable}
    if arguments.openvino:
        runtimes["openvino"] = arguments.openvino
    print("| model | batch | threads | " + " | ".join(f"{name} ms" for name in runtimes), end="")
    print(" | ratio to the faster peer | load ms | peak MB |")
    print("| --- " * (len(runtimes) + 6) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            for batch in arguments.batch:
                inputs = Path(folder) / "inputs.npz"
                np.savez(inputs, **input_arrays(model, batch, sizes))
                for threads in arguments.threads:
                    row(model, batch, threads, inputs, runtimes, arguments)


def row(
    model: Path,
    batch: int,
    threads: int,
    inputs: Path,
    runtimes: dict[str, str],
    arguments: argparse.Namespace,
) -> None:
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in runtimes}
    answers = {}
    for turn in range(arguments.rounds):
        for name, python in runtimes.items():
            answer = str(inputs.with_name(f"{name}.npy")) if turn == 0 else ""
            job = {
                "runtime": name,
                "model": str(model),
                "inputs": str(inputs),
                "threads": threads,
                "answer": answer,
                "seconds": arguments.seconds,
                "most": 200 if batch == 1 else 20,
                "cpu_time": arguments.cpu_time,
            }
            figures[name].append(measured(job, python))
            if answer:
                answers[name] = np.load(answer)
    expected = answers["onnxruntime"]
    for name, answer in answers.items():
        error = np.abs(answer - expected).max() / max(np.abs(expected).max(), 1e-6)
        if not error <= TOLERANCE:
            raise SystemExit(f"{name} answers {model} otherwise, by {error:.2g}")

    def middle(name: str, what: str) -> float:
        return statistics.median(each[what] for each in figures[name])

    times = {name: middle(name, "milliseconds") for name in runtimes}
    peer = min(times[name] for name in runtimes if name in PEERS)
    loads = " / ".join(f"{middle(name, 'load'):.0f}" for name in runtimes)
    peaks = " / ".join(f"{middle(name, 'megabytes'):.0f}" for name in runtimes)
    cells = " | ".join(f"{each:.2f}" for each in times.values())
    print(
        f"| {model.stem} | {batch} | {threads} | {cells} | {times['moptcore'] / peer:.2f} "
        f"| {loads} | {peaks} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
