# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import moptcore
import moptcore.torch as mct
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from python.torch_networks import PATTERNS, networks, trained
from torch import nn
from torch.nn import functional as F  # noqa: N812

NETWORKS = sorted(networks())


pytestmark = pytest.mark.usefixtures("one_thread")


def run(path: Path, *inputs: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path.as_posix(), options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


def prepared(name: str, steps: int = 6) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    model, shape = networks()[name]
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape))
    trained(qmodel, shape, steps)
    return qmodel.eval(), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_file_gives_what_evaluation_gave_at_any_batch_size(name: str, tmp_path: Path) -> None:
    qmodel, shape = prepared(name)
    path = mct.export_onnx(qmodel, torch.randn(2, *shape), tmp_path / "q.onnx")
    onnx.checker.check_model(path.as_posix(), full_check=True)
    head = next(step.target[0] for step in reversed(qmodel.program.steps) if step.kind == "layer")
    # Integer sums are exact, so both sides differ by float rounding alone, unless a value lies so
    # near a tie that this rounding moves it to the next integer. Then inputs of the last layer
    # are off by one step, which moves a logit by at most a step times its row of weights.
    step = head._source[0].scale.item()
    folded = head.folded()
    row = (folded.weight.float().abs().sum(1) * folded.scale).numpy()
    for batch in (1, 3, 32):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            expected = qmodel(x).numpy()
        (got,) = run(path, x)
        difference = np.abs(got - expected)
        assert (difference <= step * row + 1e-5).all()
        # float32 of a sum of up to 64 products that are exact integers times two scales: 4 ulp.
        near = difference <= 4 * np.finfo(np.float32).eps * np.abs(expected).max()
        assert near.mean() > 0.9


@pytest.mark.parametrize("name", NETWORKS)
def test_float_file_gives_what_the_module_gave(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, shape = networks()[name]
    trained(model, shape, 2)
    model.eval()
    path = mct.export_onnx(model, torch.randn(2, *shape), tmp_path / "f.onnx")
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = model(x).numpy()
    # Sums of up to 500 products in another order: eps * sqrt(500) * a few layers.
    np.testing.assert_allclose(run(path, x)[0], expected, rtol=1e-4, atol=2e-5)


def test_weights_are_int8_and_zeros_stay_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, shape = networks()["residual"]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= torch.rand_like(parameter) > 0.8
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape))
    path = mct.export_onnx(qmodel, torch.randn(1, *shape), tmp_path / "q.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert stored[name].dtype == np.int8
            assert (
                np.array_equal(stored[name] == 0, parameter.detach().numpy() == 0)
                or ((stored[name] == 0) >= (parameter.detach().numpy() == 0)).all()
            )
    floats = [name for name, value in stored.items() if value.dtype == np.float32]
    assert all(name.endswith("_scale") for name in floats)


def test_int8_file_is_at_most_28_percent_of_the_float_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    example = torch.randn(2, 1, 16, 16)
    assert sum(p.numel() for p in model.parameters()) > 200_000
    qmodel = mct.prepare_qat(model, example)
    small = mct.export_onnx(qmodel, example, tmp_path / "q.onnx").stat().st_size
    large = mct.export_onnx(model, example, tmp_path / "f.onnx").stat().st_size
    assert small <= 0.28 * large


@pytest.mark.parametrize(
    ("shape", "grouped"),
    [
        ((8, 12), False),
        ((9, 5, 3, 3), False),
        ((9, 5, 3, 3), True),
        ((8, 3, 3, 3), False),
        ((8, 1, 3, 3), True),
        ((8, 6, 1, 1), False),
        ((8, 6, 1, 1), True),
        ((6, 7, 5), False),
        ((4, 4, 2, 2, 2), False),
    ],
)
def test_extreme_weights_and_inputs_do_not_saturate(
    shape: tuple[int, ...], grouped: bool, tmp_path: Path
) -> None:
    # Without VNNI, runtimes add two products of uint8 and int8 in 16 bits: 255 * (127 + 127)
    # would stop at 32767.
    torch.manual_seed(0)
    dims = len(shape) - 2
    if dims == 0:
        layer: nn.Module = nn.Linear(shape[1], shape[0])
    else:
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        groups = shape[0] if grouped else 1
        layer = conv(shape[1] * groups, shape[0], shape[2:], groups=groups)
    with torch.no_grad():
        layer.weight.copy_(torch.where(torch.rand_like(layer.weight) < 0.8, 1.0, -1.0))
    model = nn.Sequential(layer, nn.Flatten())
    x = torch.rand(4, *([layer.weight.shape[1] * getattr(layer, "groups", 1)] + [6] * dims)) > 0.2
    x = x.float()
    qmodel = mct.prepare_qat(model, x).eval()
    path = mct.export_onnx(qmodel, x, tmp_path / "q.onnx")
    with torch.no_grad():
        expected = qmodel(x).numpy()
    # Saturation would lose tens of steps; a tie at the output at most one.
    step = np.abs(expected).max() / 127
    np.testing.assert_allclose(run(path, x)[0], expected, atol=step, rtol=0)


def test_names_batch_and_several_inputs_and_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            a, b = self.a(left), self.b(right)
            return {"sum": a + b, "pair": (a, F.relu(b))}

    model = Two()
    example = (torch.randn(2, 4), torch.randn(2, 5))
    for each in (model, mct.prepare_qat(model, example).eval()):
        path = mct.export_onnx(
            each,
            example,
            tmp_path / "m.onnx",
            input_names=["p", "q"],
            output_names=["s", "a", "b"],
        )
        graph = onnx.load(path).graph
        assert [i.name for i in graph.input] == ["p", "q"]
        assert [o.name for o in graph.output] == ["s", "a", "b"]
        assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        inputs = (torch.randn(7, 4), torch.randn(7, 5))
        with torch.no_grad():
            expected = each(*inputs)
        leaves = (expected["sum"], *expected["pair"])
        for got, want in zip(run(path, *inputs), leaves, strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    fixed = mct.export_onnx(model, example, tmp_path / "fixed.onnx", dynamic_batch=False)
    assert onnx.load(fixed).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    with pytest.raises(moptcore.Error, match="output_names must be 3 names that differ"):
        mct.export_onnx(model, example, tmp_path / "m.onnx", output_names=["one"])


def test_all_operations_without_a_form_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.up = nn.LocalResponseNorm(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.up(self.fc(x).unsqueeze(-1)), 1)

    qmodel = mct.prepare_qat(Odd(), torch.randn(2, 4))
    with pytest.raises(moptcore.UnsupportedError, match=r"LocalResponseNorm \(up\), cumsum"):
        mct.export_onnx(qmodel, torch.randn(2, 4), tmp_path / "odd.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    model, example = nn.Sequential(nn.Linear(4, 2)), torch.randn(2, 4)
    with pytest.raises(moptcore.Error, match="path must be in an existing directory, got"):
        mct.export_onnx(model, example, tmp_path / "no" / "m.onnx")
    with pytest.raises(moptcore.Error, match="path must be a file, got the directory"):
        mct.export_onnx(model, example, tmp_path)
    with pytest.raises(moptcore.Error, match=r"opset must be in \[13, 21\], got 9"):
        mct.export_onnx(model, example, tmp_path / "m.onnx", opset=9)
    with pytest.raises(TypeError, match="example must be a tensor"):
        mct.export_onnx(model, "example", tmp_path / "m.onnx")
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        mct.export_onnx("model", example, tmp_path / "m.onnx")


def test_accuracy_in_the_runtime_is_that_of_evaluation(tmp_path: Path) -> None:
    # Blobs that overlap, so that many samples lie near a decision boundary.
    torch.manual_seed(0)
    centres = torch.randn(10, 1, 8, 8)
    labels = torch.randint(0, 10, (3000,))
    x = centres[labels] + 2.0 * torch.randn(3000, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    qmodel = mct.prepare_qat(model, x[:8])
    optimizer = torch.optim.SGD(qmodel.parameters(), 0.05, momentum=0.9)
    for start in range(0, 1000, 50):
        batch = slice(start, start + 50)
        optimizer.zero_grad()
        F.cross_entropy(qmodel(x[batch]), labels[batch]).backward()
        optimizer.step()
    qmodel.eval()
    path = mct.export_onnx(qmodel, x[:1], tmp_path / "q.onnx")
    test, truth = x[1000:], labels[1000:].numpy()
    with torch.no_grad():
        seen = (qmodel(test).argmax(1).numpy() == truth).mean()
    deployed = (run(path, test)[0].argmax(1) == truth).mean()
    assert 0.3 < seen < 0.999
    assert abs(deployed - seen) <= 0.002


def test_a_float_operation_unknown_here_goes_through_torch(tmp_path: Path) -> None:
    class Cumulative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(self.fc(x), 1)

    model = Cumulative().eval()
    path = mct.export_onnx(
        model, torch.randn(2, 4), tmp_path / "m.onnx", input_names=["x"], output_names=["y"]
    )
    x = torch.randn(5, 4)
    with torch.no_grad():
        np.testing.assert_allclose(run(path, x)[0], model(x).numpy(), atol=1e-5)


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_every_opset_gives_the_same_result(opset: int, tmp_path: Path) -> None:
    qmodel, shape = prepared("separable", 1)
    path = mct.export_onnx(qmodel, torch.randn(2, *shape), tmp_path / "q.onnx", opset=opset)
    model = onnx.load(path)
    assert model.opset_import[0].version == opset
    x = torch.randn(4, *shape)
    with torch.no_grad():
        np.testing.assert_allclose(run(path, x)[0], qmodel(x).numpy(), atol=1e-2)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mct.export_onnx(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "m.onnx")
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        mct.export_onnx(nn.Linear(4, 3), torch.randn(2, 4), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("exclude", [["stem", "head"], ["one.*"], ["two.conv2"]])
def test_layers_left_in_float_agree_too(exclude: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, shape = networks()["residual"]
    qmodel = mct.prepare_qat(model, torch.randn(4, *shape), exclude=exclude)
    trained(qmodel, shape, 3)
    qmodel.eval()
    assert not all(row.done for row in qmodel.coverage)
    path = mct.export_onnx(qmodel, torch.randn(2, *shape), tmp_path / "q.onnx")
    x = torch.randn(8, *shape)
    with torch.no_grad():
        expected = qmodel(x).numpy()
    # One rounding that falls to the other side of a tie moves a logit by far less than 2 %.
    np.testing.assert_allclose(run(path, x)[0], expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("network", PATTERNS)
def test_patterns_of_larger_networks_agree_with_the_runtime(
    network: type[nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = network()
    qmodel = mct.prepare_qat(model, torch.randn(2, 3, 8, 8))
    for _ in range(2):
        qmodel(torch.randn(8, 3, 8, 8))
    qmodel.eval()
    x = torch.randn(6, 3, 8, 8)
    for each in (qmodel, mct.strip(qmodel)):
        path = mct.export_onnx(each, x[:1], tmp_path / "m.onnx")
        with torch.no_grad():
            expected = each(x).numpy()
        # Float rounding, or one integer that falls to the other side of a tie.
        np.testing.assert_allclose(run(path, x)[0], expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("prepare", [False, True])
def test_padding_and_transposed_convolutions_agree_with_the_runtime(
    mode: str, prepare: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Conv2d(2, 4, (3, 5), padding=(1, 2), padding_mode=mode),
        nn.ReLU(),
        nn.Conv2d(4, 4, (2, 4), padding="same", padding_mode=mode),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(6, 3, 1),
    )
    x = torch.randn(2, 2, 6, 8)
    if prepare:
        model = mct.prepare_qat(model, x)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    (found,) = run(mct.export_onnx(model, x, tmp_path / "model.onnx"), x)
    # Float sums in another order: 1e-5 of the output's size; int8: one level of what the last
    # layer reads, on each of its 6 weights of less than 0.5, where a tie rounds the other way.
    limit = 1e-5 * max(1.0, float(np.abs(expected).max()))
    if prepare:
        limit += 3 * max(float(m.scale) for m in model._quant.values() if hasattr(m, "low"))
    assert np.abs(found - expected).max() <= limit


def test_compiled_modules_export_as_what_they_wrap(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.randn(2, 4)
    for each in (model, mct.prepare_qat(model, x).eval()):
        wrapped = torch.compile(each, backend="eager")
        plain = mct.export_onnx(each, x, tmp_path / "plain.onnx").read_bytes()
        assert mct.export_onnx(wrapped, x, tmp_path / "wrapped.onnx").read_bytes() == plain
    with pytest.raises(TypeError, match="path must be a str or a path, got NoneType"):
        mct.export_onnx(model, x, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="opset must be an integer, got '17'"):
        mct.export_onnx(model, x, tmp_path / "x.onnx", opset="17")  # type: ignore[arg-type]
