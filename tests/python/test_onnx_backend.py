# SPDX-License-Identifier: Apache-2.0
"""The test cases of the onnx package: what passes, what is refused by name, and nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from moptcore import UnsupportedError, graph
from moptcore.onnx_backend import Backend
from reference.onnx_cases import DISK_KINDS, Outcome, cases, run

# What passes is here to stay.
LEAST = {"node": 1840, "simple": 15, "pytorch-converted": 0, "pytorch-operator": 0}
# Models of opset 6, before the version from which ONNX is read.
OLD = {"pytorch-converted": 82, "pytorch-operator": 35}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    found = {}
    for kind in ("node", *DISK_KINDS):
        found[kind] = [
            run(case, lambda model: Backend.prepare(model).run, UnsupportedError)
            for case in cases(kind)
        ]
    return found


@pytest.mark.parametrize("kind", LEAST)
def test_as_many_cases_pass_as_ever_did(outcomes: dict[str, list[Outcome]], kind: str) -> None:
    counts = Counter(outcome.verdict for outcome in outcomes[kind])
    assert counts["pass"] >= LEAST[kind], counts
    assert sum(counts.values()) == {"node": 1884, "simple": 23, **OLD}[kind]


def test_no_case_has_a_wrong_answer(outcomes: dict[str, list[Outcome]]) -> None:
    wrong = [
        f"{outcome.case.name}: {outcome.verdict}: {outcome.text[:300]}"
        for column in outcomes.values()
        for outcome in column
        if outcome.verdict in ("wrong", "error")
    ]
    assert not wrong, "\n".join(wrong)


def test_every_refusal_says_what_is_missing(outcomes: dict[str, list[Outcome]]) -> None:
    for column in outcomes.values():
        for outcome in column:
            if outcome.verdict == "unsupported":
                assert outcome.text.startswith("[graph."), outcome
                assert len(outcome.text) > 20, outcome


def test_a_backend_runs_models_and_nodes_by_position_and_by_name(tmp_path: Path) -> None:
    x = np.array([1, -2], np.float32)
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    np.testing.assert_array_equal(Backend.run_node(node, [x])[0], x)
    np.testing.assert_array_equal(Backend.run_node(node, {"x": x}, opset_version=13)[0], x)
    info = onnx.helper.make_tensor_value_info("x", 1, [2])
    output = onnx.helper.make_tensor_value_info("y", 1, [2])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [info], [output]),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    for engine in ("evaluate", "session"):
        for given in (path, str(path), model.SerializeToString()):
            np.testing.assert_array_equal(Backend.prepare(given, engine=engine).run([x])[0], x)
    prepared = Backend.prepare(model)
    np.testing.assert_array_equal(prepared.run([x])[0], x)
    np.testing.assert_array_equal(prepared.run(x)[0], x)
    with pytest.raises(ValueError, match="inputs must be at most 1, got 2"):
        prepared.run([x, x])
    assert isinstance(prepared.model, graph.Model)


def test_a_backend_runs_on_the_cpu_only() -> None:
    assert Backend.supports_device("CPU")
    assert Backend.supports_device("cpu:0")
    assert not Backend.supports_device("CUDA")
    with pytest.raises(UnsupportedError, match="device must be CPU, got 'CUDA'"):
        Backend.prepare(onnx.ModelProto(), "CUDA")
