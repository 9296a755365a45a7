# SPDX-License-Identifier: Apache-2.0
"""Sessions run what PyTorch exports, as PyTorch and ONNX Runtime do."""

from __future__ import annotations

import io
import json
import multiprocessing
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import moptcore
import numpy as np
import pytest

pytest.importorskip("moptcore._runtime", reason="built without oneDNN")
torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")

nn = torch.nn


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.short = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(x)) + self.short(x))


def residual_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(32, 32, 1),
        Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def mobile_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.Hardswish(),
        nn.Conv2d(16, 64, 1),
        nn.ReLU6(),
        nn.Conv2d(64, 64, 5, 2, 2, groups=64),
        nn.SiLU(),
        nn.Conv2d(64, 24, 1),
        nn.ConvTranspose2d(24, 8, 2, 2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Sigmoid(),
    )


class Transformer(nn.Module):
    """Embedding, one encoder layer, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 64)
        self.query = nn.Linear(64, 64)
        self.key = nn.Linear(64, 64)
        self.value = nn.Linear(64, 64)
        self.out = nn.Linear(64, 64)
        self.norm = nn.LayerNorm(64)
        self.wide = nn.Linear(64, 128)
        self.back = nn.Linear(128, 64)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        batch, length, width = x.shape

        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.reshape(batch, length, 4, width // 4).transpose(1, 2)

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1)
        x = self.norm(x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width)))
        return x + self.back(torch.nn.functional.gelu(self.wide(x)))


def images(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32)


def texts(batch: int) -> torch.Tensor:
    return torch.randint(0, 100, (batch, 24))


def exported(model: nn.Module, example: torch.Tensor) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that traces is on its way out, and needs nothing beside torch.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (example,),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
            opset_version=17,
            dynamo=False,
        )
    return file.getvalue()


MODELS = {
    "residual": (residual_network, images),
    "mobile": (mobile_network, images),
    "transformer": (Transformer, texts),
}


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest,
) -> tuple[nn.Module, Callable[[int], torch.Tensor], bytes]:
    torch.manual_seed(0)
    make, inputs = MODELS[request.param]
    network = make()
    with torch.no_grad():
        network(inputs(4))
    return network.eval(), inputs, exported(network, inputs(2))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_answers_as_torch_and_onnx_runtime_do(
    model: tuple[nn.Module, Callable[[int], torch.Tensor], bytes], threads: int
) -> None:
    network, inputs, data = model
    session = moptcore.Session(data, threads=threads)
    peer = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for batch in (1, 3, 1, 3):
        x = inputs(batch)
        with torch.no_grad():
            expected = network(x).numpy()
        got = session.run({"x": x.numpy()})["y"]
        assert got.dtype == np.float32
        # A few layers of sums of up to 600 products each, in another order: about
        # sqrt(600) * 2^-24 * 2 of the largest sum for each.
        scale = 2e-5 * np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=scale)
        np.testing.assert_allclose(got, peer.run(None, {"x": x.numpy()})[0], rtol=0, atol=scale)


def test_inputs_and_outputs_are_described() -> None:
    session = moptcore.Session(exported(residual_network(), images(2)))
    (x,) = session.inputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", ("N", 3, 32, 32))
    (y,) = session.outputs
    assert (y.name, y.dtype, y.shape) == ("y", "float32", ("N", 10))


def test_a_session_opens_paths_bytes_and_models(tmp_path: Path) -> None:
    data = exported(residual_network(), images(2))
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    x = images(1).numpy()
    answers = [
        moptcore.Session(source, threads=1).run({"x": x})["y"]
        for source in (path, str(path), data, moptcore.graph.load(path))
    ]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


def test_a_session_reads_weights_in_files_of_their_own(tmp_path: Path) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    x = np.ones((2, 4), np.float32)
    for session in (
        moptcore.Session(path),
        moptcore.Session(path.read_bytes(), external_directory=tmp_path),
    ):
        np.testing.assert_array_equal(session.run({"x": x})["y"], x @ weights)
        expected = "<moptcore.Session (<x: float32('N', 4)>) -> (<y: float32('N', 3)>)>"
        assert repr(session) == expected
    with pytest.raises(moptcore.UnsupportedError, match="external_directory"):
        moptcore.Session(path.read_bytes())


def test_arrays_of_any_framework_and_any_strides_are_read() -> None:
    session = moptcore.Session(exported(residual_network(), images(2)), threads=1)
    x = images(2)
    expected = session.run({"x": x.numpy()})["y"]
    np.testing.assert_array_equal(session.run({"x": x})["y"], expected)
    last = x.contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(session.run({"x": last.numpy()})["y"], expected)
    np.testing.assert_array_equal(session.run({"x": last})["y"], expected)
    padded = np.zeros((2, 3, 32, 40), np.float32)
    padded[..., :32] = x.numpy()
    np.testing.assert_array_equal(session.run({"x": padded[..., :32]})["y"], expected)


def test_results_are_the_caller_s_to_change() -> None:
    session = moptcore.Session(exported(residual_network(), images(2)), threads=1)
    x = images(1).numpy()
    first = session.run({"x": x})["y"]
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(session.run({"x": x})["y"], kept)
    assert first.min() == first.max() == -1


def test_wrong_inputs_are_named() -> None:
    session = moptcore.Session(exported(residual_network(), images(2)))
    with pytest.raises(
        moptcore.Error, match="every input must be given, what is missing is, got x"
    ):
        session.run({})
    with pytest.raises(moptcore.Error, match=r"input 'x' must have shape \(N, 3, 32, 32\)"):
        session.run({"x": np.zeros((1, 3, 31, 32), np.float32)})
    with pytest.raises(moptcore.DTypeError, match="input 'x' must be float32, got float64"):
        session.run({"x": np.zeros((1, 3, 32, 32))})
    with pytest.raises(
        moptcore.Error, match=r"inputs must be ones that the model has \(x\), got z"
    ):
        session.run({"z": images(1).numpy()})
    with pytest.raises(moptcore.DTypeError, match="names of inputs must be strings, got 0"):
        session.run({0: images(1).numpy()})
    with pytest.raises(moptcore.Error, match=r"threads must be in \[1, 1024\] or None, got 10000"):
        moptcore.Session(exported(residual_network(), images(2)), threads=10000)


def test_loops_and_tensors_have_limits() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Add", ["x", "x"], ["twice"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None]),
        ],
        [
            helper.make_tensor_value_info("still", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("twice", onnx.TensorProto.FLOAT, [None]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)],
        "graph",
        [
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None]),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model = model.SerializeToString()
    given = {"go": np.array(True), "x": np.zeros(64, np.float32)}
    with pytest.raises(moptcore.Error, match=r"at most 1000 steps \(max_steps\)"):
        moptcore.Session(model, max_steps=1000).run(given)
    with pytest.raises(moptcore.Error, match=r"at most 100 bytes \(max_bytes\)"):
        moptcore.Session(model, max_bytes=100, max_steps=1000).run(given)


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(moptcore.UnsupportedError, match=r"\[runtime.Session\].*tflite"):
        moptcore.Session("model.tflite")
    with pytest.raises(moptcore.UnsupportedError, match=r"\[runtime.Session\].*safetensors"):
        moptcore.Session(tmp_path / "model.safetensors")
    with pytest.raises(moptcore.FormatError):
        moptcore.Session(b"no model")
    with pytest.raises(moptcore.Error, match=r"threads must be in \[1, 1024\] or None, got 0"):
        moptcore.Session(exported(residual_network(), images(2)), threads=0)


def test_sessions_run_in_several_python_threads() -> None:
    session = moptcore.Session(exported(residual_network(), images(2)), threads=1)
    inputs = [images(1 + i % 2).numpy() for i in range(8)]
    expected = [session.run({"x": x})["y"] for x in inputs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(10):
            if not np.array_equal(session.run({"x": inputs[i]})["y"], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def run_and_report(session: object, x: np.ndarray, queue: multiprocessing.Queue) -> None:
    queue.put(session.run({"x": x})["y"])  # type: ignore[attr-defined]


def test_a_session_works_in_a_forked_child() -> None:
    session = moptcore.Session(exported(residual_network(), images(2)), threads=2)
    x = images(2).numpy()
    expected = session.run({"x": x})["y"]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=run_and_report, args=(session, x, queue))
    child.start()
    got = queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0
    # One thread instead of two may add in another order.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_profile_is_a_table_and_a_trace() -> None:
    session = moptcore.Session(exported(residual_network(), images(2)))
    profile = session.profile({"x": images(1).numpy()}, runs=3)
    assert any(row.operation == "Conv+Add+Relu" for row in profile.rows)
    assert all(row.milliseconds >= 0 for row in profile.rows)
    assert "Conv+Add+Relu" in str(profile)
    events = json.loads(profile.chrome_trace())["traceEvents"]
    assert len(events) == len(profile.rows)
    assert all(event["ph"] == "X" and event["dur"] >= 0 for event in events)
