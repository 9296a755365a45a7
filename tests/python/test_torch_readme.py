# SPDX-License-Identifier: Apache-2.0
"""The Python of the README does what the README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import moptcore.torch as mct
import numpy as np
import onnx
import pytest
import torch

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, str(README), "exec"), names)
    return names


def test_the_readme_has_three_examples() -> None:
    assert len(BLOCKS) == 3


def test_the_pytorch_example_prunes_quantizes_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = run(BLOCKS[0])
    # round(0.8 * 64 * 128) zeros of 64 * 128 weights
    assert float(capsys.readouterr().out) == 6554 / 8192
    operators = {node.op_type for node in onnx.load("model.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert type(names["model"]) is torch.nn.Sequential


def test_the_numpy_example_is_exact() -> None:
    names = run(BLOCKS[1])
    assert np.count_nonzero(~names["mask"]) == round(0.8 * names["w"].size)
    assert np.count_nonzero(names["two_of_four"]) == names["w"].size // 2
    # Half a step, and the rounding of quotient and product in float32.
    half_step = float(np.max(names["qp"].scale)) / 2
    assert names["error"] <= half_step * (1 + 4 * np.finfo(np.float32).eps * 128)


def test_the_example_of_models_runs_a_file_as_torch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.Flatten()
    )
    mct.export_onnx(model, torch.zeros(1, 3, 224, 224), "model.onnx")
    names = run(BLOCKS[2])
    (output,) = names["outputs"].values()
    with torch.no_grad():
        expected = model(torch.zeros(1, 3, 224, 224)).numpy()
    np.testing.assert_array_equal(
        output, expected
    )  # of zeros: the bias, whatever the order of sums
    printed = capsys.readouterr().out
    assert "Conv" in printed
    assert "ms" in printed
