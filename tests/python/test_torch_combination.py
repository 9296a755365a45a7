# SPDX-License-Identifier: Apache-2.0
"""80 % pruned, 16 values and int8 on the network of the demo: short always, whole in test-full."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import moptcore
import numpy as np
import pytest
from moptcore.demo import data as demo_data
from moptcore.demo.data import Dataset

for module in ("onnx", "onnxruntime", "rich", "jinja2", "plotly"):
    pytest.importorskip(module)

SCRIPT = Path(__file__).parents[2] / "examples/python/combine_techniques.py"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("combine_techniques", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def blobs() -> Dataset:
    """Ten noisy prototypes: easy enough that a few steps of training tell them apart."""
    random = np.random.default_rng(0)
    prototypes = random.normal(size=(10, 1, 28, 28))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % 10
        x = prototypes[y] + 0.3 * random.normal(size=(n, 1, 28, 28))
        return x.astype(np.float32), y.astype(np.int64)

    return Dataset("blobs", Path("blobs"), tuple("0123456789"), *draw(1280), *draw(500))


def test_a_short_run_keeps_every_promise(example: ModuleType, tmp_path: Path) -> None:
    plan = example.Plan(baseline=12, prune=30, together=12)
    outcome = example.combine(blobs(), tmp_path, plan)
    assert example.check(outcome, plan) == []
    packed = moptcore.pack.load(tmp_path / "packed.safetensors")
    assert packed["linear.weight"].shape == (128, 1568)
    assert len(np.unique(packed["linear.weight"])) <= 16
    assert (packed["linear.weight"] == 0).mean() > 0.7


def test_promises_that_are_not_kept_are_named(example: ModuleType) -> None:
    good = example.Outcome(90.0, 89.5, 0.8, 89.5, 0.8, {"w": 16}, {"w": 16}, 0, 2000, 100, 500)
    assert example.check(good, example.Plan()) == []
    bad = example.Outcome(90.0, 89.5, 0.79, 88.9, 0.8, {"w": 17}, {"w": 17}, 1, 2000, 101, 500)
    assert [line.split()[0] for line in example.check(bad, example.Plan())] == [
        "zeros",
        "values",
        "integers",
        "steps",
        "points",
        "packed",
    ]


@pytest.mark.skipif(
    not os.environ.get("MOPTCORE_FULL"), reason="runs in `make test-full`: MOPTCORE_FULL=1"
)
def test_the_whole_run_keeps_every_promise(example: ModuleType, tmp_path: Path) -> None:
    if demo_data.DATASETS["fashion-mnist"][0]() is None:
        pytest.skip("dataset-fashion-mnist is not installed")
    plan = example.Plan()
    outcome = example.combine(demo_data.load(), tmp_path, plan)
    example.show(outcome)
    assert example.check(outcome, plan) == []
