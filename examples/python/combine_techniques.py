# SPDX-License-Identifier: Apache-2.0
"""Pruning, clustering and int8 training on one network, together.

    python examples/python/combine_techniques.py

The student of `moptcore demo` loses 80 % of its weights, keeps 16 values, zero among them, in each
layer, and trains as the int8 file will compute. Says what came of it, and is 1 where less did
than promised.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import moptcore as mc
import moptcore.torch as mct
import numpy as np
import onnx
import torch
from moptcore.demo.compress_image_classifier import Classifier
from moptcore.demo.data import Dataset, load
from torch import Tensor, nn

BATCH = 128


@dataclass(frozen=True)
class Plan:
    """Training steps of each phase; 468 are an epoch of Fashion-MNIST."""

    baseline: int = 936
    prune: int = 936
    together: int = 468
    sparsity: float = 0.8
    values: int = 16


@dataclass(frozen=True)
class Outcome:
    """Accuracies in percent, and what the files hold."""

    baseline: float
    combined: float
    zeros: float
    file_accuracy: float
    file_zeros: float
    values: dict[str, int]
    integers: dict[str, int]
    steps_wrong: int
    float_bytes: int
    packed_bytes: int
    onnx_bytes: int


def combine(data: Dataset, out: Path, plan: Plan, seed: int = 0) -> Outcome:
    torch.manual_seed(seed)
    images, labels = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)

    def batches(steps: int) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(images))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                if steps == 0:
                    return
                yield order[start : start + BATCH]
                steps -= 1

    def fit(
        model: nn.Module, steps: int, rate: float, after_step: Callable[[], object] = lambda: None
    ) -> float:
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        model.train()
        for batch in batches(steps):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            after_step()
        return 100 * mct.evaluate(model, test, latency=False).accuracy

    model = Classifier((16, 32), hidden=128)
    baseline = fit(model, plan.baseline, 4e-3)
    dense = copy.deepcopy(model)

    # 1. Prune while it trains.
    schedule = mc.prune.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=plan.sparsity,
        begin_step=0,
        end_step=plan.prune * 7 // 10,
        frequency=10,
    )
    pruner = mct.Pruner(model, schedule, scope="global", strict=True)
    fit(model, plan.prune, 2e-3, pruner.step)

    # 2. Few values each, zero among them.
    clusterer = mct.cluster(model, plan.values, strict=True)

    # 3. All together: one step keeps the masks, the codebooks and the integers.
    quantized = mct.prepare_qat(model, images[:BATCH], strict=True)
    compression = mct.Compression(pruner, clusterer, quantized, strict=True)
    weights = [each for each in quantized.parameters() if each.dim() > 1]
    total = sum(each.numel() for each in weights)
    wrong = 0

    def step_and_check() -> None:
        nonlocal wrong
        compression.step()
        zeros = sum(int((each == 0).sum()) for each in weights)
        few = all(len(each.detach().unique()) <= plan.values for each in weights)
        wrong += zeros < round(total * plan.sparsity) or not few

    combined = fit(quantized, plan.together, 1e-3, step_and_check)

    out.mkdir(parents=True, exist_ok=True)
    plain = mct.strip(quantized)
    mct.save_packed(dense, out / "float32.safetensors", encoding="dense+raw+plain")
    mct.save_packed(plain, out / "packed.safetensors")
    file = mct.export_onnx(quantized.eval(), images[:BATCH], out / "int8.onnx")
    stored = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in onnx.load(file).graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1
    }
    measured = mc.evaluate(
        {"int8": file}, (data.x_test, data.y_test), threads=1, warmup=1, repeats=2
    )["int8"]
    return Outcome(
        baseline=baseline,
        combined=combined,
        zeros=sum(int((each == 0).sum()) for each in weights) / total,
        values={
            name: len(each.detach().unique())
            for name, each in plain.named_parameters()
            if each.dim() > 1
        },
        integers={name: len(np.unique(each)) for name, each in stored.items()},
        file_zeros=sum(int((each == 0).sum()) for each in stored.values()) / total,
        file_accuracy=100 * measured.accuracy,
        steps_wrong=wrong,
        float_bytes=(out / "float32.safetensors").stat().st_size,
        packed_bytes=(out / "packed.safetensors").stat().st_size,
        onnx_bytes=file.stat().st_size,
    )


def check(outcome: Outcome, plan: Plan) -> list[str]:
    """The promises that were not kept."""
    lost = outcome.baseline - outcome.file_accuracy
    ratio = outcome.float_bytes / outcome.packed_bytes
    promises = {
        f"zeros {outcome.zeros:.4f} and {outcome.file_zeros:.4f} in the int8 file": min(
            outcome.zeros, outcome.file_zeros
        )
        >= plan.sparsity - 1e-5,  # a weight more or less of 206,736
        f"values {outcome.values}": max(outcome.values.values()) <= plan.values,
        f"integers {outcome.integers}": max(outcome.integers.values()) <= plan.values,
        f"steps with fewer zeros or more values: {outcome.steps_wrong}": outcome.steps_wrong == 0,
        f"points lost {lost:.2f}": lost <= 1.0,
        f"packed {ratio:.2f} times smaller": ratio >= 20.0,
    }
    return [promise for promise, kept in promises.items() if not kept]


def show(outcome: Outcome) -> None:
    packed = outcome.float_bytes / outcome.packed_bytes
    print(f"accuracy   {outcome.baseline:.2f} % alone, {outcome.combined:.2f} % combined, ", end="")
    print(f"{outcome.file_accuracy:.2f} % in the int8 file")
    print(f"zeros      {outcome.zeros:.4f}, in the int8 file {outcome.file_zeros:.4f}")
    print(f"values     {outcome.values}, in the int8 file {outcome.integers}")
    print(f"float32    {outcome.float_bytes:,} bytes")
    print(f"packed     {outcome.packed_bytes:,} bytes, {packed:.2f} times smaller")
    print(f"int8.onnx  {outcome.onnx_bytes:,} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("combined"), help="folder for the files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="auto", help="auto, fashion-mnist or mnist-5k")
    options = parser.parse_args()
    plan = Plan()
    outcome = combine(load(options.data), options.out, plan, options.seed)
    show(outcome)
    missed = check(outcome, plan)
    for promise in missed:
        print(f"missed: {promise}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
